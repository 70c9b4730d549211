"""The config of a FLUX.1 transformer, and how its parameters are split over ranks."""

import attrs

from pure.models.common import placements as split
from pure.models.common.config import HeadsConfig
from pure.sharding import Part, Sharding


@attrs.frozen(kw_only=True)
class FluxConfig(HeadsConfig):
    """The arguments of diffusers' `FluxTransformer2DModel`."""

    transformer = "FluxTransformer2DModel"

    patch_size: int = 1
    in_channels: int = 64
    out_channels: int | None = None
    num_layers: int = 19
    num_single_layers: int = 38
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 4096
    pooled_projection_dim: int = 768
    guidance_embeds: bool = False
    axes_dims_rope: tuple[int, ...] = (16, 56, 56)


def sharding(config: FluxConfig) -> Sharding:
    """Return how the parameters are split over ranks.

    >>> sharding(FluxConfig()).find("single_transformer_blocks.7.proj_out.weight").parts
    (Part(count=24, width=128), Part(count=12288, width=1))
    """
    heads = config.heads
    inner = (Part(split.WIDENING * heads.features),)
    return Sharding(heads.count, split.double(heads, inner, inner) + split.single(heads, inner, inner))

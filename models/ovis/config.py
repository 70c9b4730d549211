"""The config of an Ovis-Image transformer, and how its parameters are split over ranks."""

import attrs

from pure.models.common import placements as split
from pure.models.common.config import HeadsConfig
from pure.sharding import Part, Sharding


@attrs.frozen(kw_only=True)
class OvisConfig(HeadsConfig):
    """The arguments of diffusers' `OvisImageTransformer2DModel`."""

    transformer = "OvisImageTransformer2DModel"

    patch_size: int = 1
    in_channels: int = 64
    out_channels: int | None = 64
    num_layers: int = 6
    num_single_layers: int = 27
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 2048
    axes_dims_rope: tuple[int, ...] = (16, 56, 56)


def sharding(config: OvisConfig) -> Sharding:
    """Return how the parameters are split over ranks.

    >>> sharding(OvisConfig()).find("transformer_blocks.0.ff.net.0.proj.weight").parts
    (Part(count=12288, width=1), Part(count=12288, width=1))
    """
    heads = config.heads
    inner = Part(split.WIDENING * heads.features)
    wide = (inner, inner)  # of which the second gates the first
    return Sharding(heads.count, split.double(heads, (inner,), wide) + split.single(heads, (inner,), wide))

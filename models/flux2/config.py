"""The config of a FLUX.2 transformer, and how its parameters are split over ranks."""

import attrs

from pure.models.common.config import HeadsConfig
from pure.models.common.placements import feeds, placements
from pure.models.errors import CheckpointError
from pure.sharding import Part, Sharding

EPSILON = 1e-6  # of every normalisation, in every published checkpoint


@attrs.frozen(kw_only=True)
class Flux2Config(HeadsConfig):
    """The arguments of diffusers' `Flux2Transformer2DModel`."""

    transformer = "Flux2Transformer2DModel"
    axis_count = 4

    patch_size: int = 1
    in_channels: int = 128
    out_channels: int | None = None
    num_layers: int = 8
    num_single_layers: int = 48
    attention_head_dim: int = 128
    num_attention_heads: int = 48
    joint_attention_dim: int = 15360
    timestep_guidance_channels: int = 256
    mlp_ratio: float = 3.0
    axes_dims_rope: tuple[int, ...] = (32, 32, 32, 32)
    rope_theta: float = 2000.0
    eps: float = EPSILON
    guidance_embeds: bool = True

    def check(self) -> None:
        """Refuse what is not implemented; see the base."""
        super().check()
        if self.eps != EPSILON:
            raise CheckpointError(f"eps is {self.eps}, which is not implemented; it must be {EPSILON}")
        if self.timestep_guidance_channels % 2:
            raise CheckpointError(
                f"timestep_guidance_channels {self.timestep_guidance_channels} must be even: sines and cosines come "
                "in pairs"
            )


def sharding(config: Flux2Config) -> Sharding:
    """Return how the parameters are split over ranks.

    >>> sharding(Flux2Config()).find("single_transformer_blocks.7.attn.to_out.weight").parts
    (Part(count=48, width=128), Part(count=18432, width=1))
    """
    heads = config.heads
    inner = Part(int(heads.features * config.mlp_ratio))
    double = placements(
        "transformer_blocks.*.",
        column={"attn.to_[qkv]": (heads,), "attn.add_[qkv]_proj": (heads,), **feeds("linear_in", (inner, inner))},
        row={"attn.to_out.0": (heads,), "attn.to_add_out": (heads,), **feeds("linear_out", (inner,))},
    )
    single = placements(
        "single_transformer_blocks.*.",
        column={"attn.to_qkv_mlp_proj": (heads, heads, heads, inner, inner)},
        row={"attn.to_out": (heads, inner)},
    )
    return Sharding(heads.count, double + single)

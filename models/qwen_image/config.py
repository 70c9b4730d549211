"""The config of a Qwen-Image transformer, and how its parameters are split over ranks."""

from collections.abc import Mapping

import attrs

from pure.models.common.config import HeadsConfig
from pure.models.common.placements import WIDENING, placements
from pure.models.errors import CheckpointError
from pure.sharding import Part, Sharding

LAYERED = (
    "it belongs to Qwen-Image-Layered, which makes several layers at once; load Qwen-Image, Qwen-Image-Edit, -2509 "
    "or -2511"
)
REFUSED: Mapping[str, str] = {
    "guidance_embeds": "this class has no parameters to embed a guidance scale with; set it to false and use "
    "classifier-free guidance",
    "use_layer3d_rope": LAYERED,
    "use_additional_t_cond": LAYERED,
}


@attrs.frozen(kw_only=True)
class QwenImageConfig(HeadsConfig):
    """The arguments of diffusers' `QwenImageTransformer2DModel`."""

    transformer = "QwenImageTransformer2DModel"
    ignored = ("pooled_projection_dim",)  # the first checkpoints set it

    patch_size: int = 2
    in_channels: int = 64
    out_channels: int | None = 16
    num_layers: int = 60
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 3584
    guidance_embeds: bool = False
    axes_dims_rope: tuple[int, ...] = (16, 56, 56)
    zero_cond_t: bool = False
    use_additional_t_cond: bool = False
    use_layer3d_rope: bool = False

    def check(self) -> None:
        """Refuse what is not implemented, and sizes that do not fit together; see the base."""
        for option, reason in REFUSED.items():
            if getattr(self, option):
                raise CheckpointError(f"{option} is set, which is not implemented: {reason}")
        super().check()


def sharding(config: QwenImageConfig) -> Sharding:
    """Return how the parameters are split over ranks.

    >>> sharding(QwenImageConfig()).find("transformer_blocks.7.attn.to_add_out.weight").parts
    (Part(count=24, width=128),)
    """
    heads = (config.heads,)
    inner, modulations = (Part(WIDENING * config.heads.features),), (Part(6 * config.heads.features),)
    streams = ("img", "txt")
    column = {f"{stream}_mlp.net.0.proj": inner for stream in streams}
    row = {f"{stream}_mlp.net.2": inner for stream in streams}
    blocks = placements(
        "transformer_blocks.*.",
        column={"attn.to_[qkv]": heads, "attn.add_[qkv]_proj": heads, **column},
        row={"attn.to_out.0": heads, "attn.to_add_out": heads, **row},
        gathered={f"{stream}_mod.1": modulations for stream in streams},
    )
    return Sharding(config.heads.count, blocks)

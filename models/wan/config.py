"""The config of a Wan transformer, and how its parameters are split over ranks.

One class serves Wan 2.1 (text and image to video), both experts of Wan 2.2 A14B, and TI2V-5B.
"""

import attrs

from pure.models.common.config import HeadsConfig
from pure.models.common.placements import placements
from pure.models.errors import CheckpointError
from pure.sharding import Part, Sharding

NORM = "rms_norm_across_heads"
# Checkpoints of Wan 2.1 image-to-video store a norm that nothing reads.
UNREAD = ("norm_added_q",)
# Parts of names whose tensors diffusers keeps in fp32 when it loads a checkpoint in a narrower type.
IN_FP32 = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")


@attrs.frozen(kw_only=True)
class WanConfig(HeadsConfig):
    """The arguments of diffusers' `WanTransformer3DModel`."""

    transformer = "WanTransformer3DModel"

    patch_size: tuple[int, ...] = (1, 2, 2)
    num_attention_heads: int = 40
    attention_head_dim: int = 128
    in_channels: int = 16
    out_channels: int | None = 16
    text_dim: int = 4096
    freq_dim: int = 256
    ffn_dim: int = 13824
    num_layers: int = 40
    cross_attn_norm: bool = True
    qk_norm: str | None = NORM
    eps: float = 1e-6
    image_dim: int | None = None
    added_kv_proj_dim: int | None = None
    rope_max_seq_len: int = 1024
    pos_embed_seq_len: int | None = None

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latents on the sides of a token: frames, rows, columns."""
        frames, rows, columns = self.patch_size
        return frames, rows, columns

    @property
    def axes(self) -> tuple[int, int, int]:
        """Features of a head that say frame, row and column.

        >>> WanConfig().axes
        (44, 42, 42)
        """
        side = 2 * (self.attention_head_dim // 6)
        return self.attention_head_dim - 2 * side, side, side

    def check(self) -> None:
        """Refuse what is not implemented, and settings that contradict each other; see the base."""
        width, added = self.heads.features, self.added_kv_proj_dim
        if len(self.patch_size) != 3:
            raise CheckpointError(f"patch_size {self.patch_size} should be three numbers: frames, rows, columns")
        if self.attention_head_dim % 2:
            raise CheckpointError(f"attention_head_dim {self.attention_head_dim} is odd; positions rotate pairs")
        if self.freq_dim % 2:
            raise CheckpointError(f"freq_dim {self.freq_dim} is odd; a timestep becomes pairs of sine and cosine")
        if self.qk_norm != NORM:
            raise CheckpointError(f"qk_norm {self.qk_norm!r} is not implemented; supported is {NORM!r}")
        if (self.image_dim is None) != (added is None):
            raise CheckpointError(
                f"image_dim {self.image_dim} and added_kv_proj_dim {added} contradict each other: "
                "blocks attend to an image if it is embedded; set both or neither"
            )
        if added not in (None, width):
            raise CheckpointError(
                f"added_kv_proj_dim {added} must be the width {width} (num_attention_heads x attention_head_dim), "
                "in which the image is embedded"
            )
        if self.pos_embed_seq_len is not None and added is None:
            raise CheckpointError(
                f"pos_embed_seq_len {self.pos_embed_seq_len} belongs to an embedded image, and image_dim is null"
            )


def sharding(config: WanConfig) -> Sharding:
    """Return how the parameters are split over ranks.

    Queries and keys are normalised over all heads, for which the ranks add one number per token.

    >>> sharding(WanConfig()).find("blocks.7.attn1.norm_q.weight").parts
    (Part(count=40, width=128),)
    """
    heads, inner = (config.heads,), (Part(config.ffn_dim),)
    blocks = placements(
        "blocks.*.",
        column={"attn[12].to_[qkv]": heads, "attn2.add_[kv]_proj": heads, "ffn.net.0.proj": inner},
        row={"attn[12].to_out.0": heads, "ffn.net.2": inner},
        norm={"attn[12].norm_[qk]": heads, "attn2.norm_added_k": heads},
    )
    return Sharding(config.heads.count, blocks)

"""The config of a HunyuanVideo transformer, and how its parameters are split over ranks."""

import attrs

from pure.models.common import placements as split
from pure.models.common.config import HeadsConfig
from pure.models.errors import CheckpointError
from pure.sharding import Part, Sharding

TEXT, CONCAT, REPLACE = None, "latent_concat", "token_replace"


@attrs.frozen(kw_only=True)
class HunyuanVideoConfig(HeadsConfig):
    """The arguments of diffusers' `HunyuanVideoTransformer3DModel`."""

    transformer = "HunyuanVideoTransformer3DModel"
    rotary = "rope_axes_dim"

    in_channels: int = 16
    out_channels: int | None = 16
    num_attention_heads: int = 24
    attention_head_dim: int = 128
    num_layers: int = 20
    num_single_layers: int = 40
    num_refiner_layers: int = 2
    mlp_ratio: float = 4.0
    patch_size: int = 2
    patch_size_t: int = 1
    qk_norm: str = "rms_norm"
    guidance_embeds: bool = True
    text_embed_dim: int = 4096
    pooled_projection_dim: int = 768
    rope_theta: float = 256.0
    rope_axes_dim: tuple[int, ...] = (16, 56, 56)
    image_condition_type: str | None = TEXT

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latents on the sides of a token: frames, rows, columns."""
        return self.patch_size_t, self.patch_size, self.patch_size

    def check(self) -> None:
        """Refuse what is not implemented, and settings that contradict each other; see the base."""
        super().check()
        kind, out = self.image_condition_type, self.channels
        if self.qk_norm != "rms_norm":
            raise CheckpointError(f"qk_norm is {self.qk_norm!r}; implemented is 'rms_norm', which all checkpoints have")
        if kind not in (TEXT, CONCAT, REPLACE):
            raise CheckpointError(
                f"image_condition_type is {kind!r}; implemented are None (text to video), {CONCAT!r} and {REPLACE!r}"
            )
        # The image's latents and a mask beside the latents, or nothing.
        wanted = 2 * out + 1 if kind == CONCAT else out
        if self.in_channels != wanted:
            raise CheckpointError(
                f"in_channels is {self.in_channels}; with out_channels {out} and image_condition_type {kind!r} "
                f"it must be {wanted}: a prediction has the shape of the latents"
            )
        if kind == REPLACE and self.patch_size_t != 1:
            raise CheckpointError(
                f"patch_size_t is {self.patch_size_t}; with image_condition_type {kind!r} it must be 1: "
                "the image takes the place of one frame"
            )


def sharding(config: HunyuanVideoConfig) -> Sharding:
    """Return how the parameters are split over ranks: of all blocks, those of the text refiner too.

    >>> sharding(HunyuanVideoConfig()).find("context_embedder.token_refiner.refiner_blocks.0.ff.net.2.weight").parts
    (Part(count=12288, width=1),)
    """
    heads = config.heads
    inner, wide = (Part(int(heads.features * config.mlp_ratio)),), (Part(split.WIDENING * heads.features),)
    refiner = split.placements(
        "context_embedder.token_refiner.refiner_blocks.*.",
        column={"attn.to_[qkv]": (heads,), "ff.net.0.proj": wide},
        row={"attn.to_out.0": (heads,), "ff.net.2": wide},
        gathered={"norm_out.linear": (Part(2 * heads.features),)},
    )
    return Sharding(heads.count, split.double(heads, inner, inner) + split.single(heads, inner, inner) + refiner)

"""The Z-Image pipeline: turbo and base.

Shapes: B samples, P texts, T text tokens, C latent channels, h x w tokens of 2 x 2 latents.
"""

from collections.abc import Sequence
from typing import ClassVar

import attrs
import torch

from pure import Guidance
from pure.models.common import image
from pure.models.common.chat import ChatReader, check_width
from pure.models.common.image_pipeline import ImagePipeline
from pure.models.common.schedulers import flow_match
from pure.models.errors import CheckpointError
from pure.models.family import Description, Family, Parts, PipelineKind
from pure.models.pipeline import Pipeline
from pure.models.request import Defaults, Request
from pure.models.z_image.config import ZImageConfig
from pure.models.z_image.denoiser import MULTIPLE, Conditioning, padded, z_image

SIZE = 1024  # pixels on a side by default
TURBO_SHIFT = 3.0  # of turbo's schedule; base's is shifted by 6


@attrs.frozen(kw_only=True, eq=False)
class ZImagePipeline(ImagePipeline):
    """Z-Image: guided by a negative prompt where `guidance_scale` is above 0.

    Its scale s counts from the conditional prediction, v = v+ + s (v+ - v-): that of `pure.Guidance`
    is s + 1. What diffusers calls `cfg_truncation` c and `cfg_normalization` n is the transform
    `guided(scale=s + 1, lowest_sigma=1 - c, normalize="sample", cap=n)`.
    """

    reader: ChatReader = attrs.field(repr=False)

    cfg: ClassVar[str] = "guidance_scale"
    fp32: ClassVar[bool] = True

    def condition(self, request: Request, texts: Sequence[str], negative: bool) -> Conditioning:
        """Return embeddings (P, T, width) and their lengths (P,); T is as large as the model may read."""
        hidden, mask = self.reader(texts, request.max_sequence_length)
        places = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
        # What pads comes last, whatever side the tokenizer pads on.
        order = torch.where(mask, places, places + mask.shape[1]).argsort(dim=1)
        text = torch.where(mask[..., None], hidden, 0).gather(1, order[..., None].expand(hidden.shape))
        return Conditioning(
            text=text.to(self.device, self.dtype),
            lengths=mask.sum(dim=1).to(self.device),
            grid=self.grid(request),
        )

    def completed(self, request: Request, branches: Sequence[Conditioning]) -> Sequence[Conditioning]:
        """Return the conditioning, both branches cut to the longest of their texts."""
        lengths = {length for branch in branches if branch.lengths is not None for length in branch.lengths.tolist()}
        ragged = len({padded(length) for length in lengths}) > 1
        return [attrs.evolve(branch, text=branch.text[:, : max(lengths)], ragged=ragged) for branch in branches]

    def guidance(self, request: Request) -> Guidance | None:
        """Return the classifier-free guidance of a request; a scale of 0 is off."""
        scale = self.scale(request, self.cfg) or 0.0
        return Guidance(scale=1.0 + scale) if scale > 0 else None

    def unguided(self, scale: float | None, negative: bool) -> str | None:
        """Return what has no effect where guidance is off, as a sentence."""
        if negative:
            return "the negative prompt has no effect: set guidance_scale above 0"
        return f"guidance_scale={scale} has no effect: it must be above 0" if scale is not None and scale < 0 else None

    def decoded(self, latents: torch.Tensor, request: Request) -> torch.Tensor:
        """Decode latents (B, C, 2h, 2w) to pixels (B, 3, H, W) in 0 to 1."""
        return self.codec.decode(latents.to(self.codec.vae.dtype))


def _defaults(found: Description) -> Defaults:
    """Turbo and base differ in the shift of the schedule, and in the values of their weights."""
    # Positions of text begin at 1, and the image lies behind its end.
    longest = (ZImageConfig.read(found.transformer).axes_lens[0] - 2) // MULTIPLE * MULTIPLE
    own = {"max_sequence_length": min(512, longest), "longest": longest, "height": SIZE, "width": SIZE}
    if found.configs["scheduler"].get("shift", 1.0) == TURBO_SHIFT:
        return Defaults(steps=9, guidance_scale=0.0, negative_prompt="", **own)
    return Defaults(steps=50, guidance_scale=5.0, negative_prompt="", **own)


def _check(found: Description) -> None:
    config = ZImageConfig.read(found.transformer)
    latent = found.configs["vae"].get("latent_channels", 4)
    if latent != config.in_channels:
        raise CheckpointError(
            f"{found.folder}: the transformer has {config.in_channels} channels and the VAE {latent}; they should agree"
        )
    check_width(found, config.cap_feat_dim, "cap_feat_dim")


def _build(parts: Parts) -> Pipeline:
    template = {"add_generation_prompt": True, "enable_thinking": True}
    reader = ChatReader(**parts.only("tokenizer", "text_encoder"), layers=(-2,), template=template)
    return ZImagePipeline(**parts.common, reader=reader, codec=image.ImageDecoder(parts.components["vae"]))


FAMILY = Family(
    name="Z-Image",
    config=ZImageConfig,
    denoiser=z_image,
    kinds=(
        PipelineKind(
            pipeline="ZImagePipeline",
            task="text-to-image",
            guidance=("classifier-free",),
            components={
                "vae": ("AutoencoderKL",),
                "text_encoder": ("Qwen3Model", "Qwen3ForCausalLM"),
                "tokenizer": ("Qwen2Tokenizer", "Qwen2TokenizerFast"),
            },
            solver=flow_match,
            defaults=_defaults,
            sizes=image.ImageDecoder.sizes_of,
            build=_build,
            check=_check,
            checkpoints=("Tongyi-MAI/Z-Image-Turbo", "Tongyi-MAI/Z-Image"),
        ),
    ),
)

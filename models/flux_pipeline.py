"""The FLUX.1 text-to-image pipeline.

Shapes: B samples, P texts, T text tokens, N image tokens, S = T + N, C channels of a token.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch

from pure import Shared, Solver
from pure.models import image
from pure.models.errors import CheckpointError
from pure.models.family import Description, Family, Kind, Parts
from pure.models.flux import Conditioning, flux
from pure.models.flux_parameters import CLASS, check_config, parameter_shapes
from pure.models.pipeline import Pipeline
from pure.models.request import Defaults, Request
from pure.models.schedulers import flow_match
from pure.models.text import TextEncoder

GUIDANCE_WEIGHT = "time_text_embed.guidance_embedder.linear_1.weight"


@attrs.frozen(kw_only=True, eq=False)
class FluxPipeline(Pipeline):
    """FLUX.1: guidance embedded (dev) or not (schnell), and classifier-free guidance on top.

    Attributes:
        encoder: turns prompts into embeddings.
        decoder: turns latents into pixels.
    """

    encoder: TextEncoder = attrs.field(repr=False)
    decoder: image.ImageDecoder = attrs.field(repr=False)

    def sized(self, request: Request) -> Request:
        """Return the request with its size; sides are multiples of a token's."""
        height, width = request.height or self.decoder.size, request.width or self.decoder.size
        self.decoder.grid(height, width)
        return attrs.evolve(request, height=height, width=width)

    def condition(self, request: Request, texts: Sequence[str], negative: bool) -> Conditioning:
        """Return embeddings (P, T, ...) and positions (S, 3)."""
        text, pooled = (
            embedding.to(self.device, self.dtype) for embedding in self.encoder(texts, request.max_sequence_length)
        )
        grid = self.decoder.grid(request.height, request.width)
        scales = None
        if GUIDANCE_WEIGHT in self.params:
            scales = torch.full((len(pooled),), float(self.value(request, "guidance_scale")), device=self.device)
        return Conditioning(
            text=text,
            pooled=pooled,
            guidance=scales,
            ids=Shared(value=image.positions(request.max_sequence_length, *grid).to(self.device)),
        )

    def shape(self, request: Request) -> tuple[int, ...]:
        """Return the shape of unpacked latents."""
        rows, columns = self.decoder.grid(request.height, request.width)
        channels = self.params["x_embedder.weight"].shape[1] // image.PATCH**2
        return channels, rows * image.PATCH, columns * image.PATCH

    def pack(self, noise: torch.Tensor) -> torch.Tensor:
        """Turn latents (B, C / 4, 2h, 2w) into tokens (B, N, C)."""
        return image.pack(noise)

    def tokens(self, request: Request) -> int:
        """Return N."""
        rows, columns = self.decoder.grid(request.height, request.width)
        return rows * columns

    def decoded(self, latents: torch.Tensor, request: Request) -> torch.Tensor:
        """Decode tokens (B, N, C) to pixels (B, 3, H, W) in 0 to 1."""
        return self.decoder(image.unpack(latents, *self.decoder.grid(request.height, request.width)))


def _solver(found: Description) -> Solver:
    return flow_match(found)


def _defaults(found: Description) -> Defaults:
    """FLUX.1-dev embeds guidance; FLUX.1-schnell neither does nor shifts its schedule."""
    size = found.configs["vae"].get("sample_size")
    if check_config(found.transformer)["guidance_embeds"]:
        return Defaults(steps=50, guidance_scale=3.5, true_cfg_scale=1.0, height=size, width=size)
    few = not found.configs["scheduler"].get("use_dynamic_shifting")
    return Defaults(steps=4 if few else 28, true_cfg_scale=1.0, height=size, width=size)


def _check(found: Description) -> None:
    settings: Mapping[str, Any] = check_config(found.transformer)
    channels, out = settings["in_channels"], settings["out_channels"] or settings["in_channels"]
    if out != channels or channels % 4 or settings["patch_size"] != 1:
        raise CheckpointError(
            f"{found.folder / 'transformer' / 'config.json'}: {channels} channels in, {out} out and patch_size "
            f"{settings['patch_size']}; text-to-image needs as many out as in, a multiple of 4, and patch_size 1"
        )


def _build(parts: Parts) -> Pipeline:
    encoders = {name: parts.components[name] for name in COMPONENTS if name != "vae"}
    return FluxPipeline(
        denoiser=parts.denoisers["transformer"],
        params=parts.params["transformer"],
        solver=parts.found.solver,
        defaults=parts.found.defaults,
        encoder=TextEncoder(**encoders),
        decoder=image.ImageDecoder(parts.components["vae"]),
    )


COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("T5EncoderModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("T5Tokenizer", "T5TokenizerFast"),
}
FAMILY = Family(
    name="FLUX.1",
    transformer=CLASS,
    denoiser=flux,
    shapes=parameter_shapes,
    kinds=(
        Kind(
            pipeline="FluxPipeline",
            task="text-to-image",
            guidance=("embedded", "classifier-free"),
            components=COMPONENTS,
            solver=_solver,
            defaults=_defaults,
            build=_build,
            check=_check,
            checkpoints=("black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell"),
        ),
    ),
)

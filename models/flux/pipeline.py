"""The FLUX.1 text-to-image pipeline.

Shapes: B samples, P texts, T text tokens, N image tokens, S = T + N, C channels of a token.
"""

from collections.abc import Mapping, Sequence

import attrs

from pure import Shared
from pure.models.common import image
from pure.models.common.image_pipeline import PackedPipeline, check_packed
from pure.models.common.schedulers import flow_match
from pure.models.errors import CheckpointError
from pure.models.family import Description, Family, Parts, PipelineKind
from pure.models.flux.config import FluxConfig
from pure.models.flux.denoiser import Conditioning, flux
from pure.models.flux.text import TextEncoder
from pure.models.guidance import embedded_scales
from pure.models.pipeline import Pipeline
from pure.models.request import Defaults, Request

LONGEST = 512  # text tokens that T5 reads
# Key of model_index.json with the default number of text tokens; diffusers leaves names with an underscore alone.
LENGTH = "_max_sequence_length"


@attrs.frozen(kw_only=True, eq=False)
class FluxPipeline(PackedPipeline):
    """FLUX.1: guidance embedded (dev) or not (schnell), and classifier-free guidance on top."""

    reader: TextEncoder = attrs.field(repr=False)

    def condition(self, request: Request, texts: Sequence[str], negative: bool) -> Conditioning:
        """Return embeddings (P, T, ...) and positions (S, 3)."""
        text, pooled = (
            embedding.to(self.device, self.dtype) for embedding in self.reader(texts, request.max_sequence_length)
        )
        positions = image.positions(request.max_sequence_length, *self.grid(request))
        return Conditioning(
            text=text,
            pooled=pooled,
            guidance=embedded_scales(self.params, self.scale(request, "guidance_scale"), len(pooled)),
            ids=Shared(value=positions.to(self.device)),
        )


def _defaults(found: Description) -> Defaults:
    """FLUX.1-dev embeds guidance; FLUX.1-schnell neither does nor shifts its schedule."""
    size, length = found.configs["vae"].get("sample_size"), found.index.get(LENGTH, LONGEST)
    if type(length) is not int or not 1 <= length <= LONGEST:
        raise CheckpointError(f"{found.folder / 'model_index.json'}: {LENGTH} is {length!r}, not 1 to {LONGEST}")
    own = {"true_cfg_scale": 1.0, "height": size, "width": size, "max_sequence_length": length, "longest": LONGEST}
    if FluxConfig.read(found.transformer).guidance_embeds:
        return Defaults(steps=50, guidance_scale=3.5, **own)
    few = not found.configs["scheduler"].get("use_dynamic_shifting")
    return Defaults(steps=4 if few else 28, **own)


def _check(found: Description) -> None:
    config = FluxConfig.read(found.transformer)
    check_packed(found, config, config.patch_size)


def _build(parts: Parts) -> Pipeline:
    reader = TextEncoder(**parts.only("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2"))
    return FluxPipeline(**parts.common, reader=reader, codec=image.ImageDecoder(parts.components["vae"]))


COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("T5EncoderModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("T5Tokenizer", "T5TokenizerFast"),
}
FAMILY = Family(
    name="FLUX.1",
    config=FluxConfig,
    denoiser=flux,
    packed=True,
    kinds=(
        PipelineKind(
            pipeline="FluxPipeline",
            task="text-to-image",
            guidance=("embedded", "classifier-free"),
            components=COMPONENTS,
            solver=flow_match,
            defaults=_defaults,
            sizes=image.ImageDecoder.sizes_of,
            build=_build,
            check=_check,
            checkpoints=("black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell"),
        ),
    ),
)

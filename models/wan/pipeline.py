"""The Wan pipelines: videos from text, and from a first picture (and a last one).

Shapes: B samples, P texts, T text tokens; latents are (B, C, f, h, w).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch

from pure import Experts, Guidance, Solver, Step
from pure.models.common.schedulers import FLOW_MATCH, UNIPC, flow_match, scheduler, unipc
from pure.models.common.sizes import AllowedSizes
from pure.models.common.video_pipeline import VideoPipeline, with_first
from pure.models.errors import CheckpointError
from pure.models.family import Description, Family, Parts, PipelineKind
from pure.models.pipeline import Pipeline
from pure.models.request import Defaults, Request
from pure.models.wan.config import IN_FP32, UNREAD, WanConfig
from pure.models.wan.denoiser import Conditioning, wan
from pure.models.wan.text import TextReader
from pure.models.wan.vae import PictureReader, VideoCodec

SMALL, LARGE, TALL = (480, 832), (720, 1280), (704, 1280)
WATERSHED = 4.0  # of the shift: checkpoints for 480 rows have 3, those for 720 have 5


@attrs.frozen(kw_only=True, eq=False)
class WanPipeline(VideoPipeline):
    """Wan from text.

    Attributes:
        boundary: with two experts the timestep from which on down the low-noise one takes over.
    """

    reader: TextReader = attrs.field(repr=False)
    codec: VideoCodec = attrs.field(repr=False)
    boundary: float | None = None

    cfg = "guidance_scale"

    def condition(self, request: Request, texts: Sequence[str], negative: bool) -> Conditioning:
        """Return embeddings (P, T, width) of texts."""
        text = self.reader(texts, request.max_sequence_length).to(self.device, self.dtype)
        return Conditioning(text=text, grid=self.grid(request))

    def guidance(self, request: Request) -> Guidance | Mapping[str, Guidance] | None:
        """Return guidance; of experts the low-noise one's own scale, by default the other's if that is given."""
        found = super().guidance(request)
        if self.boundary is None or not isinstance(found, Guidance):
            return found
        second = request.guidance_scale_2
        if second is None:
            own = self.defaults.guidance_scale_2
            second = found.scale if request.guidance_scale is not None or own is None else own
        return {"high": found, "low": Guidance(scale=float(second))}

    def unused(self, request: Request) -> tuple[str, ...]:
        """Return also that the second expert has no guidance of its own where there is none at all."""
        second = request.guidance_scale_2
        if second is None or second <= 1 or self.guidance(request) is not None:
            return super().unused(request)
        text = f"guidance_scale_2={second} has no effect: guidance_scale is at most 1, which switches both off"
        return (*super().unused(request), text)

    def schedule(self, request: Request) -> tuple[Step, ...]:
        """Return the schedule; experts count their own steps."""
        steps = super().schedule(request)
        if self.boundary is None:
            return steps
        high = sum(float(step.timestep) >= self.boundary for step in steps)
        spans = {"high": steps[:high], "low": steps[high:]}
        return tuple(
            attrs.evolve(step, expert=name, index=index, count=len(span))
            for name, span in spans.items()
            for index, step in enumerate(span)
        )


@attrs.frozen(kw_only=True, eq=False)
class WanImageToVideoPipeline(WanPipeline):
    """Wan from a first picture, and perhaps a last one, which are put beside the latents.

    Attributes:
        pictures: turns pictures into embeddings; None where the transformer embeds none.
    """

    pictures: PictureReader | None = attrs.field(default=None, repr=False)

    def sized(self, request: Request) -> Request:
        """Return the request with its size, in which the pictures fit; see the base."""
        if len(request.images) > request.frames:
            raise ValueError(f"{len(request.images)} pictures do not fit into frames={request.frames}; ask for more")
        return super().sized(request)

    def completed(self, request: Request, branches: Sequence[Conditioning]) -> Sequence[Conditioning]:
        """Return the conditioning with the pictures."""
        given = {name: tensor.to(self.device) for name, tensor in self.given(request).items()}
        return [
            attrs.evolve(branch, **{n: one.expand(len(branch.text), *one.shape[1:]) for n, one in given.items()})
            for branch in branches
        ]

    def given(self, request: Request) -> dict[str, torch.Tensor]:
        """Return the fields of `Conditioning` that pictures fill, one row each."""
        size = request.frames, request.height, request.width
        fields = {"beside": request.once(("beside", *size), lambda: self.codec.beside(request.images, *size))}
        if (read := self.pictures) is None:
            return fields
        return fields | {"image": request.once("image", lambda: read(request.images)).to(self.dtype)}


@attrs.frozen(kw_only=True, eq=False)
class WanFirstFramePipeline(WanImageToVideoPipeline):
    """Wan 2.2 TI2V-5B from text, and perhaps from a picture: it is the first frame itself, at timestep 0."""

    def given(self, request: Request) -> dict[str, torch.Tensor]:
        """Return latents of the first frame, if it is given."""
        return {"first": self._first_frame(request)} if request.images else {}

    def finished(self, latents: torch.Tensor, request: Request) -> torch.Tensor:
        """Return the latents with the first frame that was given, of which the run kept only the noise."""
        return with_first(self._first_frame(request), latents) if request.images else latents

    def decoded(self, latents: torch.Tensor, request: Request) -> torch.Tensor:
        """Decode latents, finished or not, to pixels."""
        return super().decoded(self.finished(latents, request), request)

    def _first_frame(self, request: Request) -> torch.Tensor:
        size = request.height, request.width
        return request.once(("first", *size), lambda: self.codec.first(request.images[0], *size))


# ---------------------------------------------------------------------- from a description to a pipeline


def _solver(found: Description) -> Solver[Any]:
    _, config = scheduler(found, (UNIPC, FLOW_MATCH))
    if config["_class_name"] == UNIPC:
        return unipc(found)
    return flow_match(found, spacing="train", unit=1)


def _defaults(found: Description) -> Defaults:
    """The variants differ in experts, channels, numbers of layers, and in the shift of the schedule."""
    config = WanConfig.read(found.transformer)
    own: dict[str, Any] = {"negative_prompt": "", "frames": 81, "fps": 16, "guidance_scale": 5.0}
    size, steps = LARGE, 50
    if found.index.get("expand_timesteps"):
        size, own = TALL, {**own, "frames": 121, "fps": 24}
    elif found.index.get("boundary_ratio") is not None:
        from_picture, steps = config.in_channels != config.channels, 40
        scales = (3.5, 3.5) if from_picture else (4.0, 3.0)
        own |= {"guidance_scale": scales[0], "guidance_scale_2": scales[1]}
    elif config.num_layers <= 30:
        size, own = SMALL, {**own, "guidance_scale": 3.0}
    elif config.image_dim is not None and found.configs["scheduler"].get("flow_shift", 1.0) < WATERSHED:
        size = SMALL
    return Defaults(steps=steps, height=size[0], width=size[1], **own)


def _check(found: Description) -> None:
    """Refuse what contradicts itself; see also `_check_text` and `_check_picture`."""
    index, boundary = found.folder / "model_index.json", found.index.get("boundary_ratio")
    if (boundary is not None) != (len(found.transformers) == 2):
        raise CheckpointError(
            f"{index}: boundary_ratio is {boundary} and the transformers are {', '.join(found.transformers)}; "
            "two experts need a boundary_ratio, one has none"
        )
    for name in found.transformers:
        config, latent = WanConfig.read(found.transformers[name]), found.configs["vae"].get("z_dim", 16)
        wanted = latent + _beside(found)
        if config.in_channels != wanted or config.channels != latent or config.patch_size[0] != 1:
            raise CheckpointError(
                f"{found.folder / name / 'config.json'}: {config.in_channels} channels in, "
                f"{config.channels} out and patches of {config.patch_size[0]} frames; {found.kind.task} "
                f"with latents of {latent} channels needs {wanted}, {latent} and 1"
            )


def _beside(found: Description) -> int:
    """Return the number of channels put beside the latents: which frames are given, and their latents."""
    if found.kind.task == "text-to-video" or found.index.get("expand_timesteps"):
        return 0
    vae = found.configs["vae"]
    return vae.get("scale_factor_temporal", 4) + vae.get("z_dim", 16)


def _check_text(found: Description) -> None:
    _check(found)
    if WanConfig.read(found.transformer).image_dim is not None:
        raise CheckpointError(
            f"{found.folder / 'transformer' / 'config.json'} embeds a picture, and text-to-video has none; "
            "the pipeline should be a WanImageToVideoPipeline"
        )


def _check_picture(found: Description) -> None:
    _check(found)
    readers = ("image_encoder", "image_processor")
    present = [name for name in readers if found.classes[name] != "None"]
    if WanConfig.read(found.transformer).image_dim is not None and len(present) < 2:
        raise CheckpointError(
            f"{found.folder / 'model_index.json'}: the transformer embeds a picture, which needs "
            f"{' and '.join(readers)}; there is {' and '.join(present) or 'neither'}"
        )


def _build(parts: Parts) -> Pipeline:
    kind = WanFirstFramePipeline if parts.found.index.get("expand_timesteps") else WanPipeline
    return kind(**_common(parts))


def _build_picture(parts: Parts) -> Pipeline:
    config = WanConfig.read(parts.found.transformer)
    if parts.found.index.get("expand_timesteps"):
        return WanFirstFramePipeline(**_common(parts))
    if config.image_dim is None:
        return WanImageToVideoPipeline(**_common(parts))
    # Wan 2.1, which embeds the pictures too.
    pictures = PictureReader(**parts.only("image_processor", "image_encoder"))
    return WanImageToVideoPipeline(**_common(parts), pictures=pictures)


def _images(found: Description) -> tuple[int, int]:
    """A first picture, and perhaps a last one; where the transformer embeds them, as many as it has positions for."""
    from_text, config = found.kind.task == "text-to-video", WanConfig.read(found.transformer)
    if found.index.get("expand_timesteps"):
        return (0, 1) if from_text else (1, 1)
    if from_text:
        return 0, 0
    if config.image_dim is None:
        return 1, 2
    return (1, 1) if config.pos_embed_seq_len is None else (2, 2)


def _options(found: Description) -> dict[str, Any]:
    return {"expand_timesteps": bool(found.index.get("expand_timesteps"))}


def _common(parts: Parts) -> dict[str, Any]:
    found, denoisers = parts.found, parts.found.denoisers
    boundary = found.index.get("boundary_ratio")
    first, second = found.kind.transformers
    several = boundary is not None
    return {
        "denoiser": Experts({"high": denoisers[first], "low": denoisers[second]}) if several else denoisers[first],
        "params": {"high": parts.params[first], "low": parts.params[second]} if several else parts.params[first],
        "solver": found.solver,
        "defaults": found.defaults,
        "image_count": found.image_count,
        "reader": TextReader(**parts.only("tokenizer", "text_encoder")),
        "codec": VideoCodec(vae=parts.components["vae"], patch=WanConfig.read(found.transformer).patch),
        "boundary": boundary * found.configs["scheduler"].get("num_train_timesteps", 1000) if several else None,
    }


COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "vae": ("AutoencoderKLWan",),
    "text_encoder": ("UMT5EncoderModel",),
    "tokenizer": ("T5Tokenizer", "T5TokenizerFast"),
}


def _sizes(found: Description) -> AllowedSizes:
    return VideoCodec.sizes(found.configs["vae"], WanConfig.read(found.transformer).patch)


TEXT_TO_VIDEO = PipelineKind(
    pipeline="WanPipeline",
    task="text-to-video",
    images=_images,
    guidance=("classifier-free",),
    components=COMPONENTS,
    transformers=("transformer", "transformer_2"),
    solver=_solver,
    defaults=_defaults,
    sizes=_sizes,
    build=_build,
    check=_check_text,
    options=_options,
    checkpoints=(
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        "Wan-AI/Wan2.1-T2V-14B-Diffusers",
        "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
    ),
)
FAMILY = Family(
    name="Wan",
    config=WanConfig,
    denoiser=wan,
    keep_fp32=IN_FP32,
    unread=UNREAD,
    kinds=(
        TEXT_TO_VIDEO,
        attrs.evolve(
            TEXT_TO_VIDEO,
            pipeline="WanImageToVideoPipeline",
            task="image-to-video",
            components={
                **COMPONENTS,
                "image_encoder": ("CLIPVisionModel", "None"),
                "image_processor": ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "None"),
            },
            build=_build_picture,
            check=_check_picture,
            checkpoints=(
                "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
                "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",
                "Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers",
                "Wan-AI/Wan2.2-I2V-A14B-Diffusers",
            ),
        ),
    ),
)

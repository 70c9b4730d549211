"""The HunyuanVideo pipelines: a video from text, and from a picture and text.

Shapes: B samples, P texts, T text tokens, F frames of H x W pixels; C latent channels,
f frames of h x w latents.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from PIL import Image

from pure import Solver
from pure.models.common.schedulers import flow_match
from pure.models.common.sizes import AllowedSizes
from pure.models.common.video_pipeline import VideoPipeline, with_first
from pure.models.errors import CheckpointError
from pure.models.family import Description, Family, Parts, PipelineKind
from pure.models.guidance import embedded_scales
from pure.models.hunyuan_video.config import CONCAT, REPLACE, HunyuanVideoConfig
from pure.models.hunyuan_video.denoiser import Conditioning, hunyuan_video
from pure.models.hunyuan_video.text import FROM_IMAGE, PictureReader, Reading, TextReader
from pure.models.hunyuan_video.vae import VideoCodec
from pure.models.pipeline import Pipeline
from pure.models.request import Defaults, Request

NOISE = 0.999  # part of noise in what a video from a picture starts with; the rest is the picture in every frame
STRIDES: Mapping[str, int] = {CONCAT: 2, REPLACE: 4}  # of the picture's tokens, which so many are seen of
NEGATIVE_STRIDE = 2  # with a negative prompt it is this one, whatever the checkpoint
DISTILLED_SHIFT = 17.0  # of the schedule of FastHunyuan, which needs few steps


@attrs.frozen(kw_only=True, eq=False)
class HunyuanVideoPipeline(VideoPipeline):
    """HunyuanVideo from text: guidance embedded, and classifier-free guidance on top.

    Attributes:
        trim: leave out text tokens that no prompt of a branch needs. The video is the same but for
            rounding; where that leaves no padding at all, as with one prompt, attention runs
            without a mask, which GPUs have faster kernels for. Requests then join only with others as long.
    """

    reader: TextReader = attrs.field(repr=False)
    codec: VideoCodec = attrs.field(repr=False)
    trim: bool = False

    def read(self, request: Request, texts: Sequence[str], negative: bool) -> Reading:
        """Return embeddings of P texts."""
        return self.reader(texts, request.max_sequence_length)

    def first(self, request: Request) -> torch.Tensor | None:
        """Return latents (1, C, 1, h, w) of the first frame, None where it is not given."""
        return None

    def condition(self, request: Request, texts: Sequence[str], negative: bool) -> Conditioning:
        """Return embeddings (P, T, width) with their masks, and the latents of a given first frame."""
        found, image = self.read(request, texts, negative), self.first(request)
        if self.trim and request.negative_prompts is None:
            found = found.trimmed()
        return Conditioning(
            text=found.text.to(self.device, self.dtype),
            mask=None if found.mask is None else found.mask.to(self.device),
            pooled=found.pooled.to(self.device, self.dtype),
            guidance=embedded_scales(self.params, self.scale(request, "guidance_scale"), len(texts)),
            image=None if image is None else image.to(self.device).expand(len(texts), -1, -1, -1, -1),
            grid=self.grid(request),
        )

    @property
    def step_dtype(self) -> torch.dtype:
        """Type that timesteps are rounded to, unlike the latents: that of the model."""
        return self.dtype


@attrs.frozen(kw_only=True, eq=False)
class HunyuanVideoImageToVideoPipeline(HunyuanVideoPipeline):
    """HunyuanVideo from a picture and text.

    Under classifier-free guidance the negative prompt is read with a black picture, of which
    the model sees every second token, as in diffusers; the shorter branch is padded.

    Attributes:
        reader: reads the picture too.
        kind: "latent_concat" or "token_replace": how the model is given the picture.
    """

    reader: PictureReader = attrs.field(repr=False)
    kind: str

    def read(self, request: Request, texts: Sequence[str], negative: bool) -> Reading:
        """Return embeddings of the picture and P texts, of both branches as long as the longer one."""
        picture, length = request.images[0], request.max_sequence_length
        if negative:
            picture = Image.new("RGB", (request.width, request.height))
        strides = {False: STRIDES[self.kind], True: NEGATIVE_STRIDE}
        found = self.reader.look(texts, picture, length, strides[negative])
        guided = request.negative_prompts is not None
        return found.padded(max(self.reader.length(length, s) for s in strides.values())) if guided else found

    def first(self, request: Request) -> torch.Tensor:
        """Return latents (1, C, 1, h, w) of the picture."""
        request.check_pictures(*self.image_count)
        picture, size = request.images[0], (request.height, request.width)
        return request.once(("first", *size), lambda: self.codec.encode(picture, *size))

    def noise(self, request: Request, seed: int | Sequence[int] = 42) -> torch.Tensor:
        """Return starting latents: noise with a little of the picture.

        Where the model sees the picture instead of the first frame, it is the first frame, and stays there.

        Raises:
            ValueError: there is no picture.
        """
        noise, part = super().noise(request, seed), torch.tensor([NOISE], device=self.device)
        image = self.first(request).to(self.device)
        mixed = noise * part + image * (1 - part)
        return mixed if self.kind == CONCAT else with_first(image, mixed)

    @property
    def step_dtype(self) -> torch.dtype:
        """Type that timesteps are rounded to; where the picture is the first frame, they stay in fp32 with it."""
        return super().step_dtype if self.kind == CONCAT else torch.float32

    def decoded(self, latents: torch.Tensor, request: Request) -> torch.Tensor:
        """Decode latents to pixels (B, F, 3, H, W); of "latent_concat" without the frames the first latents make."""
        video = super().decoded(latents, request)
        return video[:, self.codec.period :] if self.kind == CONCAT else video


def _solver(found: Description) -> Solver[Any]:
    solver = flow_match(found, spacing="open", unit=1)
    if solver.schedule.dynamic:
        raise CheckpointError(
            f"{found.folder / 'scheduler' / 'scheduler_config.json'} sets use_dynamic_shifting, which HunyuanVideo "
            "has no rule for; set it to false"
        )
    return solver


def _defaults(found: Description) -> Defaults:
    """FastHunyuan is recognised by its schedule, and a checkpoint that embeds guidance by its config."""
    embeds = HunyuanVideoConfig.read(found.transformer).guidance_embeds
    few = float(found.configs["scheduler"].get("shift", 1.0)) >= DISTILLED_SHIFT
    return Defaults(
        steps=6 if few else 50,
        guidance_scale=6.0 if embeds else None,
        true_cfg_scale=1.0,
        height=720,
        width=1280,
        # From a picture the first latents make four frames more, which "latent_concat" leaves out.
        frames=125 if found.kind.task == "text-to-video" else 129,
        fps=24,
        max_sequence_length=256,
        longest=1024,
    )


def _check(found: Description) -> None:
    config, file = HunyuanVideoConfig.read(found.transformer), found.folder / "transformer" / "config.json"
    kind, text = config.image_condition_type, found.kind.task == "text-to-video"
    if (kind is None) != text:
        takes = "an image" if kind else "no image"
        other = KINDS[1 if text else 0]
        raise CheckpointError(
            f"{file}: image_condition_type {kind!r} takes {takes}, and a {found.kind.pipeline} is for the other; "
            f"its pipeline is {other}"
        )
    channels = found.configs["vae"].get("latent_channels", config.channels)
    if channels != config.channels:
        raise CheckpointError(f"{file}: out_channels is {config.channels} and the vae's latents have {channels}")


def _build(parts: Parts) -> Pipeline:
    from transformers import PreTrainedTokenizerFast

    config, components = HunyuanVideoConfig.read(parts.found.transformer), dict(parts.components)
    fields: dict[str, Any] = {
        **parts.common,
        "codec": VideoCodec(vae=components.pop("vae"), patch=config.patch),
    }
    # The class that the checkpoints name splits text in a way of its own, whatever the file says; this one reads it.
    if (parts.found.folder / "tokenizer" / "tokenizer.json").is_file():
        components["tokenizer"] = PreTrainedTokenizerFast.from_pretrained(
            parts.found.folder / "tokenizer", local_files_only=True
        )
    if parts.found.kind.task == "text-to-video":
        return HunyuanVideoPipeline(**fields, reader=TextReader(**components))
    vision, kind = components["text_encoder"].config.vision_config, config.image_condition_type
    assert kind is not None, "see `_check`"
    template = attrs.evolve(FROM_IMAGE, size=(vision.image_size // vision.patch_size) ** 2)
    reader = PictureReader(**components, template=template)
    return HunyuanVideoImageToVideoPipeline(**fields, reader=reader, kind=kind)


def _sizes(found: Description) -> AllowedSizes:
    return VideoCodec.sizes(found.configs["vae"], HunyuanVideoConfig.read(found.transformer).patch)


KINDS = ("HunyuanVideoPipeline", "HunyuanVideoImageToVideoPipeline")
COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "vae": ("AutoencoderKLHunyuanVideo",),
    "text_encoder": ("LlamaModel",),
    "text_encoder_2": ("CLIPTextModel",),
    "tokenizer": ("LlamaTokenizerFast", "LlamaTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
TEXT_TO_VIDEO = PipelineKind(
    pipeline=KINDS[0],
    task="text-to-video",
    guidance=("embedded", "classifier-free"),
    components=COMPONENTS,
    solver=_solver,
    defaults=_defaults,
    sizes=_sizes,
    build=_build,
    check=_check,
    checkpoints=("hunyuanvideo-community/HunyuanVideo", "FastVideo/FastHunyuan-diffusers"),
)
FAMILY = Family(
    name="HunyuanVideo",
    config=HunyuanVideoConfig,
    denoiser=hunyuan_video,
    kinds=(
        TEXT_TO_VIDEO,
        attrs.evolve(
            TEXT_TO_VIDEO,
            pipeline=KINDS[1],
            task="image-to-video",
            images=(1, 1),
            components={
                **COMPONENTS,
                "text_encoder": ("LlavaForConditionalGeneration",),
                "image_processor": ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil"),
            },
            checkpoints=("hunyuanvideo-community/HunyuanVideo-I2V", "hunyuanvideo-community/HunyuanVideo-I2V-33ch"),
        ),
    ),
)

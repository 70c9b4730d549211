"""The Qwen-Image pipelines: text-to-image, and edits of one picture or of several.

Shapes: B samples, P texts, T text tokens, N tokens of the picture that is made, R of the
reference pictures, S = T + N + R, C channels of a token.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
import torch.nn.functional as F

from pure import Guidance, Shared
from pure.models.common import image
from pure.models.common.image_pipeline import PackedPipeline
from pure.models.common.schedulers import flow_match
from pure.models.errors import CheckpointError
from pure.models.family import Description, Family, Parts, PipelineKind
from pure.models.pipeline import Pipeline
from pure.models.qwen_image.config import QwenImageConfig
from pure.models.qwen_image.denoiser import Conditioning, positions, qwen_image
from pure.models.qwen_image.text import LONGEST, PictureReader, TextReader, padded
from pure.models.qwen_image.vae import ImageCodec, fitted
from pure.models.request import Defaults, Request

AREA = 1024 * 1024  # pixels that a picture to edit is resized to, proportions kept
READ_AREA = 384 * 384  # likewise for the text encoder, where there may be several pictures
MOST = 16  # pictures of one edit; the checkpoints were trained with up to 3
PROCESSORS = ("Qwen2VLProcessor", "Qwen2_5_VLProcessor")


@attrs.frozen(kw_only=True, eq=False)
class QwenImagePipeline(PackedPipeline):
    """Qwen-Image from text.

    Prompts differ in length: shorter ones are padded and masked, also beside a longer negative one.
    """

    reader: TextReader | PictureReader = attrs.field(repr=False)
    codec: ImageCodec = attrs.field(repr=False)

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.codec.vae.config["z_dim"]

    def read(self, request: Request, texts: Sequence[str]) -> list[torch.Tensor]:
        """Return an embedding (T, width) of each text."""
        assert isinstance(self.reader, TextReader)
        return self.reader(texts, request.max_sequence_length)

    def grids(self, request: Request) -> list[tuple[int, int]]:
        """Return rows and columns of tokens of every picture, the one that is made first."""
        return [self.grid(request)]

    def reference(self, request: Request) -> torch.Tensor | None:
        """Return tokens (1, R, C) of the reference pictures, None where there are none."""
        return None

    def condition(self, request: Request, texts: Sequence[str], negative: bool) -> Conditioning:
        """Return embeddings (P, T, width) without reference pictures, which `completed` adds for both branches."""
        text, mask = padded([row.to(self.device, self.dtype) for row in self.read(request, texts)])
        ids = positions(text.shape[1], *self.grids(request)).to(self.device)
        return Conditioning(text=text, mask=mask, ids=Shared(value=ids))

    def completed(self, request: Request, branches: Sequence[Conditioning]) -> Sequence[Conditioning]:
        """Return the conditioning with the reference pictures, both branches as long as the longer one."""
        length = max(branch.text.shape[1] for branch in branches)
        masked = any(branch.mask is not None or branch.text.shape[1] < length for branch in branches)
        reference = self.reference(request)
        ids = Shared(value=positions(length, *self.grids(request)).to(self.device))
        return [_completed(branch, length, masked, reference, ids) for branch in branches]

    def guidance(self, request: Request) -> Guidance | None:
        """Return guidance that keeps the norm of every token."""
        found = super().guidance(request)
        return attrs.evolve(found, normalize="token") if isinstance(found, Guidance) else None


def _completed(
    branch: Conditioning, length: int, masked: bool, reference: torch.Tensor | None, ids: Shared
) -> Conditioning:
    """Return a branch padded to `length` text tokens, with reference pictures."""
    rows, tokens, _ = branch.text.shape
    mask = branch.mask
    if masked:
        mask = branch.text.new_ones(rows, tokens, dtype=torch.bool) if mask is None else mask
        mask = F.pad(mask, (0, length - tokens))
    return Conditioning(
        text=F.pad(branch.text, (0, 0, 0, length - tokens)),
        mask=mask,
        reference=None if reference is None else reference.expand(rows, -1, -1),
        ids=ids,
    )


@attrs.frozen(kw_only=True, eq=False)
class QwenImageEditPipeline(QwenImagePipeline):
    """Qwen-Image-Edit: a picture and an instruction, read together; of -2509 and -2511 several pictures.

    The prompt calls several pictures Picture 1, Picture 2 ...

    Attributes:
        area: pixels that pictures are resized to, proportions kept; also the size of the result
            by default.
        read_area: pixels of the pictures that the text encoder sees; None: the same.
    """

    area: int = AREA
    read_area: int | None = None

    def size(self, request: Request) -> tuple[int, int]:
        """Return height and width near `area` with the proportions of the last picture, in pixels."""
        if not request.images:
            raise ValueError("the size of an edit is that of its picture: give images=, or height and width")
        height, width = (side // self.codec.patch * self.codec.patch for side in fitted(request.images[-1], self.area))
        return height, width

    def read(self, request: Request, texts: Sequence[str]) -> list[torch.Tensor]:
        """Return an embedding (T, width) of each text, read beside the pictures and never truncated."""
        assert isinstance(self.reader, PictureReader)
        area = self.read_area or self.area
        resize = self.codec.processor.resize
        pictures: list[Any] = [resize(each, *fitted(each, area)) for each in request.images]
        return self.reader(texts, pictures)

    def unused(self, request: Request) -> tuple[str, ...]:
        """Return also that the length of the prompt is not limited."""
        if request.max_sequence_length == self.defaults.max_sequence_length:
            return super().unused(request)
        return (*super().unused(request), "max_sequence_length has no effect: an edit's prompt is read whole")

    def grids(self, request: Request) -> list[tuple[int, int]]:
        """Return rows and columns of tokens of every picture, the one that is made first."""
        references = [self.codec.grid(*fitted(each, self.area)) for each in request.images]
        return [*super().grids(request), *references]

    def reference(self, request: Request) -> torch.Tensor:
        """Return tokens (1, R, C) of the reference pictures."""
        return request.once("reference", lambda: self._reference(request)).to(self.device, self.dtype)

    def _reference(self, request: Request) -> torch.Tensor:
        encoded = [self.codec.encode(each, *fitted(each, self.area)) for each in request.images]
        return torch.cat([image.pack(each) for each in encoded], dim=1)


def _text_to_image(found: Description) -> Defaults:
    side = image.SIDE * 2 ** ImageCodec.halvings(found.configs["vae"])
    return attrs.evolve(EDIT, height=side, width=side)


def _check(found: Description) -> None:
    config = QwenImageConfig.read(found.transformer)
    channels, out, patch = config.in_channels, config.channels, config.patch_size
    latent = found.configs["vae"].get("z_dim", 16)
    if patch != image.PATCH or channels != out * patch**2 or channels != latent * patch**2:
        raise CheckpointError(
            f"{found.folder / 'transformer' / 'config.json'}: {channels} channels in, {out} out, patch_size {patch} "
            f"and {latent} channels of the vae's latents; a token must be {image.PATCH} x {image.PATCH} latents, in "
            "and out"
        )


def _check_edit(found: Description) -> None:
    _check(found)
    entry = found.index.get("processor")
    name = entry[-1] if isinstance(entry, list) and entry else None
    if name not in PROCESSORS:
        raise CheckpointError(
            f"{found.folder / 'model_index.json'}: processor is a {name}; supported: {', '.join(PROCESSORS)}"
        )


def _build(parts: Parts) -> Pipeline:
    reader = TextReader(**parts.only("tokenizer", "text_encoder"))
    return QwenImagePipeline(**parts.common, reader=reader, codec=ImageCodec(parts.components["vae"]))


def _build_edit(parts: Parts, several: bool) -> Pipeline:
    reader, codec = _picture_reader(parts, numbered=several), ImageCodec(parts.components["vae"])
    return QwenImageEditPipeline(**parts.common, reader=reader, codec=codec, read_area=READ_AREA if several else None)


def _picture_reader(parts: Parts, numbered: bool) -> PictureReader:
    """Load the halves of the processor that edits need; the whole wants torchvision, for videos."""
    import transformers

    folder = parts.found.folder / "processor"
    try:
        images = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        words = getattr(transformers, parts.found.classes["tokenizer"]).from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise CheckpointError(f"{folder} cannot be loaded as {PROCESSORS[0]}: {error}; is it complete?") from error
    encoder = parts.components["text_encoder"]
    return PictureReader(tokenizer=words, image_processor=images, text_encoder=encoder, numbered=numbered)


COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "vae": ("AutoencoderKLQwenImage",),
    "text_encoder": ("Qwen2_5_VLForConditionalGeneration",),
    "tokenizer": ("Qwen2Tokenizer", "Qwen2TokenizerFast"),
}
EDIT = Defaults(steps=50, true_cfg_scale=4.0, negative_prompt=" ", longest=LONGEST)


TEXT_TO_IMAGE = PipelineKind(
    pipeline="QwenImagePipeline",
    task="text-to-image",
    guidance=("classifier-free",),
    components=COMPONENTS,
    solver=flow_match,
    defaults=_text_to_image,
    sizes=ImageCodec.sizes_of,
    build=_build,
    check=_check,
    checkpoints=("Qwen/Qwen-Image", "Qwen/Qwen-Image-2512"),
)
FAMILY = Family(
    name="Qwen-Image",
    config=QwenImageConfig,
    denoiser=qwen_image,
    packed=True,
    kinds=(
        TEXT_TO_IMAGE,
        attrs.evolve(
            TEXT_TO_IMAGE,
            pipeline="QwenImageEditPipeline",
            task="image-editing",
            images=(1, 1),
            defaults=EDIT,
            build=functools.partial(_build_edit, several=False),
            check=_check_edit,
            checkpoints=("Qwen/Qwen-Image-Edit",),
        ),
        attrs.evolve(
            TEXT_TO_IMAGE,
            pipeline="QwenImageEditPlusPipeline",
            task="image-editing",
            images=(1, MOST),
            defaults=attrs.evolve(EDIT, steps=40),
            build=functools.partial(_build_edit, several=True),
            check=_check_edit,
            checkpoints=("Qwen/Qwen-Image-Edit-2509", "Qwen/Qwen-Image-Edit-2511"),
        ),
    ),
)

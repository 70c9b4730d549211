"""The FLUX.2 pipelines: dev and klein, from text and from pictures.

Shapes: B samples, P texts, T text tokens, N tokens of the picture that is made, R of the
reference pictures, S = T + N + R, C channels of a token, which is 2 x 2 latents.
"""

import functools
from collections.abc import Sequence
from typing import ClassVar

import attrs
import torch

from pure import Guidance, Shared
from pure.models.common.chat import ChatReader, depth, width
from pure.models.common.image_pipeline import PackedPipeline, check_packed
from pure.models.common.schedulers import flow_match
from pure.models.errors import CheckpointError
from pure.models.family import Description, Family, Parts, PipelineKind
from pure.models.flux2.config import Flux2Config
from pure.models.flux2.denoiser import Conditioning, flux2
from pure.models.flux2.vae import ImageCodec
from pure.models.guidance import embedded_scales
from pure.models.pipeline import AnyDenoiser, Pipeline
from pure.models.request import Defaults, Request
from pure.notes import Note

DEV_LAYERS, KLEIN_LAYERS = (10, 20, 30), (9, 18, 27)  # whose hidden states are the embedding
MOST = 10  # pictures of one edit
APART = 10  # in time, between the picture that is made and each reference


@attrs.frozen(kw_only=True, eq=False)
class Flux2Pipeline(PackedPipeline):
    """FLUX.2-dev: guidance is an input of the transformer. Pictures to edit are optional."""

    reader: ChatReader = attrs.field(repr=False)
    codec: ImageCodec = attrs.field(repr=False)

    cfg: ClassVar[str] = ""

    def size(self, request: Request) -> tuple[int, int]:
        """Return the size of the first picture, if there is one; see the base."""
        return self.codec.fitted(request.images[0]) if request.images else super().size(request)

    def condition(self, request: Request, texts: Sequence[str], negative: bool) -> Conditioning:
        """Return embeddings (P, T, width); reference pictures follow in `completed`, once for both branches."""
        text = self.reader(texts, request.max_sequence_length)[0].to(self.device, self.dtype)
        scales = embedded_scales(self.params, self.scale(request, "guidance_scale"), len(text))
        grids = [self.grid(request)]
        grids += [self.codec.grid(*self.codec.fitted(picture)) for picture in request.images]
        ids = Shared(value=positions(text.shape[1], *grids).to(self.device))
        return Conditioning(text=text, guidance=scales, ids=ids)

    def completed(self, request: Request, branches: Sequence[Conditioning]) -> Sequence[Conditioning]:
        """Return the conditioning with the tokens of the reference pictures."""
        if not request.images:
            return branches
        tokens = request.once("reference", lambda: self._reference(request)).to(self.device, self.dtype)
        return [attrs.evolve(branch, reference=tokens.expand(request.batch, -1, -1)) for branch in branches]

    def _reference(self, request: Request) -> torch.Tensor:
        return torch.cat([self.codec.encode(picture) for picture in request.images], dim=1)

    def shape(self, request: Request) -> tuple[int, ...]:
        """Return the shape of the noise, which is drawn as channels of tokens."""
        return self.params["x_embedder.weight"].shape[1], *self.grid(request)

    def pack(self, noise: torch.Tensor) -> torch.Tensor:
        """Turn latents (B, C, h, w) into tokens (B, N, C)."""
        return noise.flatten(2).transpose(1, 2).contiguous()

    def decoded(self, latents: torch.Tensor, request: Request) -> torch.Tensor:
        """Decode tokens (B, N, C) to pixels (B, 3, H, W) in 0 to 1."""
        return super().decoded(self.codec.denormalised(latents), request)


@attrs.frozen(kw_only=True, eq=False)
class Flux2KleinPipeline(Flux2Pipeline):
    """FLUX.2-klein: no embedded guidance; the base checkpoints are guided by a negative prompt.

    Attributes:
        distilled: whether the checkpoint is distilled to few steps, and never guided.
    """

    distilled: bool = False

    cfg: ClassVar[str] = "guidance_scale"

    def guidance(self, request: Request) -> Guidance | None:
        """Return the classifier-free guidance of a request; a distilled checkpoint has none."""
        found = super().guidance(request)
        return found if isinstance(found, Guidance) and not self.distilled else None

    def guide(self, denoiser: AnyDenoiser, request: Request) -> tuple[AnyDenoiser, Request]:
        """Return the denoiser with the guidance of the request.

        A distilled checkpoint whose transform does not guide runs without; the request's notes say so.
        """
        scale, negative = request.guidance_scale, request.negative_prompts
        ignored = [f"guidance_scale={scale}"] if scale is not None and scale > 1 else []
        ignored += [] if negative is None else ["the negative prompt"]
        if not self.distilled or not ignored or getattr(denoiser, "guidance", None) is not None:
            return super().guide(denoiser, request)
        text = f"{' with '.join(ignored)} has no effect: this checkpoint is distilled to a few steps without guidance"
        plain = attrs.evolve(request, guidance_scale=None, negative_prompts=None)
        return super().guide(
            denoiser, attrs.evolve(plain, notes=(*plain.notes, Note(f"{text}; use a base checkpoint")))
        )


def positions(text: int, *grids: tuple[int, int]) -> torch.Tensor:
    """Return (S, 4) positions of `text` tokens, the picture that is made and references of such rows and columns.

    The coordinates are time, row, column and place in the text; each reference is 10 later.

    >>> positions(2, (1, 1), (1, 2))
    tensor([[ 0,  0,  0,  0],
            [ 0,  0,  0,  1],
            [ 0,  0,  0,  0],
            [10,  0,  0,  0],
            [10,  0,  1,  0]])
    """
    zero = torch.arange(1)
    pictures = [
        torch.cartesian_prod(zero + APART * number, torch.arange(rows), torch.arange(columns), zero)
        for number, (rows, columns) in enumerate(grids)
    ]
    return torch.cat([torch.cartesian_prod(zero, zero, zero, torch.arange(text)), *pictures])


def _klein_defaults(found: Description) -> Defaults:
    """Distilled checkpoints are marked in `model_index.json`."""
    if _distilled(found):
        return Defaults(steps=4, guidance_scale=1.0, negative_prompt="")
    return Defaults(steps=50, guidance_scale=4.0, negative_prompt="")


def _distilled(found: Description) -> bool:
    return bool(found.index.get("is_distilled"))


def _check(found: Description, layers: tuple[int, ...]) -> None:
    config, folder = Flux2Config.read(found.transformer), found.folder
    check_packed(found, config, config.patch_size)
    latent = found.configs["vae"].get("latent_channels", 32)
    if 4 * latent != config.in_channels:
        raise CheckpointError(
            f"{folder}: the transformer has {config.in_channels} channels and the VAE {latent}; it needs a quarter as "
            "many"
        )
    text = found.configs["text_encoder"]
    if depth(text) < max(layers) or width(text) * len(layers) != config.joint_attention_dim:
        raise CheckpointError(
            f"{folder}: the text encoder has {depth(text)} layers of width {width(text)}; hidden states {layers} of "
            f"it should be {config.joint_attention_dim} wide together, the transformer's joint_attention_dim"
        )


def _build_dev(parts: Parts) -> Pipeline:
    from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

    reader = ChatReader(
        **parts.only("tokenizer", "text_encoder"),
        layers=DEV_LAYERS,
        system=SYSTEM_MESSAGE,
        template={"add_generation_prompt": False},
        forbidden="[IMG]",  # the place of a picture
    )
    return Flux2Pipeline(**parts.common, reader=reader, codec=ImageCodec(parts.components["vae"]))


def _build_klein(parts: Parts) -> Pipeline:
    template = {"add_generation_prompt": True, "enable_thinking": False}
    reader = ChatReader(**parts.only("tokenizer", "text_encoder"), layers=KLEIN_LAYERS, template=template)
    codec, distilled = ImageCodec(parts.components["vae"]), _distilled(parts.found)
    return Flux2KleinPipeline(**parts.common, reader=reader, codec=codec, distilled=distilled)


DEV = PipelineKind(
    pipeline="Flux2Pipeline",
    task="text-to-image",
    images=(0, MOST),
    guidance=("embedded",),
    components={
        "vae": ("AutoencoderKLFlux2",),
        "text_encoder": ("Mistral3ForConditionalGeneration",),
        "tokenizer": ("PixtralProcessor", "Qwen2Tokenizer", "Qwen2TokenizerFast"),
    },
    solver=functools.partial(flow_match, empirical=True),
    defaults=Defaults(steps=50, guidance_scale=4.0),
    sizes=ImageCodec.sizes_of,
    build=_build_dev,
    check=functools.partial(_check, layers=DEV_LAYERS),
    checkpoints=("black-forest-labs/FLUX.2-dev",),
)
KLEIN = attrs.evolve(
    DEV,
    pipeline="Flux2KleinPipeline",
    guidance=("classifier-free",),
    components={
        "vae": ("AutoencoderKLFlux2",),
        "text_encoder": ("Qwen3ForCausalLM",),
        "tokenizer": ("Qwen2Tokenizer", "Qwen2TokenizerFast"),
    },
    defaults=_klein_defaults,
    build=_build_klein,
    check=functools.partial(_check, layers=KLEIN_LAYERS),
    checkpoints=tuple(f"black-forest-labs/FLUX.2-klein-{size}" for size in ("4B", "9B", "base-4B", "base-9B")),
)
FAMILY = Family(name="FLUX.2", config=Flux2Config, denoiser=flux2, kinds=(DEV, KLEIN), packed=True)

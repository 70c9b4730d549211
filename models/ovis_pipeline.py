"""The Ovis-Image pipeline.

Shapes: B samples, P texts, T text tokens, N image tokens, S = T + N, C channels of a token.
"""

from collections.abc import Sequence
from typing import ClassVar

import attrs
import torch

from pure import Shared, Solver
from pure.models import image
from pure.models.chat import ChatReader, width
from pure.models.errors import CheckpointError
from pure.models.family import Description, Family, Kind, Parts
from pure.models.ovis import Conditioning, ovis
from pure.models.ovis_parameters import CLASS, check_config, parameter_shapes
from pure.models.pipeline import Pipeline
from pure.models.request import Defaults, Request
from pure.models.schedulers import flow_match

SIDE = 128  # latents on a side of an image where no size is asked for
LONGEST = 256  # text tokens that the checkpoint reads
DESCRIBE = (
    "Describe the image by detailing the color, quantity, text, shape, size, texture, spatial relationships of the "
    "objects and background: "
)
DROPPED = 28  # tokens of the conversation before the prompt, as the checkpoint's own tokenizer counts them


@attrs.frozen(kw_only=True, eq=False)
class OvisImagePipeline(Pipeline):
    """Ovis-Image: guided by a negative prompt, which is empty where none is given.

    Attributes:
        reader: turns prompts into embeddings.
        decoder: turns latents into pixels.
    """

    reader: ChatReader = attrs.field(repr=False)
    decoder: image.ImageDecoder = attrs.field(repr=False)

    cfg: ClassVar[str] = "guidance_scale"

    def sized(self, request: Request) -> Request:
        """Return the request with its size; sides are multiples of a token's."""
        usual = SIDE * self.decoder.patch // image.PATCH
        height, width = request.height or usual, request.width or usual
        self.decoder.grid(height, width)
        return attrs.evolve(request, height=height, width=width)

    def condition(self, request: Request, texts: Sequence[str], negative: bool) -> Conditioning:
        """Return embeddings (P, T, width), zeros where padded, and positions (S, 3)."""
        hidden, mask = self.reader(texts, request.max_sequence_length)
        grid = self.decoder.grid(request.height, request.width)
        return Conditioning(
            text=(hidden * mask[..., None]).to(self.device, self.dtype),
            ids=Shared(value=positions(hidden.shape[1], *grid).to(self.device)),
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


def positions(text: int, rows: int, columns: int) -> torch.Tensor:
    """Return (S, 3) fp32 positions: `text` tokens on the diagonal, then (0, row, column) of each image token.

    >>> positions(2, 1, 2)
    tensor([[0., 0., 0.],
            [0., 1., 1.],
            [0., 0., 0.],
            [0., 0., 1.]])
    """
    along = torch.arange(text).float()
    return torch.cat([torch.stack([0 * along, along, along], dim=1), image.positions(0, rows, columns)])


def _solver(found: Description) -> Solver:
    return flow_match(found)


def _defaults(found: Description) -> Defaults:
    return Defaults(steps=50, guidance_scale=5.0, negative_prompt="", max_sequence_length=LONGEST, longest=LONGEST)


def _check(found: Description) -> None:
    settings = check_config(found.transformer)
    channels, out = settings["in_channels"], settings["out_channels"] or settings["in_channels"]
    if out != channels or channels % 4 or settings["patch_size"] != 1:
        raise CheckpointError(
            f"{found.folder / 'transformer' / 'config.json'}: {channels} channels in, {out} out and patch_size "
            f"{settings['patch_size']}; text-to-image needs as many out as in, a multiple of 4, and patch_size 1"
        )
    if (wide := width(found.configs["text_encoder"])) != settings["joint_attention_dim"]:
        raise CheckpointError(
            f"{found.folder}: the text encoder is {wide} wide and the transformer's joint_attention_dim is "
            f"{settings['joint_attention_dim']}; they should agree"
        )


def _build(parts: Parts) -> Pipeline:
    return OvisImagePipeline(
        denoiser=parts.denoisers["transformer"],
        params=parts.params["transformer"],
        solver=parts.found.solver,
        defaults=parts.found.defaults,
        reader=ChatReader(
            tokenizer=parts.components["tokenizer"],
            text_encoder=parts.components["text_encoder"],
            template={"add_generation_prompt": True, "enable_thinking": False},
            instruction=DESCRIBE,
            dropped=DROPPED,
        ),
        decoder=image.ImageDecoder(parts.components["vae"]),
    )


FAMILY = Family(
    name="Ovis-Image",
    transformer=CLASS,
    denoiser=ovis,
    shapes=parameter_shapes,
    kinds=(
        Kind(
            pipeline="OvisImagePipeline",
            task="text-to-image",
            guidance=("classifier-free",),
            components={
                "vae": ("AutoencoderKL",),
                "text_encoder": ("Qwen3Model",),
                "tokenizer": ("Qwen2Tokenizer", "Qwen2TokenizerFast"),
            },
            solver=_solver,
            defaults=_defaults,
            build=_build,
            check=_check,
            checkpoints=("AIDC-AI/Ovis-Image-7B",),
        ),
    ),
)

"""The Ovis-Image pipeline.

Shapes: B samples, P texts, T text tokens, N image tokens, S = T + N, C channels of a token.
"""

from collections.abc import Sequence
from typing import ClassVar

import attrs
import torch

from pure import Shared
from pure.models.common import image
from pure.models.common.chat import ChatReader, check_width
from pure.models.common.image_pipeline import PackedPipeline, check_packed
from pure.models.common.schedulers import flow_match
from pure.models.common.streams import Conditioning
from pure.models.family import Description, Family, Parts, PipelineKind
from pure.models.ovis.config import OvisConfig
from pure.models.ovis.denoiser import ovis
from pure.models.pipeline import Pipeline
from pure.models.request import Defaults, Request

LONGEST = 256  # text tokens that the checkpoint reads
DESCRIBE = (
    "Describe the image by detailing the color, quantity, text, shape, size, texture, spatial relationships of the "
    "objects and background: "
)
DROPPED = 28  # tokens of the conversation before the prompt, as the checkpoint's own tokenizer counts them


@attrs.frozen(kw_only=True, eq=False)
class OvisImagePipeline(PackedPipeline):
    """Ovis-Image: guided by a negative prompt, which is empty where none is given."""

    reader: ChatReader = attrs.field(repr=False)

    cfg: ClassVar[str] = "guidance_scale"

    def condition(self, request: Request, texts: Sequence[str], negative: bool) -> Conditioning:
        """Return embeddings (P, T, width), zeros where padded, and positions (S, 3)."""
        hidden, mask = self.reader(texts, request.max_sequence_length)
        grid = self.grid(request)
        return Conditioning(
            text=(hidden * mask[..., None]).to(self.device, self.dtype),
            ids=Shared(value=positions(hidden.shape[1], *grid).to(self.device)),
        )


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


def _check(found: Description) -> None:
    config = OvisConfig.read(found.transformer)
    check_packed(found, config, config.patch_size)
    check_width(found, config.joint_attention_dim, "joint_attention_dim")


def _build(parts: Parts) -> Pipeline:
    template = {"add_generation_prompt": True, "enable_thinking": False}
    reader = ChatReader(
        **parts.only("tokenizer", "text_encoder"), template=template, instruction=DESCRIBE, dropped=DROPPED
    )
    return OvisImagePipeline(**parts.common, reader=reader, codec=image.ImageDecoder(parts.components["vae"]))


FAMILY = Family(
    name="Ovis-Image",
    config=OvisConfig,
    denoiser=ovis,
    packed=True,
    kinds=(
        PipelineKind(
            pipeline="OvisImagePipeline",
            task="text-to-image",
            guidance=("classifier-free",),
            components={
                "vae": ("AutoencoderKL",),
                "text_encoder": ("Qwen3Model",),
                "tokenizer": ("Qwen2Tokenizer", "Qwen2TokenizerFast"),
            },
            solver=flow_match,
            defaults=Defaults(
                steps=50, guidance_scale=5.0, negative_prompt="", max_sequence_length=LONGEST, longest=LONGEST
            ),
            sizes=image.ImageDecoder.sizes_of,
            build=_build,
            check=_check,
            checkpoints=("AIDC-AI/Ovis-Image-7B",),
        ),
    ),
)

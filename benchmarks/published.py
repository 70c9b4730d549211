"""The published checkpoints: transformer configs, and one request of the size each was made for.

Requests are empty tensors: they are for shapes, bytes and operation counts, not for pictures.

Shapes: N image tokens, T text tokens, S = N + T (and those of input pictures).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import diffusers
import torch

from pure import Shared
from pure.models.common.streams import Conditioning
from pure.models.family import Family
from pure.models.hunyuan_video import denoiser as hunyuan_video
from pure.models.registry import FAMILIES
from pure.models.wan import denoiser as wan
from pure.models.z_image import denoiser as z_image

TEXT = 512  # text tokens of a request
MADE = tuple[Any, torch.Tensor]


@attrs.frozen
class Published:
    """One checkpoint.

    Attributes:
        name: on the hub.
        family: name of its family.
        config: of its transformer (of each of its two), what differs from the class's defaults.
        size: frames, height and width in pixels that it was made for.
        pictures: whether it reads a picture.
    """

    name: str
    family: str
    config: Mapping[str, Any] = attrs.field(factory=dict)
    size: tuple[int, int, int] = (1, 1024, 1024)
    pictures: bool = False

    @property
    def found(self) -> Family:
        """Its family."""
        return next(family for family in FAMILIES if family.name == self.family)

    @property
    def settings(self) -> dict[str, Any]:
        """The whole config of the transformer, as its `config.json` holds it."""
        return dict(_config(self.name))

    @property
    def short(self) -> str:
        """Its name without the owner."""
        return self.name.rpartition("/")[2].removesuffix("-Diffusers")

    def theirs(self) -> Any:
        """Diffusers' transformer, on the meta device."""
        with torch.device("meta"):
            return getattr(diffusers, self.found.transformer)(**self.config)

    def request(self, dtype: torch.dtype = torch.float32) -> MADE:
        """Return conditioning and latents of one sample, in the mode and on the device that are set."""
        torch.set_default_dtype(dtype)
        try:
            return REQUESTS[self.family](self, self.settings)
        finally:
            torch.set_default_dtype(torch.float32)


@functools.cache
def _config(name: str) -> Mapping[str, Any]:
    """Return the config of a checkpoint; building it takes a second."""
    return next(found for found in PUBLISHED if found.name == name).theirs().config


def _number(settings: Mapping[str, Any]) -> torch.Tensor | None:
    return torch.empty(1) if settings.get("guidance_embeds") else None


def _packed(found: Published, settings: Mapping[str, Any]) -> MADE:
    """Return the request of a family of two streams, whose tokens are 2 x 2 latents."""
    tokens, channels, pooled = found.size[1] * found.size[2] // 256, settings["in_channels"], "pooled_projection_dim"
    conditioning = Conditioning(
        text=torch.empty(1, TEXT, settings["joint_attention_dim"]),
        pooled=torch.empty(1, settings[pooled]) if pooled in settings else None,
        guidance=_number(settings),
        reference=torch.empty(1, tokens, channels) if found.pictures else None,
        ids=Shared(value=torch.empty(TEXT + tokens * (1 + found.pictures), len(settings["axes_dims_rope"]))),
    )
    return conditioning, torch.empty(1, tokens, channels)


def _z_image(found: Published, settings: Mapping[str, Any]) -> MADE:
    _, height, width = found.size
    conditioning = z_image.Conditioning(
        text=torch.empty(1, TEXT, settings["cap_feat_dim"]), grid=(height // 16, width // 16), ragged=False
    )
    return conditioning, torch.empty(1, settings["in_channels"], height // 8, width // 8)


def _wan(found: Published, settings: Mapping[str, Any]) -> MADE:
    frames, height, width = found.size
    out, side = settings["out_channels"], 16 if settings["out_channels"] == 48 else 8
    video = (frames // 4 + 1, height // side, width // side)
    beside = settings["in_channels"] - out
    conditioning = wan.Conditioning(
        text=torch.empty(1, TEXT, settings["text_dim"]),
        image=torch.empty(1, 257, settings["image_dim"]) if settings["image_dim"] else None,
        beside=torch.empty(1, beside, *video) if beside else None,
        first=torch.empty(1, out, 1, *video[1:]) if found.pictures and not beside else None,
        grid=(video[0], video[1] // 2, video[2] // 2),
    )
    return conditioning, torch.empty(1, out, *video)


def _hunyuan(found: Published, settings: Mapping[str, Any]) -> MADE:
    frames, height, width = found.size
    video = (frames // 4 + 1, height // 8, width // 8)
    out = settings["out_channels"]
    conditioning = hunyuan_video.Conditioning(
        text=torch.empty(1, TEXT, settings["text_embed_dim"]),
        mask=None,
        pooled=torch.empty(1, settings["pooled_projection_dim"]),
        guidance=_number(settings),
        image=torch.empty(1, out, 1, *video[1:]) if found.pictures else None,
        grid=(video[0], video[1] // 2, video[2] // 2),
    )
    return conditioning, torch.empty(1, out, *video)


REQUESTS: Mapping[str, Callable[[Published, Mapping[str, Any]], MADE]] = {
    "FLUX.1": _packed,
    "FLUX.2": _packed,
    "Ovis-Image": _packed,
    "Qwen-Image": _packed,
    "Z-Image": _z_image,
    "Wan": _wan,
    "HunyuanVideo": _hunyuan,
}
KLEIN_4B = {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680}
KLEIN_9B = {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288}
SMALL_WAN = {"ffn_dim": 8960, "num_attention_heads": 12, "num_layers": 30}
WAN_I2V = {"added_kv_proj_dim": 5120, "image_dim": 1280, "in_channels": 36}
WAN_5B = {"ffn_dim": 14336, "in_channels": 48, "num_attention_heads": 24, "num_layers": 30, "out_channels": 48}
HD, SD = (81, 720, 1280), (81, 480, 832)
PUBLISHED = (
    Published("black-forest-labs/FLUX.1-dev", "FLUX.1", {"guidance_embeds": True}),
    Published("black-forest-labs/FLUX.1-schnell", "FLUX.1"),
    Published("black-forest-labs/FLUX.2-dev", "FLUX.2"),
    Published("black-forest-labs/FLUX.2-klein-4B", "FLUX.2", {**KLEIN_4B, "guidance_embeds": False}),
    Published("black-forest-labs/FLUX.2-klein-9B", "FLUX.2", {**KLEIN_9B, "guidance_embeds": False}),
    Published("AIDC-AI/Ovis-Image-7B", "Ovis-Image"),
    Published("Qwen/Qwen-Image", "Qwen-Image"),
    Published("Qwen/Qwen-Image-Edit", "Qwen-Image", pictures=True),
    Published("Qwen/Qwen-Image-Edit-2509", "Qwen-Image", pictures=True),
    Published("Qwen/Qwen-Image-Edit-2511", "Qwen-Image", {"zero_cond_t": True}, pictures=True),
    Published("Tongyi-MAI/Z-Image-Turbo", "Z-Image", {"axes_lens": [1536, 512, 512]}),
    Published("Tongyi-MAI/Z-Image", "Z-Image", {"axes_lens": [1536, 512, 512]}),
    Published("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "Wan", SMALL_WAN, SD),
    Published("Wan-AI/Wan2.1-T2V-14B-Diffusers", "Wan", {}, HD),
    Published("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", "Wan", WAN_I2V, SD, True),
    Published("Wan-AI/Wan2.1-I2V-14B-720P-Diffusers", "Wan", WAN_I2V, HD, True),
    Published("Wan-AI/Wan2.2-T2V-A14B-Diffusers", "Wan", {}, HD),
    Published("Wan-AI/Wan2.2-I2V-A14B-Diffusers", "Wan", {"in_channels": 36}, HD, True),
    Published("Wan-AI/Wan2.2-TI2V-5B-Diffusers", "Wan", WAN_5B, (121, 704, 1280)),
    Published("hunyuanvideo-community/HunyuanVideo", "HunyuanVideo", {}, (125, 720, 1280)),
    Published(
        "hunyuanvideo-community/HunyuanVideo-I2V",
        "HunyuanVideo",
        {"image_condition_type": "token_replace"},
        (125, 720, 1280),
        True,
    ),
)

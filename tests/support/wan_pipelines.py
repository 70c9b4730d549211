"""Whole Wan pipelines in miniature, as diffusers makes and saves them."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
)
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from tests.support.tiny import T5_SIZES, t5_tokenizer
from tests.support.wan import CONFIG, transformer

SIZE: dict[str, Any] = {"height": 16, "width": 32}
CHANNELS = 16  # of the latents
VISION: dict[str, Any] = {"hidden_size": 24, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 3}
MEANS = [0.1 * (channel % 5) - 0.2 for channel in range(48)]
DEVIATIONS = [0.8 + 0.05 * (channel % 7) for channel in range(48)]


def euler() -> FlowMatchEulerDiscreteScheduler:
    """The scheduler that some of the checkpoints' users take."""
    return FlowMatchEulerDiscreteScheduler(shift=7.0)


def unipc(shift: float = 3.0, **changes: Any) -> UniPCMultistepScheduler:
    """The scheduler of the checkpoints, with everything their files set."""
    options: dict[str, Any] = {
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": shift,
        **changes,
    }
    return UniPCMultistepScheduler(**options)


def umt5() -> UMT5EncoderModel:
    """A random UMT5 encoder."""
    return UMT5EncoderModel(UMT5Config(**T5_SIZES)).eval()


def vae(residual: bool = False) -> AutoencoderKLWan:
    """A random autoencoder; `residual` is that of Wan 2.2 TI2V, with 48 channels and 16 pixels to a latent."""
    channels = 48 if residual else CHANNELS
    extra: dict[str, Any] = {"latents_mean": MEANS[:channels], "latents_std": DEVIATIONS[:channels]}
    if residual:
        extra |= {"in_channels": 12, "out_channels": 12, "is_residual": True, "patch_size": 2}
        extra |= {"scale_factor_spatial": 16, "scale_factor_temporal": 4}
    blocks: dict[str, Any] = {"dim_mult": [1, 1, 1, 1], "temperal_downsample": [False, True, True]}
    return AutoencoderKLWan(base_dim=3, z_dim=channels, num_res_blocks=1, **blocks, **extra).eval()


def vision() -> dict[str, Any]:
    """CLIP's vision encoder and what reads pictures for it: 5 tokens a picture."""
    encoder = CLIPVisionModel(CLIPVisionConfig(image_size=4, patch_size=2, **VISION)).eval()
    reader = CLIPImageProcessorPil(size={"shortest_edge": 4}, crop_size={"height": 4, "width": 4})
    return {"image_encoder": encoder, "image_processor": reader}


def picture(seed: int = 0) -> Image.Image:
    """A random picture of soft blots."""
    pixels = torch.rand(6, 5, 3, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray((pixels * 255).to(torch.uint8).numpy()).resize((40, 48), Image.Resampling.BICUBIC)


def pipeline(kind: str, scheduler: Any = None, **changes: Any) -> Any:
    """A random diffusers pipeline of one of `KINDS`."""
    cls, config, options = KINDS[kind]
    residual = bool(options.get("expand_timesteps"))
    parts: dict[str, Any] = {**options, "scheduler": scheduler or unipc()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts |= {"tokenizer": t5_tokenizer(), "text_encoder": umt5(), "vae": vae(residual)}
        if "image_dim" in config:
            parts |= vision()
    parts["transformer"] = transformer(0, **{**config, **changes})
    if "boundary_ratio" in options:
        parts["transformer_2"] = transformer(1, **{**config, **changes})
    made = cls(**parts)
    made.set_progress_bar_config(disable=True)
    return made


EMBEDDED = {"image_dim": VISION["hidden_size"], "added_kv_proj_dim": 48, "in_channels": 36}
WIDE = {"in_channels": 48, "out_channels": 48, "cross_attn_norm": True}
# Class, changes to the transformer's config, and what else the pipeline is told.
KINDS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "t2v-2.1": (WanPipeline, {}, {}),
    "t2v-2.2": (WanPipeline, {}, {"boundary_ratio": 0.875}),
    "ti2v-from-text": (WanPipeline, WIDE, {"expand_timesteps": True}),
    "i2v-2.1": (WanImageToVideoPipeline, EMBEDDED, {}),
    "flf2v-2.1": (WanImageToVideoPipeline, {**EMBEDDED, "pos_embed_seq_len": 10}, {}),
    "i2v-2.2": (WanImageToVideoPipeline, {"in_channels": 36}, {"boundary_ratio": 0.9}),
    "ti2v": (WanImageToVideoPipeline, WIDE, {"expand_timesteps": True}),
}
assert CONFIG["in_channels"] == CHANNELS

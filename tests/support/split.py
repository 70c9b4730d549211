"""One model of every family with four heads, to be split over ranks, and a way to run it there."""

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch

from pure import Denoiser, Experts, Transform
from pure.distributed import Sizes, make_mesh, tensor_parallel
from pure.models.common.config import TransformerConfig, parameter_shapes
from pure.models.flux.config import FluxConfig
from pure.models.flux.denoiser import flux
from pure.models.flux2.config import Flux2Config
from pure.models.flux2.denoiser import flux2
from pure.models.hunyuan_video.config import HunyuanVideoConfig
from pure.models.hunyuan_video.denoiser import hunyuan_video
from pure.models.ovis.config import OvisConfig
from pure.models.ovis.denoiser import ovis
from pure.models.qwen_image.config import QwenImageConfig
from pure.models.qwen_image.denoiser import qwen_image
from pure.models.wan.config import WanConfig
from pure.models.wan.denoiser import wan
from pure.models.z_image.config import ZImageConfig
from pure.models.z_image.denoiser import z_image
from pure.testing.situation import Model, Situation, tensors
from tests.support import flux2 as flux2_support
from tests.support import hunyuan_video as hunyuan_support
from tests.support import ovis as ovis_support
from tests.support import qwen_image as qwen_support
from tests.support import wan as wan_support
from tests.support import z_image as z_image_support
from tests.support.adder import drawn
from tests.support.flux import FLUX, FLUX_DEV

CONFIGS: dict[Callable[..., Denoiser], type[TransformerConfig]] = {
    flux: FluxConfig,
    flux2: Flux2Config,
    z_image: ZImageConfig,
    ovis: OvisConfig,
    qwen_image: QwenImageConfig,
    wan: WanConfig,
    hunyuan_video: HunyuanVideoConfig,
}
QWEN: dict[str, Any] = {
    **qwen_support.CONFIG,
    "in_channels": 4,
    "out_channels": 1,
    "attention_head_dim": 8,
    "joint_attention_dim": 8,
    "axes_dims_rope": (2, 2, 4),
    "num_layers": 4,
}


def _four(like: Model, family: Callable[..., Denoiser], config: Mapping[str, Any], scale: float, **options) -> Model:
    """A model of the law suite, twice as wide: four heads instead of two."""
    more = {"dim": 32, "n_heads": 4, "n_kv_heads": 4} if family is z_image else {"num_attention_heads": 4}
    config = {**config, **more}
    params = drawn(CONFIGS[family].read(config), scale)
    if family in (flux2, ovis):
        params = flux2_support.slowed(params)
    return attrs.evolve(like, denoiser=family(config, **options), params=params)


def _models() -> dict[str, Model]:
    text, concat, replace = hunyuan_support.MODELS
    hunyuan, small = hunyuan_support.SMALL, wan_support.SMALL
    video = _four(wan_support.WAN_T2V, wan, small, 0.18)
    image = {"image_dim": 5, "added_kv_proj_dim": 32, "in_channels": 5}
    beside = {**hunyuan_support.KINDS["concat"], "in_channels": 5}
    experts = attrs.evolve(
        wan_support.WAN_EXPERTS,
        denoiser=Experts({"high": video.first, "low": video.first}),
        params={"high": video.params, "low": {name: 1.1 * tensor for name, tensor in video.params.items()}},
    )
    made = (
        _four(FLUX_DEV, flux, {**FLUX, "guidance_embeds": True}, 0.09),
        _four(flux2_support.FLUX2_KLEIN, flux2, {**flux2_support.LAW_CONFIG, "guidance_embeds": False}, 0.1),
        _four(z_image_support.Z_IMAGE_RAGGED, z_image, z_image_support.LAW_CONFIG, 0.1),
        _four(ovis_support.OVIS, ovis, ovis_support.LAW_CONFIG, 0.1),
        _four(qwen_support.QWEN_IMAGE, qwen_image, QWEN, 0.09),
        _four(qwen_support.QWEN_EDIT, qwen_image, {**QWEN, "zero_cond_t": True}, 0.09),
        video,
        _four(wan_support.WAN_I2V, wan, {**small, **image}, 0.2),
        _four(wan_support.WAN_TI2V, wan, {**small, "cross_attn_norm": False}, 0.2, expand_timesteps=True),
        experts,
        _four(text, hunyuan_video, hunyuan, 0.09),
        _four(concat, hunyuan_video, {**hunyuan, **beside}, 0.09),
        _four(replace, hunyuan_video, {**hunyuan, **hunyuan_support.KINDS["replace"]}, 0.09),
    )
    return {model.name: model for model in made}


MODELS = _models()


@attrs.frozen
class Seen:
    """One step of a run, as it is sent from a rank to the test."""

    prediction: torch.Tensor
    decisions: tuple
    state: Mapping[str, torch.Tensor]


def split(model: Model, sizes: Sizes) -> Model:
    """The model with this rank's part of its parameters."""
    return attrs.evolve(model, params=tensor_parallel(model.params, model.denoiser, make_mesh(sizes)))


def seen(model: Model, transform: Transform, seeds: tuple[int, ...], count: int) -> list[Seen]:
    """Run a model."""
    entries = Situation(model=model, transform=transform, seeds=seeds, count=count).trace()
    return [Seen(entry.prediction, entry.info.decisions, tensors(entry.after)) for entry in entries]


def seen_on_ranks(name: str, sizes: Sizes, transform: Transform, seeds: tuple[int, ...], count: int) -> list[Seen]:
    """Run a model on one of several ranks."""
    return seen(split(MODELS[name], sizes), transform, seeds, count)


def meta(family: Callable[..., Denoiser]) -> dict[str, torch.Tensor]:
    """The parameters of the largest model of a family, without their numbers."""
    return {name: torch.empty(shape, device="meta") for name, shape in parameter_shapes(CONFIGS[family]()).items()}

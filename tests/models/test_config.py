"""Configs of transformers: records with the defaults of diffusers' classes, read from JSON and checked."""

import inspect
import json

import attrs
import diffusers
import pytest
import torch

from pure.models import CheckpointError
from pure.models.common.config import TransformerConfig, parameter_shapes
from pure.models.flux.config import FluxConfig
from pure.models.flux2.config import Flux2Config
from pure.models.hunyuan_video.config import HunyuanVideoConfig
from pure.models.ovis.config import OvisConfig
from pure.models.qwen_image.config import QwenImageConfig
from pure.models.registry import FAMILIES
from pure.models.wan.config import WanConfig
from pure.models.z_image.config import ZImageConfig
from tests.support.exact import shapes

CONFIGS = [family.config for family in FAMILIES]
families = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)


def signature(config: type[TransformerConfig]) -> dict:
    """The arguments of diffusers' class and their defaults."""
    parameters = inspect.signature(getattr(diffusers, config.transformer)).parameters
    return {name: parameter.default for name, parameter in parameters.items()}


def listed(values: dict) -> dict:
    """The values as a JSON file holds them."""
    return json.loads(json.dumps(values))


@families
def test_the_fields_and_their_defaults_are_those_of_diffusers(config):
    assert listed(attrs.asdict(config())) == listed(signature(config))


@families
def test_a_record_is_what_diffusers_saves(config):
    with torch.device("meta"):
        model = getattr(diffusers, config.transformer)()
    assert config.read(listed(dict(model.config))) == config.read(model.config) == config.read({}) == config()
    assert config.read(config()) == config()


OTHERS = [
    FluxConfig(guidance_embeds=True, num_layers=2, num_single_layers=0),
    FluxConfig(out_channels=32, patch_size=2, num_layers=0, num_single_layers=2),
    OvisConfig(out_channels=32, patch_size=2, num_layers=1),
    Flux2Config(num_layers=5, num_single_layers=2, num_attention_heads=24, joint_attention_dim=7680),
    ZImageConfig(all_patch_size=(1, 2), all_f_patch_size=(1, 1), n_layers=2),
    QwenImageConfig(out_channels=None, in_channels=32, joint_attention_dim=40, num_layers=2),
    WanConfig(added_kv_proj_dim=5120, image_dim=1280, in_channels=36, pos_embed_seq_len=514, num_layers=2),
    HunyuanVideoConfig(image_condition_type="latent_concat", in_channels=33, num_layers=1, num_single_layers=1),
]


@pytest.mark.parametrize("config", OTHERS, ids=lambda config: config.transformer)
def test_names_and_shapes_follow_the_config(config):
    changed = {k: v for k, v in attrs.asdict(config).items() if v != getattr(type(config)(), k)}
    state = torch.get_rng_state()
    with torch.device("meta"):
        model = getattr(diffusers, config.transformer)(**changed)
    assert parameter_shapes(config) == shapes(model)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("config", "given", "message"),
    [
        (FluxConfig, {"num_layers": "19"}, "num_layers is '19'; it must be a whole number from 0 on"),
        (FluxConfig, {"num_layers": -1}, "num_layers is -1; it must be a whole number from 0 on"),
        (FluxConfig, {"num_layers": True}, "num_layers is True; it must be a whole number"),
        (FluxConfig, {"num_layers": None}, "num_layers is None; it must be a whole number"),
        (FluxConfig, {"num_layers": 1.5}, r"num_layers is 1\.5; it must be a whole number"),
        (FluxConfig, {"axes_dims_rope": 128}, "axes_dims_rope is 128; it must be a list of whole numbers"),
        (FluxConfig, {"axes_dims_rope": [16, "56", 56]}, r"axes_dims_rope is \[16, '56', 56\]; it must be a list"),
        (FluxConfig, {"guidance_embeds": 1}, "guidance_embeds is 1; it must be true or false"),
        (FluxConfig, {"out_channels": "64"}, "out_channels is '64'; it must be a whole number from 0 on or null"),
        (WanConfig, {"eps": "small"}, "eps is 'small'; it must be a number"),
        (WanConfig, {"qk_norm": 3}, "qk_norm is 3; it must be a text or null"),
        (WanConfig, {"patch_size": [2, 2]}, r"patch_size \(2, 2\) should be three numbers"),
        (ZImageConfig, {"n_heads": 0}, "dim 3840 must be a multiple of n_heads 0"),
        (OvisConfig, {"_class_name": "FluxTransformer2DModel"}, "is a FluxTransformer2DModel; supported is OvisImage"),
        (OvisConfig, FluxConfig(), "the transformer is a FluxTransformer2DModel; supported is OvisImage"),
    ],
)
def test_what_a_config_cannot_be_is_refused(config, given, message):
    with pytest.raises(CheckpointError, match=message):
        config.read(given)


@families
def test_an_option_that_is_on_is_refused_unless_it_is_known(config):
    with pytest.raises(CheckpointError, match="sets future_option, which is not implemented; known are "):
        config.read({"future_option": 3})
    assert config.read({"future_option": None, "_diffusers_version": "1.0"}) == config()


def test_a_config_that_the_class_does_not_take_is_refused():
    with pytest.raises(CheckpointError, match="diffusers makes no FluxTransformer2DModel of this config: "):
        parameter_shapes(FluxConfig(num_attention_heads=0))

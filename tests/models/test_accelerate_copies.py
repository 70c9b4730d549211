"""Copies, pickles and other pipelines that are made inside a `with`: plain ones, of the real components."""

import copy
import pickle

import diffusers
import pytest
import torch

import pure
from pure.models.accelerate.proxy import Proxy
from pure.transforms import dbcache
from tests.support.pipelines import make, picture

CACHE = dbcache(front=1, threshold=1.0, warmup=2, max_continuous=1)
WAYS = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda each: pickle.loads(pickle.dumps(each))}


@pytest.fixture(scope="module")
def flux():
    pipe, call = make("flux")
    call |= {"num_inference_steps": 4, "output_type": "latent"}
    return pipe, call, picture(pipe, call)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_copy_is_plain(flux, way):
    pipe, call, expected = flux
    transformer = pipe.transformer
    with pure.accelerate(pipe, CACHE) as report:
        module, other = way(pipe.transformer), way(pipe)
        assert type(module) is diffusers.FluxTransformer2DModel and module is not transformer
        assert type(other) is diffusers.FluxPipeline and type(other.transformer) is diffusers.FluxTransformer2DModel
        assert (other.transformer is transformer) == (way is copy.copy)
        for name, value in module.state_dict().items():
            assert torch.equal(value, transformer.state_dict()[name])
        assert torch.equal(picture(other, call), expected) and not report.calls
        assert type(vars(pipe)["transformer"]) is Proxy
        picture(pipe, call)
        assert report.last.skipped == 1
    assert pipe.transformer is transformer


def test_pipelines_are_made_of_it_with_the_real_components(flux):
    pipe, call, expected = flux
    transformer = pipe.transformer
    with pure.accelerate(pipe, CACHE) as report:
        other = diffusers.FluxImg2ImgPipeline.from_pipe(pipe)
        assert type(other) is diffusers.FluxImg2ImgPipeline and vars(other)["transformer"] is transformer
        assert torch.equal(picture(diffusers.FluxPipeline(**pipe.components), call), expected) and not report.calls


def test_a_place_without_a_component_says_so():
    blank = Proxy.__new__(Proxy)
    with pytest.raises(AttributeError, match="config: this is the place of a component without one"):
        blank.config  # noqa: B018
    assert not hasattr(blank, "_module") and isinstance(blank, Proxy)

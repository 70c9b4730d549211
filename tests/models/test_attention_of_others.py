"""The kernel of attention of a model that attends itself: diffusers' dispatcher calls it, as if it had been set."""

import contextlib

import pytest
import torch
from diffusers import attention_backend
from diffusers.models import attention_dispatch as peer

import pure
from pure.models import CheckpointError
from pure.models.adapt.whole import whole
from pure.testing.recipes import KERNELS
from pure.transforms import attention, compiled, dbcache, scm
from tests.support.pipelines import make, picture

ALTERNATE = dbcache(front=1, threshold=1.0, warmup=2, max_continuous=1)


@pytest.fixture
def called(monkeypatch):
    """The backends that diffusers' dispatcher has called, by their names."""
    names = []
    for name, function in dict(peer._AttentionBackendRegistry._backends).items():

        def watched(*args, name=name, function=function, **kwargs):
            names.append(name.value)
            return function(*args, **kwargs)

        monkeypatch.setitem(peer._AttentionBackendRegistry._backends, name, watched)
    return names


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")  # by diffusers
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("kind", ["flux", "qwen", "wan22"])
def test_is_what_diffusers_gives_with_that_backend(kind, name, called):
    pipe, call = make(kind)
    with attention_backend(name):
        expected = picture(pipe, call)
    called.clear()
    with pure.accelerate(pipe, attention(name)):
        assert torch.equal(picture(pipe, call), expected)
    # The first call is watched and compared with the model as it is; whatever runs as a denoiser has the kernel.
    assert called.count(name) > called.count("native")
    called.clear()
    picture(pipe, call)
    assert set(called) == {"native"}, "it ends with the `with`"


def test_with_a_cache(called):
    pipe, call = make("flux")
    cached = pure.compose(ALTERNATE, attention("_native_math"))
    with pure.accelerate(pipe, cached) as report:
        picture(pipe, call)
    assert report.last.skipped and "_native_math" in called


def test_compiled():
    pipe, call = make("flux")
    cached = pure.compose(ALTERNATE, attention("_native_math"))
    with pure.accelerate(pipe, cached):
        eager = picture(pipe, call)
    with pure.accelerate(pipe, pure.compose(cached, compiled(backend="eager"))):
        assert torch.equal(picture(pipe, call), eager)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (
            "unet",
            "the attention of .*UNet.* cannot be chosen, as its AttnProcessor2_0 does not ask diffusers",
        ),
        ("sd3", "cannot be chosen, as its JointAttnProcessor2_0 does not ask .*; leave attention.'flex'. out"),
    ],
)
def test_what_does_not_ask_the_dispatcher_is_refused(kind, wanted):
    pipe, _ = make(kind)
    transform = attention("flex")
    if kind == "unet":
        transform = pure.compose(transform, scm(mask="10", policy="static"))
    with pytest.raises(CheckpointError, match=wanted), pure.accelerate(pipe, transform):
        pass


def test_a_kernel_that_was_set_is_not_overruled():
    pipe, _ = make("flux")
    for module in pipe.transformer.attn_processors.values():
        module._attention_backend = "_native_math"
    with (
        pytest.raises(CheckpointError, match=r"is set to _native_math .set_attention_backend., and attention"),
        pure.accelerate(pipe, attention("flex")),
    ):
        pass


def test_a_function_attends_in_its_own_way():
    denoiser = attention("flex")(whole(lambda latents, timestep, conditioning: -latents))
    latents = torch.ones(1, 2)
    state = denoiser.init({}, None, latents, 1)
    step = pure.Step(index=0, count=1, timestep=torch.ones(1))
    with pytest.raises(ValueError, match="a function in one piece attends in its own way; leave attention"):
        denoiser.apply({}, state, pure.Inputs(latents, step))


class Calling:
    """A function that calls a model which attends without asking anybody."""

    module = torch.nn.Linear(2, 2)

    def __call__(self, latents, timestep, conditioning):
        return self.module(latents)


def test_a_model_in_one_piece_that_cannot_attend_otherwise_says_so_when_it_runs():
    latents, step = torch.ones(1, 2), pure.Step(index=0, count=1, timestep=torch.ones(1))
    for transform, refused in ((pure.identity, False), (attention("flex"), True)):
        denoiser = transform(whole(Calling()))
        state = denoiser.init({}, None, latents, 1)
        said = pytest.raises(CheckpointError, match="Linear has no attention that could be chosen; leave attention")
        with said if refused else contextlib.nullcontext():
            denoiser.apply({}, state, pure.Inputs(latents, step))

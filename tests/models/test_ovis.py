"""Ovis-Image as pure functions against diffusers' module: the same bits."""

from typing import Any

import attrs
import pytest
import torch
from diffusers import OvisImageTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st

import pure
from pure.models import CheckpointError
from pure.models.ovis import ovis
from pure.models.ovis_parameters import DEFAULTS, parameter_shapes
from pure.tree import signature
from tests.support import ovis as tiny
from tests.support.tiny import params


def reference(model: OvisImageTransformer2DModel, call: dict) -> torch.Tensor:
    with torch.no_grad():
        return model(**call, return_dict=False)[0]


def ours(
    model: OvisImageTransformer2DModel, call: dict, compile: pure.CompileOptions | None = None
) -> tuple[torch.Tensor, pure.State, pure.State]:
    """Prediction, and the state before and after."""
    denoiser = attrs.evolve(ovis(model.config), compile=compile)
    weights, latents = params(model), call["hidden_states"]
    step = pure.Step(index=0, count=4, timestep=call["timestep"])
    with torch.no_grad():
        before = denoiser.init(weights, tiny.conditioning(call), latents, 4)
        prediction, after, _ = denoiser.apply(weights, before, pure.Inputs(latents, step))
    return prediction, before, after


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("text", [1, 8, 19])
def test_predictions_are_equal_bit_for_bit(batch, text):
    model = tiny.transformer()
    call = tiny.call(model, batch, text, rows=3, columns=5)
    assert torch.equal(ours(model, call)[0], reference(model, call))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_equal_bit_for_bit(dtype, batch):
    model = tiny.transformer().to(dtype)
    call = tiny.call(model, batch)
    assert torch.equal(ours(model, call)[0], reference(model, call))


@pytest.mark.parametrize(
    "changes",
    [{"num_layers": 0}, {"num_single_layers": 0}, {"out_channels": 12}, {"out_channels": None}, {"patch_size": 2}],
    ids=str,
)
def test_other_shapes_are_equal_bit_for_bit(changes):
    model = tiny.transformer(**changes)
    call = tiny.call(model, batch=2)
    prediction = reference(model, call)
    denoiser, weights = ovis(model.config), params(model)
    with torch.no_grad():
        prepared = denoiser.prepare(weights, tiny.conditioning(call))
        hidden, context = denoiser.embed(weights, prepared, call["hidden_states"], call["timestep"])
        for block, group in zip(denoiser.blocks, denoiser.bind(weights).blocks, strict=True):
            hidden = block.run(group, hidden, context, denoiser.attend)
        assert torch.equal(denoiser.head(weights, hidden, context), prediction)


@st.composite
def configs(draw) -> dict:
    axes = draw(st.tuples(*[st.sampled_from([2, 4, 6, 8])] * 3))
    return {
        "in_channels": 4 * draw(st.integers(1, 4)),
        "out_channels": None,
        "num_layers": draw(st.integers(0, 2)),
        "num_single_layers": draw(st.integers(1, 3)),
        "attention_head_dim": sum(axes),
        "num_attention_heads": draw(st.integers(1, 5)),
        "joint_attention_dim": draw(st.integers(1, 40)),
        "axes_dims_rope": axes,
    }


@settings(max_examples=15)
@given(configs(), st.integers(1, 3), st.integers(1, 12), st.integers(1, 5), st.integers(1, 5))
def test_drawn_configurations_are_equal(config, batch, text, rows, columns):
    model = tiny.transformer(**config)
    assert parameter_shapes(model.config) == {name: tuple(t.shape) for name, t in model.state_dict().items()}
    call = tiny.call(model, batch, text, rows, columns)
    torch.testing.assert_close(ours(model, call)[0], reference(model, call), atol=1e-6, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"out_channels": 32, "patch_size": 2}], ids=["7b", "other"])
def test_parameter_shapes_of_the_published_size(changes):
    with torch.device("meta"):
        model = OvisImageTransformer2DModel(**changes)
    assert parameter_shapes(changes) == {name: tuple(t.shape) for name, t in model.state_dict().items()}


def test_the_defaults_are_those_of_diffusers():
    layers: dict[str, Any] = {"num_layers": 0, "num_single_layers": 0}
    with torch.device("meta"):
        model = OvisImageTransformer2DModel(**layers)
    assert {name: model.config[name] for name in DEFAULTS} == {**DEFAULTS, **layers}
    assert not {name for name in model.config if name[0] != "_"} - DEFAULTS.keys()


def test_equal_configs_give_equal_denoisers():
    config = dict(tiny.CONFIG)
    axes = list(tiny.CONFIG["axes_dims_rope"])
    assert ovis(config) == ovis({**config, "axes_dims_rope": axes, "_class_name": "OvisImageTransformer2DModel"})
    assert ovis(config) != ovis({**config, "axes_dims_rope": (8, 4, 4)})


def test_nothing_passed_in_is_changed():
    model = tiny.transformer()
    call = tiny.call(model, batch=2)
    tensors = [*params(model).values(), *call.values()]
    copies, versions = [t.clone() for t in tensors], [t._version for t in tensors]
    first, before, after = ours(model, call)
    assert torch.equal(first, ours(model, call)[0])
    assert after.prepared is before.prepared and signature(after) == signature(before)
    assert [t._version for t in tensors] == versions
    assert all(torch.equal(t, copy) for t, copy in zip(tensors, copies, strict=True))


def test_every_piece_traces_without_a_break():
    model = tiny.transformer()
    call = tiny.call(model, batch=2)
    compiled, _, _ = ours(model, call, pure.CompileOptions(backend="eager"))
    assert torch.equal(compiled, reference(model, call))


def test_attention_is_an_argument():
    seen = []

    def watched(q, k, v, mask=None):
        seen.append((q.shape, mask))
        return torch.zeros_like(q)

    model = tiny.transformer()
    call = tiny.call(model, batch=2, text=8)
    denoiser, weights = attrs.evolve(ovis(model.config), attend=watched), params(model)
    step = pure.Step(index=0, count=1, timestep=call["timestep"])
    with torch.no_grad():
        state = denoiser.init(weights, tiny.conditioning(call), call["hidden_states"], 1)
        denoiser.apply(weights, state, pure.Inputs(call["hidden_states"], step))
    assert seen == [((2, 8 + 16, 4, 16), None)] * 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes_dims_rope": (4, 4, 4)}, r"axes_dims_rope \(4, 4, 4\) sums to 12; it must sum to attention_head_dim 16"),
        ({"_class_name": "FluxTransformer2DModel"}, "the transformer is a FluxTransformer2DModel; supported is Ovis"),
        (
            {"guidance_embeds": True},
            "sets guidance_embeds, which is not implemented; known are patch_size, in_channels",
        ),
    ],
)
def test_unknown_configs_are_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        ovis({**tiny.CONFIG, **changes})

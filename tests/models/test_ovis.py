"""Ovis-Image as pure functions against diffusers' module: the same bits."""

import pytest
import torch
from diffusers import OvisImageTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st

import pure
from pure.models import CheckpointError
from pure.models.common.config import parameter_shapes
from pure.models.ovis.config import OvisConfig
from pure.models.ovis.denoiser import ovis
from pure.tree import signature
from tests.support import ovis as tiny
from tests.support.exact import attended, piece_by_piece, predicted, run, unchanged
from tests.support.tiny import params


def ours(
    model: OvisImageTransformer2DModel, call: dict, compile: pure.CompileOptions | None = None
) -> tuple[torch.Tensor, pure.State, pure.State]:
    """Prediction, and the state before and after."""
    return run(ovis(model.config), model, *tiny.inputs(call), compile=compile)


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("text", [1, 8, 19])
def test_predictions_are_equal_bit_for_bit(batch, text):
    model = tiny.transformer()
    call = tiny.call(model, batch, text, rows=3, columns=5)
    assert torch.equal(ours(model, call)[0], predicted(model, call))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_equal_bit_for_bit(dtype, batch):
    model = tiny.transformer().to(dtype)
    call = tiny.call(model, batch)
    assert torch.equal(ours(model, call)[0], predicted(model, call))


@pytest.mark.parametrize(
    "changes",
    [{"num_layers": 0}, {"num_single_layers": 0}, {"out_channels": 12}, {"out_channels": None}, {"patch_size": 2}],
    ids=str,
)
def test_other_shapes_are_equal_bit_for_bit(changes):
    model = tiny.transformer(**changes)
    call = tiny.call(model, batch=2)
    assert torch.equal(piece_by_piece(ovis(model.config), model, *tiny.inputs(call)), predicted(model, call))


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
    assert parameter_shapes(OvisConfig.read(model.config)) == {
        name: tuple(t.shape) for name, t in model.state_dict().items()
    }
    call = tiny.call(model, batch, text, rows, columns)
    torch.testing.assert_close(ours(model, call)[0], predicted(model, call), atol=1e-6, rtol=0)


def test_equal_configs_give_equal_denoisers():
    config = dict(tiny.CONFIG)
    axes = list(tiny.CONFIG["axes_dims_rope"])
    assert ovis(config) == ovis({**config, "axes_dims_rope": axes, "_class_name": "OvisImageTransformer2DModel"})
    assert ovis(config) != ovis({**config, "axes_dims_rope": (8, 4, 4)})


def test_nothing_passed_in_is_changed():
    model = tiny.transformer()
    call = tiny.call(model, batch=2)
    tensors = [*params(model).values(), *call.values()]
    with unchanged(tensors):
        first, before, after = ours(model, call)
    assert torch.equal(first, ours(model, call)[0])
    assert after.prepared is before.prepared and signature(after) == signature(before)


def test_every_piece_traces_without_a_break():
    model = tiny.transformer()
    call = tiny.call(model, batch=2)
    compiled, _, _ = ours(model, call, pure.CompileOptions(backend="eager"))
    assert torch.equal(compiled, predicted(model, call))


def test_attention_is_an_argument():
    model = tiny.transformer()
    seen = attended(ovis(model.config), model, *tiny.inputs(tiny.call(model, batch=2, text=8)))
    shape = (2, 8 + 16, 4, 16)
    assert seen == [(shape, shape, None)] * 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"axes_dims_rope": (4, 4, 4)},
            r"axes_dims_rope \(4, 4, 4\) must be 3 even .* that sum to attention_head_dim 16",
        ),
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

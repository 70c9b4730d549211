"""FLUX as pure functions against diffusers' module: the same bits."""

import pytest
import torch
from diffusers import FluxTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st

import pure
from pure.models import CheckpointError
from pure.models.common.config import parameter_shapes
from pure.models.flux.config import FluxConfig
from pure.models.flux.denoiser import flux
from pure.tree import signature
from tests.support import tiny
from tests.support.exact import attended, piece_by_piece, predicted, run, unchanged


def ours(
    model: FluxTransformer2DModel, call: dict, compile: pure.CompileOptions | None = None
) -> tuple[torch.Tensor, pure.State, pure.State]:
    """Prediction, and the state before and after."""
    return run(flux(model.config), model, *tiny.inputs(call), compile=compile)


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("guidance", [True, False])
@pytest.mark.parametrize("text", [1, 8, 19])
def test_predictions_are_equal_bit_for_bit(batch, guidance, text):
    model = tiny.transformer(guidance_embeds=guidance)
    call = tiny.call(model, batch, text, rows=3, columns=5)
    assert torch.equal(ours(model, call)[0], predicted(model, call))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_equal_bit_for_bit(dtype):
    model = tiny.transformer().to(dtype)
    call = tiny.call(model, batch=2)
    assert torch.equal(ours(model, call)[0], predicted(model, call))


@pytest.mark.parametrize(
    "changes",
    [{"num_layers": 0}, {"num_single_layers": 0}, {"out_channels": 12}, {"patch_size": 2}],
    ids=lambda changes: next(iter(changes)),
)
def test_other_shapes_are_equal_bit_for_bit(changes):
    model = tiny.transformer(**changes)
    call = tiny.call(model)
    assert torch.equal(piece_by_piece(flux(model.config), model, *tiny.inputs(call)), predicted(model, call))


@st.composite
def configs(draw) -> dict:
    axes = draw(st.tuples(*[st.sampled_from([2, 4, 6, 8])] * 3))
    return {
        "in_channels": 4 * draw(st.integers(1, 4)),
        "num_layers": draw(st.integers(0, 2)),
        "num_single_layers": draw(st.integers(1, 3)),
        "attention_head_dim": sum(axes),
        "num_attention_heads": draw(st.integers(1, 5)),
        "joint_attention_dim": draw(st.integers(1, 40)),
        "pooled_projection_dim": draw(st.integers(1, 40)),
        "guidance_embeds": draw(st.booleans()),
        "axes_dims_rope": axes,
    }


@settings(max_examples=15)
@given(configs(), st.integers(1, 3), st.integers(1, 12), st.integers(1, 5), st.integers(1, 5))
def test_drawn_configurations_are_equal(config, batch, text, rows, columns):
    model = tiny.transformer(**config)
    assert parameter_shapes(FluxConfig.read(model.config)) == {
        name: tuple(t.shape) for name, t in model.state_dict().items()
    }
    call = tiny.call(model, batch, text, rows, columns)
    torch.testing.assert_close(ours(model, call)[0], predicted(model, call), atol=1e-6, rtol=0)


def test_guidance_is_a_matter_of_structure():
    signatures = []
    for guidance in (True, False):
        model = tiny.transformer(guidance_embeds=guidance)
        _, before, after = ours(model, tiny.call(model))
        assert len(before.prepared.added) == 1 + guidance  # the pooled text, and the guidance
        assert after.prepared is before.prepared
        assert signature(after) == signature(before)
        signatures.append(signature(before))
    assert signatures[0] != signatures[1]


def test_equal_configs_give_equal_denoisers():
    config = dict(tiny.CONFIG)
    assert flux(config) == flux(
        {**config, "axes_dims_rope": list(tiny.CONFIG["axes_dims_rope"]), "_class_name": "FluxTransformer2DModel"}
    )
    assert flux(config) != flux({**config, "axes_dims_rope": (8, 4, 4)})


def test_nothing_passed_in_is_changed():
    model = tiny.transformer()
    call = tiny.call(model, batch=2)
    params = tiny.params(model)
    tensors = [*params.values(), *(value for value in call.values() if value is not None)]
    with unchanged(tensors):
        first, second = ours(model, call)[0], ours(model, call)[0]
    assert torch.equal(first, second)


def test_every_piece_traces_without_a_break():
    model = tiny.transformer()
    call = tiny.call(model, batch=2)
    compiled, _, _ = ours(model, call, pure.CompileOptions(backend="eager"))
    assert torch.equal(compiled, predicted(model, call))


def test_attention_is_an_argument():
    model = tiny.transformer()
    seen = attended(flux(model.config), model, *tiny.inputs(tiny.call(model, batch=2, text=8)))
    shape = (2, 8 + 16, 4, 16)
    assert seen == [(shape, shape, None)] * 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"axes_dims_rope": (4, 4, 4)},
            r"axes_dims_rope \(4, 4, 4\) must be 3 even .* that sum to attention_head_dim 16",
        ),
        ({"axes_dims_rope": (5, 5, 6)}, r"axes_dims_rope \(5, 5, 6\) must be 3 even numbers, one for each axis"),
        ({"axes_dims_rope": (8, 8)}, r"axes_dims_rope \(8, 8\) must be 3 even numbers"),
        ({"_class_name": "Flux2Transformer2DModel"}, "the transformer is a Flux2Transformer2DModel; supported is Flux"),
        ({"qk_clip": 3}, "sets qk_clip, which is not implemented; known are patch_size, in_channels"),
    ],
)
def test_unknown_configs_are_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        flux({**tiny.CONFIG, **changes})


def test_options_that_are_off_are_ignored():
    assert flux({**tiny.CONFIG, "_diffusers_version": "1.0", "new_option": False}) == flux(tiny.CONFIG)

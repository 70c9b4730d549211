"""FLUX.2 as pure functions against diffusers' module: the same bits."""

from typing import Any

import attrs
import pytest
import torch
from diffusers import Flux2Transformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st

import pure
from pure.models import CheckpointError
from pure.models.common.config import parameter_shapes
from pure.models.flux2.config import Flux2Config
from pure.models.flux2.denoiser import flux2
from pure.tree import signature
from tests.support import flux2 as tiny
from tests.support.exact import attended, piece_by_piece, predicted, run, unchanged
from tests.support.tiny import params

DEV: dict = {}
KLEIN_4B = {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680}
KLEIN_9B = {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288}


def reference(model: Flux2Transformer2DModel, call: dict, tokens: int | None = None) -> torch.Tensor:
    return predicted(model, call)[:, :tokens]


def ours(
    model: Flux2Transformer2DModel,
    call: dict,
    tokens: int | None = None,
    compile: pure.CompileOptions | None = None,
) -> tuple[torch.Tensor, pure.State, pure.State]:
    """Prediction, and the state before and after; references begin after `tokens`."""
    return run(flux2(model.config), model, *tiny.inputs(call, tokens), compile=compile)


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("guidance", [True, False])
@pytest.mark.parametrize("text", [1, 8, 19])
def test_predictions_are_equal_bit_for_bit(batch, guidance, text):
    model = tiny.transformer(guidance_embeds=guidance)
    call = tiny.call(model, batch, text, rows=3, columns=5)
    assert torch.equal(ours(model, call)[0], reference(model, call))


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("references", [((4, 4),), ((2, 3), (5, 1))], ids=["one", "two"])
def test_reference_images_are_equal_bit_for_bit(batch, references):
    model = tiny.transformer(guidance_embeds=False)
    call = tiny.call(model, batch, rows=3, columns=5, references=references)
    prediction = ours(model, call, tokens=15)[0]
    assert prediction.shape == (batch, 15, 4)
    assert torch.equal(prediction, reference(model, call, tokens=15))
    other = {**call, "hidden_states": call["hidden_states"] + (torch.arange(len(call["img_ids"])) >= 15)[:, None]}
    assert not torch.allclose(ours(model, other, tokens=15)[0], prediction), "references are read"


def test_reference_images_of_another_type_are_read_in_that_of_the_latents():
    model: Any = tiny.transformer(guidance_embeds=False)
    model.to(torch.bfloat16)
    given, latents, time = tiny.inputs(tiny.call(model, 2, rows=3, columns=5, references=((4, 4),)), 15)
    wide = attrs.evolve(given, reference=torch.as_tensor(given.reference).float())
    one, other = (run(flux2(model.config), model, each, latents, time)[0] for each in (given, wide))
    assert other.dtype == torch.bfloat16 and torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_equal_bit_for_bit(dtype):
    model = tiny.transformer().to(dtype)
    call = tiny.call(model, batch=2)
    assert torch.equal(ours(model, call)[0], reference(model, call))


def test_guidance_is_ignored_by_a_checkpoint_that_embeds_it_where_none_is_given():
    model = tiny.transformer()
    call = {**tiny.call(model, batch=2), "guidance": None}
    assert torch.equal(ours(model, call)[0], reference(model, call))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_layers": 0},
        {"num_single_layers": 0},
        {"out_channels": 12},
        {"patch_size": 2},
        {"mlp_ratio": 2.5},
        {"rope_theta": 10000},
        {"timestep_guidance_channels": 64},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_settings_are_equal_bit_for_bit(changes):
    model = tiny.transformer(**changes)
    call = tiny.call(model, batch=2)
    assert torch.equal(piece_by_piece(flux2(model.config), model, *tiny.inputs(call)), reference(model, call))


@st.composite
def configs(draw) -> dict:
    axes = draw(st.tuples(*[st.sampled_from([2, 4, 6])] * 4))
    return {
        "in_channels": 4 * draw(st.integers(1, 4)),
        "num_layers": draw(st.integers(0, 2)),
        "num_single_layers": draw(st.integers(1, 3)),
        "attention_head_dim": sum(axes),
        "num_attention_heads": draw(st.integers(1, 4)),
        "joint_attention_dim": draw(st.integers(1, 40)),
        "timestep_guidance_channels": 2 * draw(st.integers(1, 40)),
        "mlp_ratio": draw(st.sampled_from([1.0, 2.5, 3.0])),
        "rope_theta": draw(st.sampled_from([100, 2000])),
        "guidance_embeds": draw(st.booleans()),
        "axes_dims_rope": axes,
    }


@settings(max_examples=15)
@given(configs(), st.integers(1, 3), st.integers(1, 12), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_drawn_configurations_are_equal(config, batch, text, rows, columns, edits):
    model = tiny.transformer(**config)
    assert parameter_shapes(Flux2Config.read(model.config)) == {
        name: tuple(t.shape) for name, t in model.state_dict().items()
    }
    call = tiny.call(model, batch, text, rows, columns, references=((columns, rows),) if edits else ())
    tokens = rows * columns if edits else None
    torch.testing.assert_close(ours(model, call, tokens)[0], reference(model, call, tokens), atol=1e-6, rtol=0)


def test_guidance_and_references_are_matters_of_structure():
    signatures = []
    for guidance, tokens in ((True, None), (False, None), (False, 16)):
        model = tiny.transformer(guidance_embeds=guidance)
        call = tiny.call(model, references=() if tokens is None else ((2, 2),))
        _, before, after = ours(model, call, tokens)
        assert len(before.prepared.added) == guidance
        assert (before.prepared.reference is not None) == (tokens is not None)
        assert after.prepared is before.prepared
        assert signature(after) == signature(before)
        signatures.append(signature(before))
    assert len({str(found) for found in signatures}) == 3


def test_equal_configs_give_equal_denoisers():
    config = dict(tiny.CONFIG)
    axes = list(tiny.CONFIG["axes_dims_rope"])
    assert flux2(config) == flux2({**config, "axes_dims_rope": axes, "_class_name": "Flux2Transformer2DModel"})
    assert flux2(config) != flux2({**config, "axes_dims_rope": (8, 4, 2, 2)})
    assert flux2(config) != flux2({**config, "rope_theta": 10000})


def test_nothing_passed_in_is_changed():
    model = tiny.transformer()
    call = tiny.call(model, batch=2, references=((2, 2),))
    weights = params(model)
    tensors = [*weights.values(), *(value for value in call.values() if value is not None)]
    with unchanged(tensors):
        first, second = ours(model, call, tokens=16)[0], ours(model, call, tokens=16)[0]
    assert torch.equal(first, second)


@pytest.mark.parametrize("tokens", [None, 16], ids=["text", "reference"])
def test_every_piece_traces_without_a_break(tokens):
    model = tiny.transformer()
    call = tiny.call(model, batch=2, references=() if tokens is None else ((2, 2),))
    compiled, _, _ = ours(model, call, tokens, pure.CompileOptions(backend="eager"))
    assert torch.equal(compiled, reference(model, call, tokens))


def test_attention_is_an_argument():
    model = tiny.transformer()
    seen = attended(flux2(model.config), model, *tiny.inputs(tiny.call(model, batch=2, text=8)))
    shape = (2, 8 + 16, 4, 16)
    assert seen == [(shape, shape, None)] * 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"axes_dims_rope": (4, 4, 4, 2)},
            r"axes_dims_rope \(4, 4, 4, 2\) must be 4 even numbers, .* that sum to attention_head_dim 16",
        ),
        ({"_class_name": "FluxTransformer2DModel"}, "the transformer is a FluxTransformer2DModel; supported is Flux2"),
        ({"eps": 1e-5}, "eps is 1e-05, which is not implemented; it must be 1e-06"),
        ({"timestep_guidance_channels": 7}, "timestep_guidance_channels 7 must be even"),
        ({"kv_cache": True}, "sets kv_cache, which is not implemented; known are patch_size, in_channels"),
    ],
)
def test_unknown_configs_are_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        flux2({**tiny.CONFIG, **changes})

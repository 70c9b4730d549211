"""Qwen-Image as pure functions against diffusers' module: the same bits."""

from typing import Any

import attrs
import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st

import pure
from pure.models import CheckpointError
from pure.models.common.config import parameter_shapes
from pure.models.qwen_image.config import QwenImageConfig
from pure.models.qwen_image.denoiser import Conditioning, positions, qwen_image
from pure.tree import signature
from tests.support import qwen_image as support
from tests.support import tiny
from tests.support.exact import attended, piece_by_piece, run, unchanged

ONE, TWO, THREE = ((3, 4),), ((3, 4), (2, 5)), ((3, 5), (2, 2), (4, 4))


def reference(model: QwenImageTransformer2DModel, call: dict[str, Any]) -> torch.Tensor:
    """What diffusers' pipelines use: the prediction for the picture that is made."""
    with torch.no_grad():
        return model(**call, return_dict=False)[0][:, : support.latents(call).shape[1]]


def ours(
    model: QwenImageTransformer2DModel, call: dict[str, Any], compile: pure.CompileOptions | None = None
) -> tuple[torch.Tensor, pure.State, pure.State]:
    """Prediction, and the state before and after."""
    return run(qwen_image(model.config), model, *inputs(call), compile=compile)


def inputs(call: dict[str, Any]) -> tuple[Conditioning, torch.Tensor, torch.Tensor]:
    """What the denoiser takes, as arguments of the module's forward say it."""
    return support.conditioning(call), support.latents(call), call["timestep"]


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("pictures", [ONE, TWO, THREE], ids=["text-to-image", "edit", "edit-plus"])
@pytest.mark.parametrize("zero_cond_t", [False, True])
@pytest.mark.parametrize("text", [1, 7, 18])
def test_predictions_are_equal_bit_for_bit(batch, pictures, zero_cond_t, text):
    model = support.transformer(zero_cond_t=zero_cond_t)
    call = support.call(model, batch, text, pictures)
    assert torch.equal(ours(model, call)[0], reference(model, call))


def test_a_time_is_rounded_to_the_type_of_the_latents():
    model: Any = support.transformer()
    call = support.call(model.to(torch.bfloat16), 2)
    wide = {**call, "timestep": torch.tensor([0.6667, 0.3333])}
    rounded = {**call, "timestep": wide["timestep"].bfloat16()}
    assert torch.equal(ours(model, wide)[0], ours(model, rounded)[0])
    assert torch.equal(ours(model, wide)[0], reference(model, wide))


@pytest.mark.parametrize("lengths", [(7,), (3,), (7, 4), (5, 5), (2, 7, 1)])
@pytest.mark.parametrize("zero_cond_t", [False, True])
def test_prompts_of_different_lengths_are_equal_bit_for_bit(lengths, zero_cond_t):
    model = support.transformer(zero_cond_t=zero_cond_t)
    call = support.call(model, len(lengths), 7, TWO, lengths)
    assert torch.equal(ours(model, call)[0], reference(model, call))


def test_masks_with_gaps_and_of_numbers_are_equal_bit_for_bit():
    model = support.transformer()
    mask = torch.tensor([[1.0, 0, 1, 0, 1, 1, 0], [0, 1, 1, 1, 0, 0, 1]])
    call = {**support.call(model, 2), "encoder_hidden_states_mask": mask}
    assert torch.equal(ours(model, call)[0], reference(model, call))


def test_padding_changes_nothing_but_rounding():
    """A prompt in a batch with longer ones, or beside a longer negative one, gives the same picture."""
    model = support.transformer()
    alone = support.call(model, 1, text=4)
    text = torch.cat([alone["encoder_hidden_states"], torch.full((1, 3, 24), 9.0)], dim=1)
    mask = torch.arange(7)[None] < 4
    padded = {**alone, "encoder_hidden_states": text, "encoder_hidden_states_mask": mask}
    torch.testing.assert_close(ours(model, padded)[0], ours(model, alone)[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("zero_cond_t", [False, True])
def test_other_types_are_equal_bit_for_bit(dtype, zero_cond_t):
    model = support.transformer(zero_cond_t=zero_cond_t).to(dtype)
    call = support.call(model, 2, 7, TWO, (7, 4))
    prediction = ours(model, call)[0]
    assert prediction.dtype == dtype
    assert torch.equal(prediction, reference(model, call))


@pytest.mark.parametrize(
    "changes",
    [{"num_layers": 1}, {"out_channels": None}, {"patch_size": 1}, {"axes_dims_rope": (2, 10, 20)}],
    ids=lambda changes: next(iter(changes)),
)
def test_other_shapes_are_equal_bit_for_bit(changes):
    model = support.transformer(**changes)
    call = support.call(model, 2)
    prediction = reference(model, call)
    assert torch.equal(piece_by_piece(qwen_image(model.config), model, *inputs(call)), prediction)


@st.composite
def configs(draw) -> dict[str, Any]:
    axes = draw(st.tuples(*[st.sampled_from([2, 4, 6, 8])] * 3))
    return {
        "in_channels": 4 * draw(st.integers(1, 4)),
        "out_channels": draw(st.integers(1, 4)),
        "num_layers": draw(st.integers(1, 3)),
        "attention_head_dim": sum(axes),
        "num_attention_heads": draw(st.integers(1, 4)),
        "joint_attention_dim": draw(st.integers(2, 40)),
        "axes_dims_rope": axes,
        "zero_cond_t": draw(st.booleans()),
    }


SIZES = st.tuples(st.integers(1, 5), st.integers(1, 5))


@settings(max_examples=15)
@given(configs(), st.integers(1, 12), st.lists(SIZES, min_size=1, max_size=3), st.data())
def test_drawn_configurations_are_equal(config, text, pictures, data):
    model = support.transformer(**config)
    assert parameter_shapes(QwenImageConfig.read(model.config)) == {
        name: tuple(t.shape) for name, t in model.state_dict().items()
    }
    lengths = data.draw(st.lists(st.integers(1, text), min_size=1, max_size=3).map(tuple))
    call = support.call(model, len(lengths), text, tuple(pictures), lengths if data.draw(st.booleans()) else None)
    # Heads of these widths are rotated with another rounding; see the module.
    torch.testing.assert_close(ours(model, call)[0], reference(model, call), atol=1e-6, rtol=0)


PUBLISHED = {
    "Qwen-Image": {"pooled_projection_dim": 768, "guidance_embeds": False},
    "Qwen-Image-2512, -Edit, -Edit-2509": {"guidance_embeds": False},
    "Qwen-Image-Edit-2511": {"guidance_embeds": False, "zero_cond_t": True},
    "other channels": {"out_channels": None, "in_channels": 32, "joint_attention_dim": 40},
}


def test_positions_are_those_of_diffusers():
    """Odd and even sides, small and large, up to the longest text."""
    model = support.transformer()
    for text, pictures in ((1, [(1, 1)]), (5, [(3, 4), (7, 2)]), (1024, [(80, 33), (64, 64), (1, 90)])):
        shapes = [(1, rows, columns) for rows, columns in pictures]
        images, words = model.pos_embed([shapes], max_txt_seq_len=text, device=torch.device("cpu"))
        conditioning = Conditioning(
            text=torch.zeros(1, text, 24), mask=None, reference=None, ids=pure.Shared(value=positions(text, *pictures))
        )
        prepared = qwen_image(model.config).prepare(tiny.params(model), conditioning)
        cosine, sine = (table[:, 0, ::2] for table in prepared.rotary.value)
        assert torch.equal(torch.complex(cosine, sine), torch.cat([words, images]))


def test_what_is_not_there_is_a_matter_of_structure():
    signatures = set()
    for pictures in (ONE, TWO):
        for lengths in (None, (4,)):
            model = support.transformer()
            _, before, after = ours(model, support.call(model, 1, 7, pictures, lengths))
            assert (before.prepared.reference is None) == (pictures is ONE)
            assert (before.prepared.mask is None) == (lengths is None)
            assert after.prepared is before.prepared
            assert signature(after) == signature(before)
            signatures.add(str(signature(before)))
    assert len(signatures) == 4


def test_every_block_shares_one_function():
    denoiser = qwen_image(support.CONFIG)
    assert len({block.run for block in denoiser.blocks}) == 1
    assert denoiser == qwen_image({**support.CONFIG, "axes_dims_rope": [8, 12, 12], "pooled_projection_dim": 768})
    assert denoiser != qwen_image({**support.CONFIG, "zero_cond_t": True})


def test_nothing_passed_in_is_changed():
    model = support.transformer(zero_cond_t=True)
    call = support.call(model, 2, 7, TWO, (7, 5))
    tensors = [*tiny.params(model).values(), *(value for value in call.values() if isinstance(value, torch.Tensor))]
    with unchanged(tensors):
        first, second = ours(model, call)[0], ours(model, call)[0]
    assert torch.equal(first, second)


@pytest.mark.parametrize(("zero_cond_t", "regional"), [(False, True), (True, False)])
def test_every_piece_traces_without_a_break(zero_cond_t, regional):
    model = support.transformer(zero_cond_t=zero_cond_t)
    for call in (support.call(model, 2), support.call(model, 2, 7, TWO, (7, 4))):
        compiled = ours(model, call, pure.CompileOptions(backend="eager", regional=regional))[0]
        assert torch.equal(compiled, reference(model, call))


def test_attention_is_an_argument():
    model = support.transformer(num_layers=1)
    calls = [support.call(model, 2, 3, ((1, 2), (1, 1)), lengths) for lengths in (None, (1, 3))]
    runs = [attended(qwen_image(model.config), model, *inputs(call)) for call in calls]
    seen = [(q, None if mask is None else mask.tolist()) for found in runs for q, _, mask in found]
    rows = [[True, False, False, True, True, True], [True] * 6]
    assert seen == [((2, 6, 2, 32), None), ((2, 6, 2, 32), [[[row]] for row in rows])]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"axes_dims_rope": (4, 4, 4)},
            r"axes_dims_rope \(4, 4, 4\) must be 3 even numbers, .* that sum to .* 32",
        ),
        ({"axes_dims_rope": (8, 11, 13)}, r"axes_dims_rope \(8, 11, 13\) must be 3 even numbers"),
        ({"axes_dims_rope": (16, 16)}, r"axes_dims_rope \(16, 16\) must be 3 even numbers"),
        (
            {"guidance_embeds": True},
            "guidance_embeds is set, .*no parameters to embed a guidance scale with; set it to",
        ),
        ({"use_layer3d_rope": True}, "use_layer3d_rope is set, .*belongs to Qwen-Image-Layered.*; load Qwen-Image, "),
        ({"use_additional_t_cond": True}, "use_additional_t_cond is set, .*belongs to Qwen-Image-Layered"),
        ({"_class_name": "FluxTransformer2DModel"}, "the transformer is a FluxTransformer2DModel; supported is Qwen"),
        ({"qk_clip": 3}, "sets qk_clip, which is not implemented; known are patch_size, in_channels"),
    ],
)
def test_unknown_configs_are_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        qwen_image({**support.CONFIG, **changes})


def test_positions_of_other_sizes_are_refused():
    model = support.transformer()
    call = support.call(model, 1, 7, TWO)
    wrong = attrs.evolve(support.conditioning(call), ids=pure.Shared(value=positions(7, (3, 4))))
    with pytest.raises(ValueError, match=r"7 text tokens, 12 tokens of the image and 10 of pictures.*are 29.* for 19"):
        qwen_image(model.config).init(tiny.params(model), wrong, support.latents(call), 4)
    with pytest.raises(
        ValueError, match=r"positions need the size of the picture that is made; give \(rows, columns\)"
    ):
        positions(3)

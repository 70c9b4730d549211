"""HunyuanVideo as pure functions against diffusers' module: the same bits."""

import attrs
import pytest
import torch
from diffusers import HunyuanVideoTransformer3DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.utils import counters

import pure
from pure.models import CheckpointError
from pure.models.common.config import parameter_shapes
from pure.models.hunyuan_video.config import CONCAT, REPLACE, HunyuanVideoConfig
from pure.models.hunyuan_video.denoiser import Conditioning, among_text, hunyuan_video
from pure.tree import leaves_with_paths, signature
from tests.support import hunyuan_video as tiny
from tests.support.exact import attended, run, unchanged
from tests.support.tiny import params

Inputs = tuple[Conditioning, torch.Tensor, torch.Tensor]
PUBLISHED = {
    "HunyuanVideo": {},
    "HunyuanVideo-I2V": {"image_condition_type": REPLACE},
    "HunyuanVideo-I2V-33ch": {"image_condition_type": CONCAT, "in_channels": 33, "guidance_embeds": False},
}


def reference(model: HunyuanVideoTransformer3DModel, inputs: Inputs) -> torch.Tensor:
    """What diffusers' module predicts; its pipelines throw away the velocity of a given first frame."""
    with torch.no_grad():
        prediction = model(**tiny.call(model, *inputs), return_dict=False)[0]
    if model.config["image_condition_type"] == REPLACE:
        return torch.cat([torch.zeros_like(prediction[:, :, :1]), prediction[:, :, 1:]], dim=2)
    return prediction


def ours(
    model: HunyuanVideoTransformer3DModel, inputs: Inputs, compile: pure.CompileOptions | None = None
) -> tuple[torch.Tensor, pure.State, pure.State]:
    """Prediction, and the state before and after."""
    return run(hunyuan_video(model.config), model, *inputs, compile=compile)


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("masked", [True, False])
def test_predictions_are_equal_bit_for_bit(kind, batch, masked):
    model = tiny.transformer(kind)
    inputs = tiny.inputs(model, batch, masked=masked)
    prediction = ours(model, inputs)[0]
    assert prediction.shape == inputs[1].shape
    assert torch.equal(prediction, reference(model, inputs))


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize(("text", "size"), [(1, (1, 2, 2)), (5, (4, 6, 2)), (19, (2, 8, 8))])
def test_other_sizes_are_equal_bit_for_bit(kind, text, size):
    model = tiny.transformer(kind)
    inputs = tiny.inputs(model, 2, text, size)
    assert torch.equal(ours(model, inputs)[0], reference(model, inputs))


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("batch", [1, 2])
def test_other_types_are_equal_bit_for_bit(kind, dtype, batch):
    model = tiny.transformer(kind, dtype=dtype)
    inputs = tiny.inputs(model, batch)
    prediction = ours(model, inputs)[0]
    assert prediction.dtype == dtype
    assert torch.equal(prediction, reference(model, inputs))


@pytest.mark.parametrize("factor", [2**8, 2**15])
def test_numbers_beyond_fp16_are_those_of_diffusers(factor):
    """In diffusers nothing of this family is clipped: what overflows there, overflows here."""
    model = tiny.transformer(dtype=torch.float16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "proj_out" in name and name.endswith("weight"):
                parameter.mul_(factor)
    inputs = tiny.inputs(model, 2)
    expected = reference(model, inputs)
    assert bool(expected.isfinite().all()) == (factor < 2**15)
    torch.testing.assert_close(ours(model, inputs)[0], expected, rtol=0, atol=0, equal_nan=True)


def test_latents_may_be_more_precise_than_the_model():
    """As in diffusers' pipelines, where the first latents and timestep are fp32 and the model is not."""
    model = tiny.transformer(dtype=torch.bfloat16)
    conditioning, latents, timestep = tiny.inputs(model)
    inputs = (conditioning, latents.float() + 1e-4, timestep + 1e-2)
    call = tiny.call(model, *inputs)
    assert call["timestep"].dtype == torch.float32 and call["encoder_hidden_states"].dtype == torch.bfloat16
    with torch.no_grad():
        expected = model(**{**call, "hidden_states": call["hidden_states"].to(torch.bfloat16)}, return_dict=False)[0]
    assert torch.equal(ours(model, inputs)[0], expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_refiner_layers": 3},
        {"num_refiner_layers": 0},
        {"num_single_layers": 0},
        {"patch_size_t": 2},
        {"patch_size": 1},
        {"mlp_ratio": 1.3},
        {"rope_theta": 17.0},
        {"guidance_embeds": False},
    ],
    ids=lambda changes: "-".join(map(str, *changes.items())),
)
def test_every_option_is_equal_bit_for_bit(changes):
    model = tiny.transformer(**changes)
    inputs = tiny.inputs(model, 2, size=(4, 4, 6))
    assert torch.equal(ours(model, inputs)[0], reference(model, inputs))


def test_channels_left_out_are_those_that_come_in():
    assert hunyuan_video({**tiny.CONFIG, "out_channels": None}) == hunyuan_video(tiny.CONFIG)


@st.composite
def configs(draw) -> tuple[str, dict]:
    axes = draw(st.tuples(*[st.sampled_from([2, 4, 6, 8])] * 3))
    kind, channels = draw(st.sampled_from(sorted(tiny.KINDS))), draw(st.integers(1, 5))
    return kind, {
        "in_channels": 2 * channels + 1 if kind == "concat" else channels,
        "out_channels": channels,
        "num_attention_heads": draw(st.integers(1, 5)),
        "attention_head_dim": sum(axes),
        "num_layers": draw(st.integers(0, 2)),
        "num_single_layers": draw(st.integers(1, 3)),
        "num_refiner_layers": draw(st.integers(0, 2)),
        "mlp_ratio": draw(st.sampled_from([1.0, 2.5, 4.0])),
        "patch_size": draw(st.integers(1, 3)),
        "patch_size_t": 1 if kind == "replace" else draw(st.integers(1, 2)),
        "guidance_embeds": draw(st.booleans()),
        "text_embed_dim": draw(st.integers(1, 40)),
        "pooled_projection_dim": draw(st.integers(1, 40)),
        "rope_axes_dim": axes,
    }


@settings(max_examples=15)
@given(configs(), st.integers(1, 3), st.integers(1, 12), st.tuples(*[st.integers(1, 3)] * 3), st.booleans())
def test_drawn_configurations_are_equal(drawn, batch, text, grid, masked):
    kind, config = drawn
    model = tiny.transformer(kind, **config)
    assert parameter_shapes(HunyuanVideoConfig.read(model.config)) == {
        name: tuple(t.shape) for name, t in model.state_dict().items()
    }
    patch = config["patch_size"]
    size = (grid[0] * config["patch_size_t"], grid[1] * patch, grid[2] * patch)
    inputs = tiny.inputs(model, batch, text, size, masked)
    torch.testing.assert_close(ours(model, inputs)[0], reference(model, inputs), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_what_is_padded_changes_nothing(kind):
    """Tokens beyond the mask may hold anything; and a prompt alone gives what it gives in a batch."""
    model = tiny.transformer(kind)
    conditioning, latents, timestep = tiny.inputs(model, batch=2)
    assert conditioning.mask is not None
    noise = 100 * torch.randn(conditioning.text.shape, generator=torch.Generator().manual_seed(1))
    text = torch.where(conditioning.mask.unsqueeze(-1), conditioning.text, noise)
    whole = ours(model, (conditioning, latents, timestep))[0]
    other = ours(model, (attrs.evolve(conditioning, text=text), latents, timestep))[0]
    torch.testing.assert_close(other, whole, atol=1e-6, rtol=0)
    last, length = pure.take(conditioning, torch.tensor([1])), int(conditioning.mask[1].sum())
    alone = attrs.evolve(last, text=last.text[:, :length], mask=None)
    torch.testing.assert_close(ours(model, (alone, latents[1:], timestep[1:]))[0], whole[1:], atol=1e-5, rtol=0)


def test_a_given_first_frame_is_seen_and_stays():
    model = tiny.transformer("replace")
    conditioning, latents, timestep = tiny.inputs(model, batch=2)
    prediction = ours(model, (conditioning, latents, timestep))[0]
    assert not prediction[:, :, 0].any() and prediction[:, :, 1:].any()
    changed = torch.cat([latents[:, :, :1] + 1, latents[:, :, 1:]], dim=2)
    assert torch.equal(ours(model, (conditioning, changed, timestep))[0], prediction)
    assert conditioning.image is not None
    other = attrs.evolve(conditioning, image=conditioning.image + 1)
    assert not torch.equal(ours(model, (other, latents, timestep))[0], prediction)


def test_the_state_does_not_change_its_structure():
    signatures = set()
    for kind in tiny.KINDS:
        for masked in (True, False):
            model = tiny.transformer(kind)
            _, before, after = ours(model, tiny.inputs(model, masked=masked))
            assert signature(after) == signature(before)
            signatures.add(str(signature(before)))
    assert len(signatures) == 6


def test_nothing_passed_in_is_changed():
    model = tiny.transformer("replace")
    inputs = tiny.inputs(model, batch=2)
    leaves = [leaf for tree in (params(model), inputs) for _, leaf in leaves_with_paths(tree)]
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    with unchanged(tensors):
        first, second = ours(model, inputs)[0], ours(model, inputs)[0]
    assert torch.equal(first, second)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_piece_traces_without_a_break(kind):
    torch._dynamo.reset()
    counters.clear()
    model = tiny.transformer(kind)
    inputs = tiny.inputs(model, batch=2)
    compiled = ours(model, inputs, pure.CompileOptions(backend="eager"))[0]
    assert torch.equal(compiled, reference(model, inputs))
    assert not counters["graph_break"]
    # Embed, double block, single block, head: streams come out of every piece dense, so that none is traced twice.
    assert counters["stats"]["unique_graphs"] == 4


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_attention_is_an_argument(kind):
    model = tiny.transformer(kind)
    seen = attended(hunyuan_video(model.config), model, *tiny.inputs(model, batch=2, text=8))
    found = [(q, None if mask is None else (mask.shape, mask.dtype)) for q, _, mask in seen]
    assert found == [((2, 18 + 8, 4, 16), ((2, 1, 1, 18 + 8), torch.bool))] * 5


def test_equal_configs_give_equal_denoisers():
    config = dict(tiny.CONFIG)
    assert hunyuan_video(config) == hunyuan_video(
        {**config, "rope_axes_dim": list(tiny.CONFIG["rope_axes_dim"]), "_class_name": "HunyuanVideoTransformer3DModel"}
    )
    assert hunyuan_video(config) != hunyuan_video({**config, "rope_axes_dim": (8, 4, 4)})
    assert hunyuan_video(config) != hunyuan_video({**config, "image_condition_type": REPLACE})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rope_axes_dim": (4, 4, 4)},
            r"rope_axes_dim \(4, 4, 4\) must be 3 even .* that sum to attention_head_dim 16",
        ),
        ({"_class_name": "HunyuanVideo15Transformer3DModel"}, "is a HunyuanVideo15Transformer3DModel; supported is Hu"),
        ({"qk_norm": "layer_norm"}, "qk_norm is 'layer_norm'; implemented is 'rms_norm'"),
        ({"image_condition_type": "crossfade"}, "'crossfade'; implemented are None .*'latent_concat' and 'token_repl"),
        ({"in_channels": 8}, "in_channels is 8; with out_channels 4 and image_condition_type None it must be 4"),
        ({"image_condition_type": CONCAT}, "in_channels is 4; .*'latent_concat' it must be 9: a prediction has"),
        ({"image_condition_type": REPLACE, "patch_size_t": 2}, "patch_size_t is 2; .*'token_replace' it must be 1"),
        ({"has_image_proj": True}, "sets has_image_proj, which is not implemented; known are in_channels"),
    ],
)
def test_unknown_configs_are_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        hunyuan_video({**tiny.CONFIG, **changes})


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (
            "text",
            {"image": torch.zeros(1, 4, 1, 4, 6)},
            r"takes no image \(image_condition_type None\) and was given one",
        ),
        ("concat", {"image": None}, r"starts from the latents of an image .*'latent_concat'\) and was given none"),
        ("replace", {"image": None}, r"starts from the latents of an image .*'token_replace'\) and was given none"),
        ("text", {"guidance": None}, "embeds a guidance scale; give Conditioning.guidance"),
        ("concat", {"guidance": torch.ones(1)}, "embeds no guidance scale; leave out Conditioning.guidance"),
        (
            "text",
            {"grid": (3, 3, 2)},
            r"latents have \(3, 2, 3\) tokens .* and the conditioning \(3, 3, 2\); make both",
        ),
    ],
)
def test_conditioning_that_does_not_fit_is_refused(kind, changes, message):
    model = tiny.transformer(kind)
    conditioning, latents, timestep = tiny.inputs(model)
    with pytest.raises(ValueError, match=message):
        ours(model, (attrs.evolve(conditioning, **changes), latents, timestep))


def test_text_that_takes_no_part_sees_the_first_token_alone():
    """A row that sees nothing would be NaN in some kernels; diffusers lets every row see the first token."""
    found = among_text(torch.tensor([[True, True, False], [True, False, False]]))
    one = [[True, True, False], [True, True, False], [True, False, False]]
    assert found.tolist() == [[one], [[[True, False, False]] * 3]]

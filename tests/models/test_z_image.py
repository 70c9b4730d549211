"""Z-Image as pure functions against diffusers' module: the same bits."""

import attrs
import pytest
import torch
from diffusers import ZImageTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st

import pure
from pure.models import CheckpointError
from pure.models.common.config import parameter_shapes
from pure.models.z_image.config import ZImageConfig
from pure.models.z_image.denoiser import Conditioning, patchify, unpatchify, z_image
from pure.tree import signature
from tests.support import z_image as tiny
from tests.support.exact import attended, run, unchanged
from tests.support.tiny import params

TURBO = {"axes_lens": [1536, 512, 512]}  # turbo and base are of one size


def reference(model: ZImageTransformer2DModel, call: dict) -> torch.Tensor:
    """The velocity (B, channels, height, width): diffusers' pipeline negates what its model returns."""
    with torch.no_grad():
        return -torch.stack(model(**call, return_dict=False)[0])[:, :, 0]


def ours(
    model: ZImageTransformer2DModel, call: dict, compile: pure.CompileOptions | None = None, **changes
) -> tuple[torch.Tensor, pure.State, pure.State]:
    """Prediction, and the state before and after, the conditioning with changes."""
    conditioning = attrs.evolve(tiny.conditioning(call), **changes)
    return run(z_image(model.config), model, conditioning, tiny.latents(call), 1 - call["t"], compile)


@pytest.mark.parametrize(
    "texts",
    [(8,), (32,), (70,), (8, 8), (5, 7), (33, 40, 64), (8, 40), (31, 64, 65), (1, 96)],
    ids=lambda texts: "-".join(map(str, texts)),
)
@pytest.mark.parametrize("size", [(3, 5), (4, 8), (6, 7)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_predictions_are_equal_bit_for_bit(texts, size):
    model = tiny.transformer()
    call = tiny.call(model, texts, *size)
    assert torch.equal(ours(model, call)[0], reference(model, call))


@pytest.mark.parametrize("texts", [(8, 20), (8, 40)], ids=["level", "ragged"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_equal_bit_for_bit(dtype, texts):
    model = tiny.transformer().to(dtype)
    call = tiny.call(model, texts)
    assert torch.equal(ours(model, call)[0], reference(model, call))


@pytest.mark.parametrize("factor", [2**8, 2**15])
def test_numbers_beyond_fp16_are_those_of_diffusers(factor):
    """In diffusers nothing of this family is clipped: what overflows there, overflows here."""
    model = tiny.transformer().half()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "feed_forward.w3" in name and name.endswith("weight"):
                parameter.mul_(factor)
    call = tiny.call(model, (8, 40))
    expected = reference(model, call)
    assert bool(expected.isfinite().all()) == (factor < 2**15)
    torch.testing.assert_close(ours(model, call)[0], expected, rtol=0, atol=0, equal_nan=True, check_dtype=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"qk_norm": False},
        {"n_refiner_layers": 0},
        {"norm_eps": 1e-3},
        {"t_scale": 10.0},
        {"rope_theta": 100.0},
        {"n_kv_heads": 2},
        {"dim": 512, "axes_dims": [32, 48, 48]},
        {"all_patch_size": (1, 2), "all_f_patch_size": (1, 1)},
        {"in_channels": 16},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_settings_are_equal_bit_for_bit(changes):
    model = tiny.transformer(**changes)
    call = tiny.call(model, (8, 40), rows=3)
    assert torch.equal(ours(model, call)[0], reference(model, call))


def test_a_mask_that_hides_nothing_changes_nothing():
    """A pipeline knows from the prompts whether a mask is needed; being wrong on the safe side costs no bit."""
    model = tiny.transformer()
    call = tiny.call(model, (40, 50))
    level, before, _ = ours(model, call)
    masked, with_mask, _ = ours(model, call, ragged=True)
    assert before.prepared.mask is None and with_mask.prepared.mask.all()
    assert torch.equal(level, masked)
    lengths = torch.tensor([40, 50])
    assert torch.equal(ours(model, call, lengths=lengths)[0], level)


def test_what_lies_beyond_the_length_is_not_read():
    model = tiny.transformer()
    call = tiny.call(model, (8, 40))
    text = tiny.conditioning(call).text
    beyond = (torch.arange(40) >= torch.tensor([[8], [40]]))[..., None]
    assert torch.equal(ours(model, call, text=torch.where(beyond, 7.0, text))[0], reference(model, call))


def test_a_sample_alone_is_the_sample_in_a_batch_with_longer_text():
    model = tiny.transformer()
    call = tiny.call(model, (8, 70))
    alone = {name: value[:1] for name, value in call.items()}
    torch.testing.assert_close(ours(model, alone)[0], ours(model, call)[0][:1], atol=2e-6, rtol=0)


@st.composite
def configs(draw) -> dict:
    axes = draw(st.tuples(*[st.sampled_from([2, 4, 6, 8])] * 3))
    heads = draw(st.integers(1, 4))
    return {
        "in_channels": draw(st.integers(1, 5)),
        "dim": sum(axes) * heads,
        "n_heads": heads,
        "n_kv_heads": heads,
        "n_layers": draw(st.integers(1, 2)),
        "n_refiner_layers": draw(st.integers(0, 2)),
        "cap_feat_dim": draw(st.integers(1, 40)),
        "qk_norm": draw(st.booleans()),
        "axes_dims": list(axes),
    }


# Not to the last bit: diffusers' complex product rounds otherwise where rows of it are no multiple of 8.
@settings(max_examples=15)
@given(configs(), st.lists(st.integers(1, 70), min_size=1, max_size=3), st.integers(1, 7), st.integers(1, 7))
def test_drawn_configurations_are_equal(config, texts, rows, columns):
    model = tiny.transformer(**config)
    assert parameter_shapes(ZImageConfig.read(model.config)) == {
        name: tuple(t.shape) for name, t in model.state_dict().items()
    }
    call = tiny.call(model, texts, rows, columns)
    torch.testing.assert_close(ours(model, call)[0], reference(model, call), atol=2e-6, rtol=1e-6)


def test_the_text_is_refined_once_per_request():
    model = tiny.transformer()
    call = tiny.call(model, (8, 40))
    _, before, after = ours(model, call)
    assert before.prepared.text.shape == (2, 64, 64)
    assert after.prepared is before.prepared and signature(after) == signature(before)
    denoiser, weights = z_image(model.config), params(model)
    silent = {name: torch.zeros_like(t) if name.startswith("context_refiner") else t for name, t in weights.items()}
    latents, step = tiny.latents(call), pure.Step(index=0, count=4, timestep=1 - call["t"])
    with torch.no_grad():
        prediction, _, _ = denoiser.apply(silent, before, pure.Inputs(latents, step))
    assert torch.equal(prediction, reference(model, call)), "a step reads no parameter of the context refiner"


def test_patches_come_back():
    latents = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    tokens = patchify(latents)
    assert tokens.shape == (2, 6, 12) and tokens[0, 1, :3].tolist() == latents[0, :, 0, 2].tolist()
    assert torch.equal(unpatchify(torch.cat([tokens, tokens], dim=1), (2, 3)), latents)


def test_equal_configs_give_equal_denoisers():
    config = dict(tiny.CONFIG)
    axes = tuple(config["axes_dims"])
    assert z_image(config) == z_image({**config, "axes_dims": axes, "_class_name": "ZImageTransformer2DModel"})
    assert z_image(config) != z_image({**config, "axes_dims": (8, 4, 4)})
    assert z_image(config) != z_image({**config, "t_scale": 1.0})
    assert len({block.run for block in z_image(config).blocks}) == 1, "layers share one compilation"


def test_nothing_passed_in_is_changed():
    model = tiny.transformer()
    call = tiny.call(model, (8, 40))
    conditioning, latents, weights = tiny.conditioning(call), tiny.latents(call), params(model)
    tensors = [*weights.values(), conditioning.text, conditioning.lengths, latents]
    with unchanged(tensors):
        denoiser, step = z_image(model.config), pure.Step(index=0, count=4, timestep=torch.tensor(0.5))
        with torch.no_grad():
            state = denoiser.init(weights, conditioning, latents, 4)
            first, _, _ = denoiser.apply(weights, state, pure.Inputs(latents, step))
            second, _, _ = denoiser.apply(weights, state, pure.Inputs(latents, step))
    assert torch.equal(first, second)


@pytest.mark.parametrize("texts", [(8, 8), (8, 40)], ids=["level", "ragged"])
def test_every_piece_traces_without_a_break(texts):
    model = tiny.transformer()
    call = tiny.call(model, texts)
    compiled, _, _ = ours(model, call, pure.CompileOptions(backend="eager"))
    assert torch.equal(compiled, reference(model, call))


def test_attention_is_an_argument():
    model = tiny.transformer()
    call = tiny.call(model, (8, 40))
    seen = attended(z_image(model.config), model, tiny.conditioning(call), tiny.latents(call), torch.tensor(0.5))
    shape = (2, 32 + 64, 4, 16)
    assert [(q, k, None if mask is None else mask.shape) for q, k, mask in seen] == [(shape, shape, (2, 1, 1, 96))] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"siglip_feat_dim": 1152}, "siglip_feat_dim is 1152: the omni variant, .* is not implemented; use a text-to"),
        ({"axes_dims": [4, 4, 4]}, r"axes_dims \(4, 4, 4\) must be 3 even numbers, .* that sum to dim / n_heads = 16"),
        ({"axes_dims": [5, 5, 6]}, r"axes_dims \(5, 5, 6\) must be 3 even"),
        ({"axes_dims": [8, 8]}, r"axes_dims \(8, 8\) must be 3 even numbers, one for each axis"),
        ({"axes_lens": [8, 8]}, r"axes_lens \(8, 8\) must have 3 entries, as axes_dims has"),
        ({"n_heads": 5}, "dim 64 must be a multiple of n_heads 5"),
        (
            {"all_patch_size": (4,)},
            r"all_patch_size \(4,\) and all_f_patch_size \(1,\) must pair up, and contain 2 with 1",
        ),
        (
            {"_class_name": "Lumina2Transformer2DModel"},
            "the transformer is a Lumina2Transformer2DModel; supported is ZI",
        ),
        ({"experts": 3}, "sets experts, which is not implemented; known are all_patch_size"),
    ],
)
def test_unknown_configs_are_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        z_image({**tiny.CONFIG, **changes})


@pytest.mark.parametrize(
    ("text", "grid", "message"),
    [
        (8, (4, 5), "latents of 8 x 8 do not fit a conditioning for 8 x 10; encode the prompt for the size"),
        (225, (4, 4), "text would need 258 positions and the checkpoint has 256; shorten the prompt"),
        (8, (33, 4), "rows would need 33 positions and the checkpoint has 32; make a smaller image"),
        (8, (4, 40), "columns would need 40 positions and the checkpoint has 32; make a smaller image"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(text, grid, message):
    denoiser = z_image(tiny.CONFIG)
    weights = {name: torch.zeros(shape) for name, shape in parameter_shapes(ZImageConfig.read(tiny.CONFIG)).items()}
    conditioning = Conditioning(text=torch.zeros(1, text, 32), grid=grid)
    with pytest.raises(ValueError, match=message):
        denoiser.init(weights, conditioning, torch.zeros(1, 4, 8, 8), 4)

"""Wan as pure functions against diffusers' module: the same bits."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.utils import logging
from hypothesis import given, settings
from hypothesis import strategies as st

import pure
from pure import pieces
from pure.models import CheckpointError
from pure.models.common.config import parameter_shapes
from pure.models.wan.config import IN_FP32, WanConfig
from pure.models.wan.denoiser import wan
from pure.testing.situation import Situation
from pure.transforms import dbcache
from pure.tree import signature
from tests.support import tiny
from tests.support.exact import attended, run, unchanged
from tests.support.wan import CONFIG, KINDS, MODELS, Call, call, narrowed, transformer

# Configs of the public checkpoints, where they differ from the defaults.
PUBLISHED: dict[str, dict[str, Any]] = {
    "Wan2.1-T2V-1.3B": {"ffn_dim": 8960, "num_attention_heads": 12, "num_layers": 30},
    "Wan2.1-T2V-14B": {},
    "Wan2.1-I2V-14B": {"added_kv_proj_dim": 5120, "image_dim": 1280, "in_channels": 36},
    "Wan2.1-FLF2V-14B": {
        "added_kv_proj_dim": 5120,
        "image_dim": 1280,
        "in_channels": 36,
        "pos_embed_seq_len": 514,
    },
    "Wan2.2-T2V-A14B": {"image_dim": None, "added_kv_proj_dim": None, "pos_embed_seq_len": None},
    "Wan2.2-I2V-A14B": {"in_channels": 36},
    "Wan2.2-TI2V-5B": {
        "ffn_dim": 14336,
        "in_channels": 48,
        "num_attention_heads": 24,
        "num_layers": 30,
        "out_channels": 48,
    },
}


def reference(model: WanTransformer3DModel, inputs: Call) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs.reference, return_dict=False)[0]


def ours(
    model: WanTransformer3DModel, inputs: Call, *, compile: pure.CompileOptions | None = None, **options: bool
) -> tuple[torch.Tensor, pure.State, pure.State]:
    """Prediction, and the state before and after."""
    denoiser = wan(model.config, **options)
    return run(denoiser, model, inputs.conditioning, inputs.latents, inputs.timestep, compile)


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_equal_bit_for_bit(kind, batch):
    model = transformer(**KINDS[kind])
    inputs = call(model, batch)
    assert torch.equal(ours(model, inputs)[0], reference(model, inputs))


@pytest.mark.parametrize(("text", "grid"), [(1, (1, 1, 1)), (19, (5, 3, 2)), (512, (1, 4, 4))])
def test_other_sizes_are_equal_bit_for_bit(text, grid):
    model = transformer()
    inputs = call(model, 2, text, grid)
    assert torch.equal(ours(model, inputs)[0], reference(model, inputs))


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("first", [False, True])
def test_timesteps_of_tokens_are_equal_bit_for_bit(first, batch):
    model = transformer(cross_attn_norm=False)
    inputs = call(model, batch, per_token=True, first=first)
    prediction = ours(model, inputs, expand_timesteps=True)[0]
    assert torch.equal(prediction, reference(model, inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [*KINDS, "ti2v"])
def test_narrow_types_are_equal_bit_for_bit(kind, dtype, tmp_path: Path):
    model, expanded = narrowed(transformer(**KINDS.get(kind, {})), dtype, tmp_path), kind == "ti2v"
    kept = {name for name, tensor in model.state_dict().items() if tensor.dtype == torch.float32}
    assert kept == {name for name in model.state_dict() if any(part in name for part in IN_FP32)}
    for batch in (1, 2):
        inputs = call(model, batch, per_token=expanded, first=expanded)
        prediction = ours(model, inputs, expand_timesteps=expanded)[0]
        assert prediction.dtype == dtype and torch.equal(prediction, reference(model, inputs))


@pytest.mark.parametrize("factor", [2**8, 2**15])
def test_numbers_beyond_fp16_are_those_of_diffusers(factor, tmp_path: Path):
    """In diffusers nothing of this family is clipped: what overflows there, overflows here."""
    model = narrowed(transformer(), torch.float16, tmp_path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ffn.net.0" in name and name.endswith("weight"):
                parameter.mul_(factor)
    inputs = call(model, 2)
    expected = reference(model, inputs)
    assert bool(expected.isfinite().all()) == (factor < 2**15)
    torch.testing.assert_close(ours(model, inputs)[0], expected, rtol=0, atol=0, equal_nan=True)


def test_double_precision_is_equal_bit_for_bit():
    logging.set_verbosity_error()  # diffusers warns of this cast
    model = transformer().double()
    logging.set_verbosity_warning()
    inputs = call(model, 2)
    assert torch.equal(ours(model, inputs)[0], reference(model, inputs))


def test_latents_may_be_wider_than_the_model(tmp_path: Path):
    model = narrowed(transformer(in_channels=20), torch.bfloat16, tmp_path)
    inputs = call(model, 2)
    wide = attrs.evolve(inputs, latents=inputs.latents.float())
    assert torch.equal(ours(model, wide)[0], reference(model, inputs))


@st.composite
def configs(draw) -> dict:
    heads, head = draw(st.integers(1, 4)), 2 * draw(st.integers(3, 9))
    image = draw(st.booleans())
    return {
        "patch_size": (draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3))),
        "num_attention_heads": heads,
        "attention_head_dim": head,
        "in_channels": 16 + draw(st.integers(0, 3)),
        "out_channels": draw(st.sampled_from((None, 1, 16))),
        "text_dim": draw(st.integers(1, 40)),
        "freq_dim": 2 * draw(st.integers(1, 40)),
        "ffn_dim": draw(st.integers(1, 70)),
        "num_layers": draw(st.integers(1, 3)),
        "cross_attn_norm": draw(st.booleans()),
        "image_dim": draw(st.integers(1, 30)) if image else None,
        "added_kv_proj_dim": heads * head if image else None,
    }


@settings(max_examples=15)
@given(configs(), st.integers(1, 3), st.integers(1, 12), st.tuples(*[st.integers(1, 4)] * 3))
def test_drawn_configurations_are_equal(config, batch, text, grid):
    model = transformer(**config)
    assert parameter_shapes(WanConfig.read(model.config)) == {
        name: tuple(t.shape) for name, t in model.state_dict().items()
    }
    inputs = call(model, batch, text, grid)
    torch.testing.assert_close(ours(model, inputs)[0], reference(model, inputs), atol=1e-6, rtol=0)


def test_keys_and_values_are_made_once():
    """Only the queries of a cross-attention depend on the step."""
    model = transformer(**KINDS["i2v-2.1"])
    inputs, params = call(model, 2), tiny.params(model)
    denoiser = wan(model.config)
    with torch.no_grad():
        before = denoiser.init(params, inputs.conditioning, inputs.latents, 1)
        crossing = ("attn2.to_k", "attn2.to_v", "attn2.norm_k", "attn2.add_", "attn2.norm_added", "text_embedder")
        left = {name: t for name, t in params.items() if not any(part in name for part in crossing)}
        step = pure.Step(index=0, count=1, timestep=inputs.timestep)
        prediction = denoiser.apply(left, before, pure.Inputs(inputs.latents, step))[0]
    assert torch.equal(prediction, reference(model, inputs))
    assert before.prepared.text.keys.shape == (2, 3, 512, 4, 12)
    assert before.prepared.image.values.shape == (2, 3, 5, 4, 12)


def test_a_block_finds_its_number():
    denoiser, params = wan(CONFIG), tiny.params(transformer())
    bound = denoiser.bind(params)
    assert [int(group["number"]) for group in bound.blocks] == [0, 1, 2]
    assert "number" not in params and denoiser.bind(bound) is bound


def test_state_keeps_its_structure_and_samples_come_first():
    model = transformer(**KINDS["i2v-2.1"])
    inputs = call(model, 3)
    _, before, after = ours(model, inputs)
    assert after.prepared is before.prepared and signature(after) == signature(before)
    order = torch.tensor([2, 0])
    some = Call(
        reference={},
        latents=inputs.latents[order],
        timestep=inputs.timestep[order],
        conditioning=pure.take(inputs.conditioning, order),
    )
    torch.testing.assert_close(ours(model, some)[0], ours(model, inputs)[0][order], atol=1e-5, rtol=0)


def test_videos_of_other_sizes_are_not_joined():
    model = transformer()
    states = [ours(model, call(model, grid=grid))[1] for grid in ((3, 2, 4), (3, 4, 2))]
    with pytest.raises(ValueError, match="cannot be joined: their states are built differently"):
        pure.join(*states)


def test_equal_configs_give_equal_denoisers():
    config = {**CONFIG, "patch_size": [1, 2, 2], "_class_name": "WanTransformer3DModel", "out_channels": 16}
    assert wan(CONFIG) == wan(config)
    assert wan(CONFIG) != wan({**CONFIG, "patch_size": (1, 1, 2)})
    assert wan(CONFIG) != wan(CONFIG, expand_timesteps=True)


def test_nothing_passed_in_is_changed():
    model = transformer(**KINDS["i2v-2.1"])
    inputs = call(model, batch=2)
    given = inputs.conditioning
    tensors = [*tiny.params(model).values(), inputs.latents, inputs.timestep, given.text, given.image, given.beside]
    with unchanged(tensors):
        first, second = ours(model, inputs)[0], ours(model, inputs)[0]
    assert torch.equal(first, second)


@pytest.fixture
def graphs():
    """What the compiler was given since the test began."""

    def fresh():
        torch._dynamo.reset()
        pieces._compile.cache_clear()

    fresh()
    yield []
    fresh()


@pytest.mark.parametrize("regional", [True, False])
@pytest.mark.parametrize("kind", ["t2v", "i2v-2.1"])
def test_every_piece_traces_without_a_break_and_blocks_share_a_graph(kind, regional, graphs):
    def counting(graph, inputs):
        graphs.append(graph)
        return graph

    model = transformer(**KINDS[kind])
    inputs = call(model, batch=2)
    options = pure.CompileOptions(backend=counting, regional=regional)
    for _ in range(2):
        assert torch.equal(ours(model, inputs, compile=options)[0], reference(model, inputs))
    # Embedding, one block for all three, head; or front, middle, back.
    assert len(graphs) == 3


def test_attention_is_an_argument():
    model = transformer(**KINDS["i2v-2.1"])
    inputs = call(model, batch=2)
    seen = attended(wan(model.config), model, inputs.conditioning, inputs.latents, inputs.timestep)
    q = (2, 24, 4, 12)
    assert seen == [(q, q, None), (q, (2, 512, 4, 12), None), (q, (2, 5, 4, 12), None)] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "WanVACETransformer3DModel"}, "the transformer is a WanVACETransformer3DModel; supported is"),
        ({"vace_layers": (0, 5)}, "sets vace_layers, which is not implemented; known are patch_size, num_attention"),
        ({"qk_norm": None}, "qk_norm None is not implemented; supported is 'rms_norm_across_heads'"),
        ({"patch_size": (2, 2)}, r"patch_size \(2, 2\) should be three numbers: frames, rows, columns"),
        ({"attention_head_dim": 15}, "attention_head_dim 15 is odd"),
        ({"freq_dim": 7}, "freq_dim 7 is odd"),
        ({"image_dim": 24}, "image_dim 24 and added_kv_proj_dim None contradict each other"),
        ({"image_dim": 24, "added_kv_proj_dim": 47}, "added_kv_proj_dim 47 must be the width 48"),
        ({"pos_embed_seq_len": 10}, "pos_embed_seq_len 10 belongs to an embedded image, and image_dim is null"),
    ],
)
def test_unknown_configs_are_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        wan({**CONFIG, **changes})


def test_options_that_are_off_are_ignored():
    assert wan({**CONFIG, "_diffusers_version": "1.0", "new_option": False}) == wan(CONFIG)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("t2v", {"image": torch.zeros(1, 5, 24)}, "embeds no image; leave Conditioning.image None"),
        ("i2v-2.1", {"image": None}, "this transformer needs Conditioning.image"),
        (
            "t2v",
            {"first": torch.zeros(1, 16, 1, 4, 8)},
            r"needs a timestep for every token: wan\(..., expand_timesteps",
        ),
        ("t2v", {"grid": (33, 2, 4)}, r"\(33, 2, 4\) tokens .* is too large: rope_max_seq_len is 32; make it smaller"),
        (
            "t2v",
            {"grid": (3, 4, 4)},
            r"are \(16, 3, 4, 8\); .* ask for \(16, 3, 8, 8\): channels, frames, rows, columns",
        ),
        ("i2v-2.2", {"beside": None}, r"are \(16, 3, 4, 8\); .* ask for \(36, 3, 4, 8\)"),
        ("flf2v-2.1", {"image": torch.zeros(1, 5, 24)}, "has 5 tokens and pos_embed_seq_len is 10; give those of the"),
    ],
)
def test_wrong_conditioning_is_refused(kind, changes, message):
    model = transformer(**KINDS[kind])
    inputs = call(model)
    wrong = attrs.evolve(inputs.conditioning, **changes)
    with pytest.raises(ValueError, match=message):
        ours(model, attrs.evolve(inputs, conditioning=wrong))


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_models_of_the_law_suite_skip_and_compute(model):
    situation = Situation(model=model, transform=dbcache(front=1, threshold=0.3, warmup=1), seeds=(1, 2), count=8)
    computed = {flag for entry in situation.trace() for flag in entry.info.computed}
    assert computed == {True, False}

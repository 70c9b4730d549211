"""A transformer that changes while it is accelerated: LoRA weights, dtypes, quantisation, another module."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from torchao.quantization import Int8WeightOnlyConfig, quantize_

import pure
from pure.models import CheckpointError
from pure.models.adapt.adapt import adapt
from pure.models.adapt.structure import fingerprint
from pure.transforms import compiled, dbcache, taylorseer
from tests.models.test_generic import Wrapped, run
from tests.support.generic import NAMED
from tests.support.pipelines import make, picture

CACHE = pure.compose(dbcache(front=1, threshold=1.0, warmup=2, max_continuous=1), taylorseer(order=1))
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning")


def wrap(model: Any, *names: str) -> Callable[[], None]:
    """Put a low-rank addition on linear maps, as a LoRA loader does; return what takes it off again."""
    places = [name.rpartition(".")[::2] for name in names]
    bases = [model.get_submodule(name) for name in names]
    for seed, ((owner, place), base) in enumerate(zip(places, bases, strict=True)):
        setattr(model.get_submodule(owner), place, Wrapped(base, seed))
    model.requires_grad_(False)

    def unload() -> None:
        for (owner, place), base in zip(places, bases, strict=True):
            setattr(model.get_submodule(owner), place, base)

    return unload


def fresh(pipe: Any, call: dict, transform: pure.Transform = CACHE) -> torch.Tensor:
    """What a pipeline makes that is accelerated only now."""
    with pure.accelerate(pipe, transform):
        return picture(pipe, call)


# Outside the blocks, inside one of them only, both; embedders of text, picture and time, refiners, the last map.
PLACES = [
    ("flux", ("proj_out",)),
    ("flux", ("x_embedder", "context_embedder", "time_text_embed.timestep_embedder.linear_1")),
    ("flux", ("transformer_blocks.0.attn.to_q",)),
    ("flux", ("single_transformer_blocks.1.proj_mlp", "norm_out.linear")),
    ("qwen", ("img_in", "txt_in", "transformer_blocks.1.attn.to_q")),
    ("wan21", ("condition_embedder.text_embedder.linear_1", "proj_out")),
    ("z_image", ("noise_refiner.0.attention.to_q", "context_refiner.0.attention.to_k", "layers.0.attention.to_v")),
    ("hunyuan", ("context_embedder.token_refiner.refiner_blocks.0.attn.to_q", "proj_out")),
    ("sd3", ("context_embedder", "proj_out")),
]
SLOW = ("hunyuan", "z_image", "sd3")


@pytest.mark.parametrize(
    ("name", "places"), [pytest.param(*case, marks=pytest.mark.slow if case[0] in SLOW else ()) for case in PLACES]
)
def test_weights_loaded_scaled_and_unloaded(name, places):
    pipe, call = make(name)
    plain = fresh(pipe, call)
    with pure.accelerate(pipe, CACHE) as report:
        assert torch.equal(picture(pipe, call), plain)
        unload = wrap(pipe.transformer, *places)
        loaded = picture(pipe, call)
        for child in pipe.transformer.modules():
            if isinstance(child, Wrapped):
                child.scaling["default"] = 0.25
        scaled = picture(pipe, call)
        unload()
        assert torch.equal(picture(pipe, call), plain)
    assert not torch.equal(loaded, plain) and not torch.equal(scaled, loaded)
    assert all(each.skipped == report.calls[0].skipped > 0 and not each.plain for each in report.calls)
    wrap(pipe.transformer, *places)
    assert torch.equal(fresh(pipe, call), loaded)


def test_weights_in_some_blocks_only_are_not_shared_with_the_others_when_compiled():
    pipe, call = make("flux")
    transform = pure.compose(CACHE, compiled(backend="eager"))
    with pure.accelerate(pipe, transform):
        picture(pipe, call)
        wrap(pipe.transformer, "transformer_blocks.0.attn.to_q", "x_embedder")
        found = picture(pipe, call)
    assert torch.equal(found, fresh(pipe, call))


def test_weights_loaded_during_a_call_begin_anew_with_a_computed_step():
    pipe, call = make("flux")

    def load(pipe, index, timestep, tensors):
        if index == 2:
            wrap(pipe.transformer, "proj_out")
        return {}

    with pure.accelerate(pipe, pure.identity):
        found = picture(pipe, call, callback_on_step_end=load)
    pipe, call = make("flux")
    assert torch.equal(found, picture(pipe, call, callback_on_step_end=load))
    pipe, call = make("flux")
    always = dbcache(front=1, threshold=1e9, warmup=1)
    with pure.accelerate(pipe, always) as report:
        picture(pipe, call, callback_on_step_end=load)
    (infos,) = report.last.branches.values()
    assert [info.computed[0] for info in infos] == [True, False, False, True, False, False]


def test_merged_weights_take_part():
    pipe, call = make("flux")
    with pure.accelerate(pipe, CACHE):
        before = picture(pipe, call)
        with torch.no_grad():
            pipe.transformer.proj_out.weight.add_(0.1)  # as fuse_lora does
            pipe.transformer.transformer_blocks[0].attn.to_q.weight.data = (
                pipe.transformer.transformer_blocks[0].attn.to_q.weight.data * 1.5
            )
        after = picture(pipe, call)
        state = {name: tensor.clone() for name, tensor in pipe.transformer.state_dict().items()}
        state["proj_out.bias"] += 1.0
        pipe.transformer.load_state_dict({name: t.clone() for name, t in state.items()}, assign=True)
        assigned = picture(pipe, call)
        pipe.transformer.load_state_dict(make("flux")[0].transformer.state_dict())
        assert torch.equal(picture(pipe, call), before)
    assert not torch.equal(after, before) and not torch.equal(assigned, after)
    pipe.transformer.load_state_dict(state)
    assert torch.equal(fresh(pipe, call), assigned)


@pytest.mark.parametrize("name", ["flux", pytest.param("qwen", marks=pytest.mark.slow)])
def test_another_dtype_and_back(name):
    pipe, call = make(name)
    with pure.accelerate(pipe, CACHE) as report:
        single = picture(pipe, call)
        pipe.to(torch.bfloat16)
        half = picture(pipe, call)
        pipe.to(torch.float32)
        again = picture(pipe, call)
    assert not torch.equal(half, single) and not any(each.plain for each in report.calls)
    assert torch.equal(fresh(pipe, call), again)  # of weights that were rounded
    pipe.to(torch.bfloat16)
    assert torch.equal(fresh(pipe, call), half)


def test_quantised_while_it_is_accelerated():
    pipe, call = make("flux")
    with pure.accelerate(pipe, CACHE):
        plain = picture(pipe, call)
        quantize_(pipe.transformer, Int8WeightOnlyConfig())
        found = picture(pipe, call)
    assert torch.equal(found, fresh(pipe, call)) and not torch.equal(found, plain)
    with pure.accelerate(pipe, pure.identity):
        assert torch.equal(picture(pipe, call), picture(pipe, call))


def test_another_transformer_is_accelerated_and_stays():
    pipe, call = make("flux")
    other = make("flux")[0].transformer
    wrap(other, "proj_out")
    with pure.accelerate(pipe, CACHE) as report:
        first = picture(pipe, call)
        pipe.transformer = other
        assert vars(pipe)["transformer"] is other
        second = picture(pipe, call)
        assert pipe.transformer.config == other.config
    assert vars(pipe)["transformer"] is other
    assert report.calls[0].skipped == report.calls[1].skipped == 2
    assert torch.equal(fresh(pipe, call), second) and not torch.equal(first, second)


def test_another_transformer_that_is_compiled_is_refused():
    pipe, call = make("flux")
    with pure.accelerate(pipe, CACHE):
        compiled_one = torch.compile(make("flux")[0].transformer)
        vars(pipe)["transformer"] = compiled_one
        with pytest.raises(CheckpointError, match="compiled as a whole"):
            picture(pipe, call)
    assert vars(pipe)["transformer"] is compiled_one


def test_what_was_adapted_by_hand_says_that_the_module_changed():
    model, call = NAMED["flux"].build(), NAMED["flux"].example()
    adapted = adapt(model, example=call)
    wrap(model, "proj_out")
    again = adapt(model, example=call)
    with pytest.raises(CheckpointError, match=r"no parameter proj_out.weight any more: .*adapt it again"):
        run(attrs.evolve(adapted, params=again.params), pure.identity, [call])


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m.proj_out, "bias", None),
        lambda m: m.proj_out.to(torch.bfloat16),
        lambda m: m.proj_out.to("meta"),
        lambda m: m.train(),
        lambda m: wrap(m, "transformer_blocks.1.attn.to_k"),
        lambda m: m.register_buffer("more", torch.zeros(1)),
        lambda m: setattr(m.transformer_blocks, "0", m.transformer_blocks[1]),
        lambda m: m.set_attn_processor(type(next(iter(m.attn_processors.values())))()),
        lambda m: setattr(m.norm_out, "scaling", {"default": 0.5}),
    ],
)
def test_every_change_of_structure_shows_in_the_fingerprint(change):
    model, call = NAMED["flux"].build(), NAMED["flux"].example()
    before = fingerprint(model)
    model(**call)
    assert fingerprint(model) == before
    change(model)
    assert fingerprint(model) != before


def test_a_changed_scale_shows_in_the_fingerprint():
    model = NAMED["flux"].build()
    wrap(model, "proj_out")
    before = fingerprint(model)
    model.proj_out.scaling["default"] = 0.5
    assert fingerprint(model) != before

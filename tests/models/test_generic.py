"""Models of many families, cut where their own forward shows it: the same bits, and caches that work."""

from typing import Any

import attrs
import pytest
import torch

import pure
from pure.models.adapt.adapt import Adapted, adapt
from pure.models.flux.denoiser import flux
from pure.testing.situation import same
from pure.transforms import compiled, dbcache, guided, scm, taylorseer
from tests.support import tiny
from tests.support.generic import FAMILIES, NAMED, Draw, Family

# Of diffusers' own Chroma and Mochi.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning"),
]
CACHES = {
    "dbcache": dbcache(front=1, threshold=0.9, warmup=2),
    "back": dbcache(front=1, back=1, threshold=1.0, warmup=1, max_continuous=1),
    "static": pure.compose(scm(mask="110101", policy="static"), taylorseer(order=1)),
    "hidden": pure.compose(dbcache(front=2, threshold=1.0, warmup=3), taylorseer(order=2, on="hidden", streams="all")),
}

# Every family with every cache takes minutes; these two show what the others do not.
TRIED = [name if name in ("dbcache", "static") else pytest.param(name, marks=pytest.mark.slow) for name in CACHES]


def reference(model: Any, call: dict) -> torch.Tensor:
    with torch.no_grad():
        result = model(**call, return_dict=False)[0]
    return torch.stack(result) if isinstance(result, list) else result


def moved(adapted: Adapted, call: dict, place: int, count: int = 6) -> dict:
    """The call of a later step: other noise, another time."""
    forward, drawn = adapted.forward, Draw(place)
    time, latents = call[forward.timestep], call[forward.latents]
    noise = (
        [x + 0.1 * place * drawn(*x.shape) for x in latents]
        if forward.listed
        else latents + 0.1 * place * drawn(*latents.shape)
    )
    return {**call, forward.latents: noise, forward.timestep: time * (1 - place / count)}


def run(adapted: Adapted, transform: pure.Transform, calls: list[dict], count: int | None = None) -> list:
    """Predictions and infos of the calls as the steps of one request."""
    denoiser, first = transform(adapted.denoiser), adapted.request(calls[0])
    found = []
    with torch.no_grad():
        state = denoiser.init(adapted.params, first.conditioning, first.latents, count or len(calls))
        for index, call in enumerate(calls):
            request = adapted.request(call)
            # Residuals of a ControlNet are other ones at every step.
            state = attrs.evolve(state, prepared=request.conditioning)
            step = pure.Step(index=index, count=count or len(calls), timestep=request.timestep)
            prediction, state, info = denoiser.apply(adapted.params, state, pure.Inputs(request.latents, step))
            found.append((prediction, info))
    return found


def cut(family: Family, batch: int = 1, **options) -> tuple[Any, dict, Adapted]:
    model, call = family.build(), family.example(batch)
    return model, call, adapt(model, example=call, **options)


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_a_model_in_pieces_is_the_model_bit_for_bit(family, batch):
    model, call, adapted = cut(family, batch, check=0)
    assert (len(adapted.cut.blocks), len(adapted.cut.streams)) == (family.blocks, family.streams)
    assert adapted.denoiser.reads == ("image",)
    calls = [moved(adapted, call, place) for place in range(3)]
    for (prediction, info), each in zip(run(adapted, pure.identity, calls), calls, strict=True):
        assert torch.equal(prediction, reference(model, each))
        assert info.blocks == batch * family.blocks


@pytest.mark.parametrize("name", TRIED)
@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_caches_skip_and_count(family, name):
    model, call, adapted = cut(family, 2, check=0)
    calls = [moved(adapted, call, place) for place in range(6)]
    steps = run(adapted, CACHES[name], calls)
    skipped = [decision for _, info in steps for decision in info.decisions if not decision.computed]
    assert skipped and all(decision.blocks < family.blocks for decision in skipped)
    for (prediction, info), each in zip(steps, calls, strict=True):
        expected = reference(model, each)
        for row, computed in enumerate(info.computed):
            same_row = torch.allclose(prediction[row], expected[row], atol=1e-4 * (1 + float(expected.abs().max())))
            assert same_row or not computed
    assert any(
        not torch.equal(prediction, reference(model, each)) for (prediction, _), each in zip(steps, calls, strict=True)
    )


@pytest.mark.parametrize("name", TRIED)
@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_where_nothing_changes_a_skipped_step_returns_what_a_computed_one_returns(family, name):
    model, call, adapted = cut(family, check=0)
    steps, expected = run(adapted, CACHES[name], [call] * 6), reference(model, call)
    assert not all(info.computed[0] for _, info in steps)
    for prediction, _ in steps:
        torch.testing.assert_close(prediction, expected, rtol=0, atol=2e-5 * (1 + float(expected.abs().max())))


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_samples_of_a_batch_are_alone(family):
    """A batch whose samples take different decisions gives each what it gets alone."""
    model, call = family.build(), family.example(2)
    if family.name == "lumina2":  # it masks nothing for a sample that is alone
        call["encoder_attention_mask"] = torch.ones_like(call["encoder_attention_mask"])
    adapted = adapt(model, example=call, check=0)
    denoiser = dbcache(front=1, threshold=1.0, warmup=1, max_continuous=1)(adapted.denoiser)
    first, states = adapted.request(call), []
    second = adapted.request(moved(adapted, call, 1))
    times = [request.timestep.expand(2) for request in (first, second)]
    with torch.no_grad():
        state = denoiser.init(adapted.params, first.conditioning, first.latents, 4)
        for row in range(2):
            part = pure.take((state, first.latents, times[0]), torch.tensor([row]))
            steps = [pure.Step(index=index, count=4, timestep=part[2]) for index in range(1 + row)]
            held = part[0]
            for step in steps:  # the second sample is a step ahead: now it computes, the first one skips
                _, held, _ = denoiser.apply(adapted.params, held, pure.Inputs(part[1], step))
            states.append(held)
        step = pure.Step(index=(1, 2), count=4, timestep=times[1])
        together, _, info = denoiser.apply(adapted.params, pure.join(*states), pure.Inputs(second.latents, step))
        assert info.computed == (False, True)
        for row, held in enumerate(states):
            latents, time = pure.take((second.latents, times[1]), torch.tensor([row]))
            step = pure.Step(index=1 + row, count=4, timestep=time)
            alone, _, _ = denoiser.apply(adapted.params, held, pure.Inputs(latents, step))
            torch.testing.assert_close(
                alone, together[row : row + 1], rtol=0, atol=1e-4 * (1 + float(alone.abs().max()))
            )


def snapshot(model: torch.nn.Module) -> list:
    """Everything a module is made of, to compare by identity and version."""
    return [
        (
            id(module),
            {key: (id(value), dict(value) if isinstance(value, dict) else None) for key, value in vars(module).items()},
        )
        for module in model.modules()
    ] + [(id(p), p.data_ptr(), p._version) for p in model.parameters()]


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_the_model_itself_is_never_written(family):
    model, call = family.build(), family.example(2)
    reference(model, call)  # some fill tables of their own in the first call
    before = snapshot(model)
    adapted = adapt(model, example=call)
    run(adapted, CACHES["dbcache"], [call] * 4)
    assert snapshot(model) == before


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_parameters_are_an_argument(family):
    """Other parameters through the same pieces are another model."""
    _, call, adapted = cut(family, check=0)
    other = family.build(seed=7)
    params = {**adapted.params, **dict(other.named_parameters())}
    found = run(attrs.evolve(adapted, params=params), pure.identity, [call])[0][0]
    assert torch.equal(found, reference(other, call))


def controlled(name: str, call: dict, place: int) -> dict:
    """The call with residuals of a ControlNet for some or all blocks."""
    drawn = Draw(100 + place)
    shape = {"flux": (16, 32), "qwen": (16, 32), "sd3": (16, 32), "sana": (64, 32), "chroma": (16, 32)}[name]
    latents = call["hidden_states"]

    def samples(number: int) -> list[torch.Tensor]:
        return [0.5 * drawn(len(latents), *shape) for _ in range(number)]

    if name == "sd3":
        return {**call, "block_controlnet_hidden_states": samples(2)}
    if name == "sana":
        return {**call, "controlnet_block_samples": tuple(samples(2))}
    more = {"controlnet_single_block_samples": samples(3)} if name in ("flux", "chroma") else {}
    return {**call, "controlnet_block_samples": samples(2), **more}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", ["flux", "qwen", "sd3", "sana", "chroma"])
def test_residuals_of_a_controlnet_are_added_once(name, batch):
    model, plain = NAMED[name].build(), NAMED[name].example(batch)
    call = controlled(name, plain, 0)
    adapted = adapt(model, example=call)
    assert len(adapted.cut.blocks) == NAMED[name].blocks
    expected = reference(model, call)
    assert not torch.equal(expected, reference(model, plain))
    for cache in CACHES.values():  # nothing changes: skipped is computed
        steps = run(adapted, cache, [call] * 6)
        assert not all(all(info.computed) for _, info in steps)
        for prediction, _ in steps:
            torch.testing.assert_close(prediction, expected, rtol=0, atol=2e-5 * (1 + float(expected.abs().max())))
    calls = [controlled(name, moved(adapted, plain, place), place) for place in range(3)]
    for (prediction, _), each in zip(run(adapted, pure.identity, calls), calls, strict=True):
        assert torch.equal(prediction, reference(model, each))


class Wrapped(torch.nn.Module):
    """A linear map with a low-rank addition, as LoRA loaders put them in place of linear maps."""

    def __init__(self, base: Any, seed: int) -> None:
        super().__init__()
        drawn = Draw(seed)
        self.base = base
        self.down = torch.nn.Parameter(0.3 * drawn(2, base.in_features))
        self.up = torch.nn.Parameter(0.3 * drawn(base.out_features, 2))
        self.scaling = {"default": 1.0}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.scaling["default"] * (x @ self.down.T @ self.up.T)


def wrap(model: torch.nn.Module) -> None:
    named = [name for name, child in model.named_modules() if isinstance(child, torch.nn.Linear) and ".to_q" in name]
    assert named
    for seed, name in enumerate(named):
        owner, _, place = name.rpartition(".")
        setattr(model.get_submodule(owner), place, Wrapped(model.get_submodule(name), seed))
    model.requires_grad_(False)


@pytest.mark.parametrize("name", ["flux", "qwen", "wan", "z-image"])
def test_adapters_inside_the_blocks_take_part(name):
    model, call = NAMED[name].build(), NAMED[name].example(2)
    before = reference(model, call)
    wrap(model)
    adapted = adapt(model, example=call)
    expected = reference(model, call)
    assert not torch.equal(before, expected)
    assert torch.equal(run(adapted, pure.identity, [call])[0][0], expected)
    for child in model.modules():
        if isinstance(child, Wrapped):
            child.scaling["default"] = 0.0  # as when an adapter is given another weight
    assert torch.equal(run(adapted, pure.identity, [call])[0][0], before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["flux", "chroma", "wan", "qwen"])
def test_other_types_are_equal_bit_for_bit(name, dtype):
    model, call = NAMED[name].build().to(dtype), NAMED[name].example(2)
    kept = ("img_ids", "txt_ids", "timestep") if name == "wan" else ("img_ids", "txt_ids")
    call = {
        k: v.to(dtype) if isinstance(v, torch.Tensor) and v.is_floating_point() and k not in kept else v
        for k, v in call.items()
    }
    adapted = adapt(model, example=call)
    assert torch.equal(run(adapted, pure.identity, [call])[0][0], reference(model, call))


@pytest.mark.parametrize("name", ["flux", "sd3", "wan"])
def test_blocks_of_a_kind_are_compiled_once(name):
    _, call, adapted = cut(NAMED[name], check=0)
    kinds = {block.run for block in adapted.denoiser.blocks}
    # SD3: with a second attention, without, and the last one, which drops the text.
    assert len(kinds) == {"flux": 2, "sd3": 3, "wan": 1}[name]
    del call


@pytest.mark.parametrize("name", CACHES)
def test_flux_so_cut_is_our_own_flux(name):
    """Decisions, changes and predictions are the same, bit for bit."""
    model, call, adapted = cut(NAMED["flux"], 2, check=0)
    calls = [moved(adapted, call, place) for place in range(6)]
    denoiser, params = CACHES[name](flux(model.config)), tiny.params(model)
    with torch.no_grad():
        state = denoiser.init(params, tiny.conditioning(call), call["hidden_states"], 6)
        for index, (found, info) in enumerate(run(adapted, CACHES[name], calls)):
            step = pure.Step(index=index, count=6, timestep=calls[index]["timestep"])
            inputs = pure.Inputs(calls[index]["hidden_states"], step)
            prediction, state, expected = denoiser.apply(params, state, inputs)
            assert torch.equal(found, prediction) and info == expected


def test_states_of_two_requests_join():
    family = NAMED["flux"]
    _, call, adapted = cut(family, check=0)
    other = family.example(1, seed=5)
    cache = dbcache(front=1, threshold=1.0, warmup=1)
    denoiser = cache(adapted.denoiser)
    requests = [adapted.request(each) for each in (call, other)]
    with torch.no_grad():
        states = [denoiser.init(adapted.params, each.conditioning, each.latents, 3) for each in requests]
        step = pure.Step(index=0, count=3, timestep=torch.cat([each.timestep for each in requests]))
        latents = torch.cat([each.latents for each in requests])
        together, _, _ = denoiser.apply(adapted.params, pure.join(*states), pure.Inputs(latents, step))
        for row, (state, each) in enumerate(zip(states, requests, strict=True)):
            step = pure.Step(index=0, count=3, timestep=each.timestep)
            alone, _, _ = denoiser.apply(adapted.params, state, pure.Inputs(each.latents, step))
            torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)


def test_apply_is_pure():
    _, call, adapted = cut(NAMED["chroma"], 2, check=0)
    denoiser, request = CACHES["back"](adapted.denoiser), adapted.request(call)
    with torch.no_grad():
        state = denoiser.init(adapted.params, request.conditioning, request.latents, 4)
        for index in range(4):
            inputs = pure.Inputs(request.latents, pure.Step(index=index, count=4, timestep=request.timestep))
            first, again = (denoiser.apply(adapted.params, state, inputs) for _ in range(2))
            assert same(first[:2], again[:2]) and first[2] == again[2]
            state = first[1]


def test_guidance_is_a_transform_of_it_too():
    family = NAMED["sd3"]
    model, call, adapted = cut(family, check=0)
    negative = {**call, "encoder_hidden_states": -call["encoder_hidden_states"]}
    denoiser = guided(scale=3.0)(adapted.denoiser)
    positive, other = adapted.request(call), adapted.request(negative)
    branches = pure.Branches(conditional=positive.conditioning, unconditional=other.conditioning)
    with torch.no_grad():
        state = denoiser.init(adapted.params, branches, positive.latents, 1)
        step = pure.Step(index=0, count=1, timestep=positive.timestep[0])
        found, _, _ = denoiser.apply(adapted.params, state, pure.Inputs(positive.latents, step))
    cond, uncond = reference(model, call), reference(model, negative)
    torch.testing.assert_close(found, uncond + 3.0 * (cond - uncond), rtol=0, atol=1e-5)


def test_transforms_run_it_compiled():
    _, call, adapted = cut(NAMED["flux"], check=0)
    calls = [moved(adapted, call, place) for place in range(4)]
    cache = CACHES["dbcache"]
    eager = run(adapted, cache, calls)
    fast = run(adapted, pure.compose(cache, compiled(backend="eager")), calls)
    for (a, one), (b, other) in zip(eager, fast, strict=True):
        assert torch.equal(a, b) and one == other


def test_printing_it_says_where_it_was_cut():
    _, _, adapted = cut(NAMED["flux2"], check=0)
    blocks, streams = "transformer_blocks.0 to single_transformer_blocks.2", "hidden_states, encoder_hidden_states"
    assert repr(adapted) == f"Adapted(5 blocks, {blocks}, streams {streams})"

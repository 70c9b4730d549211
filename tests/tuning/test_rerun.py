"""Runs with weights as tensors are the runs of the plan that is made of them."""

from typing import Any

import pytest
import torch

from pure import Experts
from pure.configs import Facts, build, load_text, resolve
from pure.configs.tuned import TunedFor
from pure.engine.tuning.plan import plan_of
from pure.engine.tuning.recording import make_case, record
from pure.engine.tuning.rerun import TunedSpan, begin, bound_of, end, experts_of, histories, run
from pure.engine.tuning.searching import KINDS, errors_of, masks, start_weights
from pure.models import Pipeline, embedded, load_pipeline
from tests.support import wan_pipelines


@pytest.fixture(scope="module")
def emoji() -> Pipeline:
    return load_pipeline(embedded())


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("wan")
    wan_pipelines.pipeline("t2v-2.2", wan_pipelines.unipc(5.0)).save_pretrained(folder)
    return load_pipeline(folder)


PROMPTS = ("fox on a white background", "bell on a pink background")
SPANS = [TunedSpan(depth=3), TunedSpan(front=1, back=2, depth=2), TunedSpan(depth=1)]
GUIDED = {"true_cfg_scale": 3.0, "negative_prompt": ""}


def transform_of(case: Any, entries: tuple[int, ...], weights: Any, span: TunedSpan) -> Any:
    return plan_of(case.steps, entries, weights, span, TunedFor()).transform


@pytest.mark.parametrize("span", SPANS, ids=str)
@pytest.mark.parametrize("options", [{}, GUIDED], ids=["plain", "guided"])
def test_a_plan_makes_the_latents_of_its_rerun(emoji: Pipeline, span: TunedSpan, options: dict) -> None:
    case = make_case(emoji, PROMPTS, (1, 2), {"steps": 5, **options})
    entries = (1, 0, 1, 0, 0)
    errors = errors_of(record(case, (1, 2), span), case.steps)
    for kind in KINDS[:2]:
        weights = {at: w.float() for at, w in start_weights(errors, entries, span.depth, kind).items()}
        with torch.no_grad():
            found = end(case, bound_of(case), entries, weights, span)
        negative = options.get("negative_prompt")
        given = {name: value for name, value in options.items() if name != "negative_prompt"}
        made = emoji.generate(
            list(PROMPTS), negative, seed=[1, 2], steps=5, transform=transform_of(case, entries, weights, span), **given
        )
        assert tuple(info.computed[0] for info in made.infos) == tuple(map(bool, entries))
        assert float((made.latents - found).abs().max()) < 1e-3  # weights in the plan have five decimals


def test_two_experts_have_plans_of_their_own(experts: Pipeline) -> None:
    options = {"steps": 8, "frames": 5, "guidance_scale": 4.0, "max_sequence_length": 16, **wan_pipelines.SIZE}
    case, span = make_case(experts, ["a cat"], [3], options), TunedSpan(depth=2)
    names = experts_of(case.steps)
    assert len(set(names)) == 2
    errors = errors_of(record(case, [3], span), case.steps)
    assert {name: len(gram) for name, gram in errors.grams.items()} == {n: names.count(n) for n in set(names)}
    best = masks(errors, span.depth)
    assert sorted(best) == list(range(2, 9)), "each expert computes its first step"
    entries = best[4].entries
    assert all(entries[names.index(name)] for name in set(names)) and sum(entries) == 4
    weights = start_weights(errors, entries, span.depth, "fitted")
    with torch.no_grad():
        found = end(case, bound_of(case), entries, weights, span)
    transform = transform_of(case, entries, weights, span)
    assert set(transform) == set(names)
    text = plan_of(case.steps, entries, weights, span, TunedFor(steps=8)).text
    effective = resolve(file=load_text(text), facts=Facts(steps=8, experts=2))
    assert isinstance(experts.denoiser, Experts)
    for which, name in zip(("primary", "secondary"), dict.fromkeys(names), strict=True):
        one = experts.denoiser.denoisers[name]
        assert build(effective, which)(one).plan == transform[name](one).plan, "the file has both"
    made = experts.generate("a cat", seed=[3], transform=transform, **options)
    assert float((made.latents - found).abs().max()) < 1e-3
    assert [info.computed[0] for info in made.infos] == [bool(entry) for entry in entries]


def test_a_mask_of_ones_is_the_run_without_a_cache(emoji: Pipeline) -> None:
    case, span = make_case(emoji, PROMPTS, (1, 2), {"steps": 3}), TunedSpan()
    with torch.no_grad():
        found = end(case, bound_of(case), (1, 1, 1), {}, span)
    made = emoji.generate(list(PROMPTS), seed=[1, 2], steps=3)
    assert torch.equal(made.latents, found)
    recorded = record(case, (1, 2), span)
    assert torch.equal(torch.cat([one.latents for one in recorded]), found)


def test_a_run_goes_on_from_any_place_to_the_same_bits(emoji: Pipeline) -> None:
    case, span, entries = make_case(emoji, PROMPTS, (1, 2), {"steps": 6}), TunedSpan(depth=2), (1, 0, 1, 0, 0, 1)
    bound, weights = bound_of(case), {at: torch.tensor([1.2, -0.2]) for at in (1, 3, 4)}
    with torch.no_grad():
        first = begin(case, bound, entries, span)
        places = [first, *(after for _, after in run(case, bound, first, entries, weights, span))]
        whole = end(case, bound, entries, weights, span)
        for place in places:
            assert torch.equal(end(case, bound, entries, weights, span, place), whole)


def test_weights_have_gradients(emoji: Pipeline) -> None:
    case, span, entries = make_case(emoji, PROMPTS[:1], (1,), {"steps": 4}), TunedSpan(depth=2), (1, 1, 0, 1)
    weights = torch.tensor([1.2, -0.2], requires_grad=True)
    end(case, bound_of(case), entries, {2: weights}, span).square().sum().backward()
    assert weights.grad is not None and bool((weights.grad != 0).all())


def test_what_is_kept_of_a_large_residual_has_a_bound(emoji: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    from pure.engine.tuning import recording

    case, span = make_case(emoji, PROMPTS, (1, 2), {"steps": 4}), TunedSpan()
    whole = record(case, (1, 2), span)
    monkeypatch.setattr(recording, "MOST", 2000)
    part = record(case, (1, 2), span)
    for one, other in zip(whole, part, strict=True):
        assert float(abs(one.grams[""] - other.grams[""]).max()) < 0.1
        assert torch.equal(one.latents, other.latents)


def test_histories_are_those_of_each_expert(experts: Pipeline) -> None:
    options = {"steps": 8, "frames": 5, "guidance_scale": 4.0, "max_sequence_length": 16, **wan_pipelines.SIZE}
    case = make_case(experts, ["a cat"], [3], options)
    names = experts_of(case.steps)
    second = names.index(names[-1])
    entries = tuple(int(at in (0, 1, second)) for at in range(8))
    for at, history in histories(case.steps, entries, 3).items():
        assert history == ((1, 0) if at < second else (second,))

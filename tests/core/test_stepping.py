"""Steps, guidance, experts, noise, the loop: what they refuse and how they say it."""

import math
import re
from typing import Any

import attrs
import hypothesis
import pytest
import torch
from hypothesis import strategies as st

import pure
from pure import Branches, Guidance, Inputs, Note, Probe, Step
from pure.block import bind
from pure.experts import transformed
from pure.measure import measure, sums
from pure.memory import read
from pure.pieces import Fill, Kept
from pure.predictors import Hold
from pure.testing.situation import SOLVER, Situation, same
from pure.testing.toys import EXPERTS, RANDOM
from pure.transforms import dbcache, guided, scm
from pure.tree import static

CACHE = dbcache(front=1, threshold=0.5, warmup=1)
GUIDED = pure.compose(guided(scale=2.0, start=0.25, stop=0.75), CACHE)


def situation(transform: pure.Transform = pure.identity, samples: int = 2, **fields) -> Situation:
    return Situation(model=RANDOM, transform=transform, seeds=tuple(range(samples)), **{"count": 4, **fields})


def test_steps_of_a_batch_name_every_sample() -> None:
    step = Step(index=(0, 3), count=(4, 8), timestep=torch.zeros(2), expert="low", branch=("a", "b"))
    assert list(step.rows(2)) == [pure.Where(0, 4, "low", "a"), pure.Where(3, 8, "low", "b")]
    with pytest.raises(ValueError, match=r"Step.index has 2 entries for a batch of 3 samples; give one per sample"):
        step.rows(3)
    assert Step(index=1, count=2, timestep=torch.tensor(0.5)).times(3).tolist() == [0.5] * 3
    assert Step(index=1, count=2, timestep=torch.tensor(0.5)).times(1).tolist() == [0.5]


def test_samples_of_runs_of_other_lengths_follow_masks_of_their_own() -> None:
    """The preset is 1101 for 4 steps and 111001 for 6."""
    case = situation(scm(preset="fast", policy="static"), count=6)
    state, latents = case.start(), case.latents()
    for index in (0, 1):
        _, state, _ = case.apply(state, latents, case.schedule()[index])
    for counts, computed in (((4, 6), (False, True)), ((6, 4), (True, False))):
        step = Step(index=(2, 2), count=counts, timestep=torch.full((2,), 0.5))
        assert case.apply(state, latents, step)[2].computed == computed


def test_steps_of_samples_at_different_places_are_merged() -> None:
    steps = SOLVER.schedule(4, tokens=16)
    merged = pure.merge_steps([attrs.evolve(steps[index], expert="low", branch="b") for index in (2, 0)])
    assert (merged.index, merged.count, merged.expert, merged.branch) == ((2, 0), (4, 4), "low", "b")
    for name in ("timestep", "sigma", "sigma_next"):
        assert torch.equal(getattr(merged, name), torch.stack([getattr(steps[2], name), getattr(steps[0], name)]))
    assert pure.merge_steps([steps[1], steps[1]]) is steps[1]
    refused: list[tuple[Any, type, str]] = [
        ([], ValueError, "takes the step of every sample"),
        ([steps[0], 3], TypeError, "takes the step of every sample"),
        ([steps[0], merged], ValueError, "one of these is of several"),
        ([steps[0], attrs.evolve(steps[1], expert="low")], ValueError, r"steps of one expert, got \['', 'low'\]"),
        ([steps[0], attrs.evolve(steps[1], branch="b")], ValueError, r"steps of one branch, got \['b', 'cond"),
        ([steps[0], attrs.evolve(steps[1], sigma=None)], ValueError, "some of these steps have a sigma"),
    ]
    for given, error, message in refused:
        with pytest.raises(error, match=message):
            pure.merge_steps(given)


def test_a_state_of_another_batch_is_refused() -> None:
    three, step = situation(samples=3), situation().schedule()[0]
    with pytest.raises(ValueError, match="the state holds 3 samples and the latents 2; use the state that init"):
        situation().apply(three.start(), situation().latents(), step)
    guided_pair = situation(GUIDED)
    with pytest.raises(ValueError, match="the state holds 2 samples and the latents 3"):
        guided_pair.apply(guided_pair.start(), three.latents(), step)
    one = situation(GUIDED, samples=1)  # two rows, but of one sample
    with pytest.raises(ValueError, match="the state holds 1 samples and the latents 2"):
        guided_pair.apply(one.start(), guided_pair.latents(), step)
    with pytest.raises(ValueError, match=r"two branches of each sample, but this denoiser is not guided"):
        situation().apply(guided_pair.start(), guided_pair.latents(), step)


def test_what_is_prepared_keeps_no_larger_tensor_alive() -> None:
    case, prepare = situation(), RANDOM.first.prepare

    def view(params, conditioning):
        prepared = prepare(params, conditioning)
        return torch.stack([prepared, prepared], dim=-1)[..., 0]

    viewing = attrs.evolve(case.single, prepare=view)
    state = viewing.init(RANDOM.params, case.conditioning(), case.latents(), 4)
    assert same(state, case.start()) and state.prepared.untyped_storage().nbytes() == state.prepared.nbytes


def test_states_built_differently_are_not_joined() -> None:
    one, other = situation().start(), situation(GUIDED).start()
    for states in ((one, other), (one, other, one), (one, one, other)):
        with pytest.raises(ValueError, match="states are built differently"):
            pure.join(*states)


def test_sample_takes_the_length_of_the_schedule_not_of_the_part_it_runs() -> None:
    case = situation(pure.compose(scm(mask="1101"), dbcache(front=1, warmup=1)))
    part = case.schedule()[:2]
    run = pure.sample(case.denoiser, RANDOM.params, case.conditioning(), case.latents(), part, SOLVER)
    assert [info.computed[0] for info in run.infos] == [True, True]
    with pytest.raises(ValueError, match=r"steps of one schedule, got steps of schedules of \[4, 8\] steps"):
        steps = (part[0], attrs.evolve(part[1], count=8))
        pure.sample(case.denoiser, RANDOM.params, case.conditioning(), case.latents(), steps, SOLVER)


@pytest.mark.parametrize("count", [0, -1, 10_001, 10**18, True, 2.0, "4", None])
def test_a_number_of_steps_that_no_run_has_is_refused(count: Any) -> None:
    case = situation(CACHE)
    message = re.escape(f"a run takes 1 to 10000 steps, got {count!r}")
    with pytest.raises(ValueError, match=message):
        case.single.init(RANDOM.params, case.conditioning(), case.latents(), count)
    with pytest.raises(ValueError, match=message):
        case.single.notes(count)


def test_parameters_of_another_model_are_refused() -> None:
    with pytest.raises(
        KeyError, match=r"no parameter starts with 'blocks.0.'; these parameters belong to another denoiser"
    ):
        bind(RANDOM.first.blocks, {"other": torch.zeros(1)})


def test_binding_copies_nothing_and_is_done_once() -> None:
    bound = RANDOM.first.bind(RANDOM.params)
    assert RANDOM.first.bind(bound) is bound
    assert [group["weight"] for group in bound.blocks] == [RANDOM.params[f"blocks.{i}.weight"] for i in range(4)]
    case = situation()
    step = case.schedule()[0]
    with torch.no_grad():
        one = case.denoiser.apply(bound, case.start(), Inputs(case.latents(), step))
    assert same(one[0], case.apply(case.start(), case.latents(), step)[0])


def test_longer_prefixes_win() -> None:
    blocks = [pure.Block(print, "a."), pure.Block(print, "a.b.")]
    bound = bind(blocks, {"a.x": torch.zeros(1), "a.b.x": torch.ones(1)})
    assert [list(group) for group in bound.blocks] == [["x"], ["x"]] and bound.blocks[1]["x"] == 1
    assert bind([pure.Block(print, "")], {"a.x": torch.zeros(1)}).blocks == ({},), "a block may have none"


def test_guidance_without_a_negative_prompt_says_so() -> None:
    case, plain = situation(GUIDED), situation(CACHE)
    positive = plain.conditioning()
    (note,) = case.single.notes(4, positive)
    assert note.text.startswith("guided(scale=2.0) has no negative conditioning and runs without guidance; give")
    state = case.single.init(RANDOM.params, positive, case.latents(), 4)
    latents, step = case.latents(), case.schedule()[1]
    assert same(case.apply(state, latents, step)[0], plain.apply(plain.start(), latents, step)[0])


def test_a_negative_prompt_without_guidance_says_so() -> None:
    case = situation()
    both = Branches(conditional=case.conditioning(), unconditional=case.conditioning())
    state = case.single.init(RANDOM.params, both, case.latents(), 4)
    assert case.single.notes(4, both) == (
        Note("the negative conditioning has no effect: the denoiser is not guided(...)"),
    )
    assert same(state, case.start())


def test_a_run_carries_the_notes_on_its_plan() -> None:
    case = situation(dbcache(warmup=9))
    arguments = (RANDOM.params, case.conditioning(), case.latents(), case.schedule(), SOLVER)
    run = pure.sample(case.denoiser, *arguments)
    assert run.notes == case.single.notes(4) == case.denoiser.notes(case.schedule())
    assert [note.text for note in run.notes] == [
        "nothing will be skipped: warm-up computes every one of 4 steps; use a shorter warm-up or more steps"
    ]
    assert pure.sample(situation().denoiser, *arguments).notes == ()
    both = Branches(conditional=arguments[1], unconditional=arguments[1])
    (note,) = pure.sample(situation().denoiser, RANDOM.params, both, *arguments[2:]).notes
    assert note.text.startswith("the negative conditioning has no effect")


def test_notes_of_experts_name_the_expert() -> None:
    case = Situation(model=EXPERTS, transform=dbcache(warmup=3), seeds=(1,), count=8)
    assert isinstance(case.denoiser, pure.Experts)
    steps = case.schedule()
    notes = case.denoiser.notes(
        [attrs.evolve(step, index=i, count=3) for i, step in enumerate(steps[:3])] + [*steps[4:]]
    )
    assert [note.text[:45] for note in notes] == ["expert 'high': nothing will be skipped: warm-"]
    assert case.denoiser.notes(steps[4:]) == ()
    unguided = attrs.evolve(case, transform=guided(scale=2.0))
    assert len(unguided.denoiser.notes(steps, case.conditioning())) == 1, "of both experts it is said once"
    assert case.denoiser.notes(case.schedule()) == ()
    with pytest.raises(TypeError, match="experts share the steps of one schedule; pass its steps instead of their num"):
        case.denoiser.notes(8)


def test_init_embeds_with_a_timestep_for_every_sample() -> None:
    seen, case = [], situation()

    def embed(params: Any, prepared: Any, latents: torch.Tensor, timestep: torch.Tensor) -> Any:
        seen.append((len(latents), tuple(timestep.shape)))
        return RANDOM.first.embed(params, prepared, latents, timestep)

    attrs.evolve(RANDOM.first, embed=embed).init(RANDOM.params, case.conditioning(), case.latents(), 4)
    assert seen == [(2, (2,))]


def test_samples_on_both_sides_of_the_interval_are_refused() -> None:
    step = Step(index=(0, 2), count=4, timestep=torch.zeros(2))
    with pytest.raises(
        ValueError, match=r"samples at steps \(0, 2\) of \(4, 4\) stand on both sides of the guidance int"
    ):
        Guidance(scale=2.0, start=0.25).active(step)
    assert Guidance(scale=2.0).active(step)


@pytest.mark.parametrize(("index", "inside"), [(0, False), (1, True), (2, True), (3, False)])
def test_the_interval_is_half_open(index: int, inside: bool) -> None:
    step = Step(index=index, count=4, timestep=torch.zeros(()))
    assert Guidance(scale=2.0, start=0.25, stop=0.75).active(step) is inside


def test_experts_are_transformed_alike_or_each_by_name() -> None:
    plain = EXPERTS.denoiser
    assert isinstance(plain, pure.Experts)
    one = transformed(plain, {"low": CACHE})
    assert isinstance(one, pure.Experts)
    names = {name: each.plan.rules != () for name, each in one.denoisers.items()}
    assert names == {"high": False, "low": True}
    assert transformed(plain, CACHE) == transformed(plain, dict.fromkeys(names, CACHE)) == CACHE(plain)


def test_an_unknown_expert_is_refused() -> None:
    case = Situation(model=EXPERTS, transform=pure.identity, seeds=(1,), count=4)
    step = attrs.evolve(case.schedule()[0], expert="middle")
    with pytest.raises(ValueError, match=r"step names expert 'middle'; there are \['high', 'low'\], one for the whole"):
        case.apply(case.start(), case.latents(), step)
    with pytest.raises(ValueError, match=r"step names expert \('high', 'low'\)"):
        case.apply(case.start(), case.latents(), attrs.evolve(step, expert=("high", "low")))


def test_an_expert_without_steps_has_no_state() -> None:
    case = Situation(model=EXPERTS, transform=pure.identity, seeds=(1,), count=4)
    assert isinstance(case.denoiser, pure.Experts)
    unnamed = [attrs.evolve(step, expert="") for step in case.schedule()]
    assert case.denoiser.init(EXPERTS.params, case.conditioning(), case.latents(), unnamed) == {}
    state = case.denoiser.init(EXPERTS.params, case.conditioning(), case.latents(), case.schedule()[:2])
    assert list(state) == ["high"]
    step = attrs.evolve(case.schedule()[0], expert="low")
    with pytest.raises(ValueError, match=r"expert 'low' has no state: no step that init was given names it"):
        case.apply(state, case.latents(), step)


@hypothesis.given(seeds=st.lists(st.integers(0, 2**31), min_size=1, max_size=4))
def test_noise_is_a_function_of_the_seed(seeds: list[int]) -> None:
    generator = torch.get_rng_state()
    batch = pure.gaussian((len(seeds), 2, 3), seeds)
    assert torch.equal(batch, torch.cat([pure.gaussian((1, 2, 3), seed) for seed in seeds]))
    assert torch.equal(generator, torch.get_rng_state())


def test_noise_wants_a_seed_per_sample() -> None:
    with pytest.raises(ValueError, match="2 seeds for a batch of 3; give one seed per sample, or a single integer"):
        pure.gaussian((3, 2), [1, 2])
    assert pure.gaussian((3, 2), 7).dtype == torch.float32

    def drawn(rows: int, seed: int) -> torch.Tensor:
        return torch.randn(rows, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    assert torch.equal(pure.gaussian((3, 64), 7, dtype=torch.float64), drawn(3, 7)), "drawn in its own type"
    assert torch.equal(pure.gaussian((2, 64), [7, 8], dtype=torch.float64), torch.cat([drawn(1, 7), drawn(1, 8)]))


def test_the_loop_names_what_changed() -> None:
    case = situation(dbcache(front=1, threshold=0.5))

    @attrs.frozen
    class Widening:
        inner: pure.Denoiser

        def bind(self, params):
            return self.inner.bind(params)

        def apply(self, params, state, inputs):
            prediction, new, info = self.inner.apply(params, state, inputs)
            assert new.cache.probe is not None
            wide = attrs.evolve(new.cache, probe=new.cache.probe.double())
            return prediction, attrs.evolve(new, cache=wide), info

    message = r"step 0 changed the state at \.cache\.probe: it was .*float32.* became .*float64.*; allocate it in init"
    with pytest.raises(TypeError, match=message):
        list(case.unroll(case.start(), case.latents(), case.schedule(), Widening(case.single)))


def test_sample_observes_every_step_and_keeps_every_info() -> None:
    case, frames = situation(dbcache(front=1, threshold=0.5, warmup=1)), []
    run = pure.sample(
        case.denoiser, RANDOM.params, case.conditioning(), case.latents(), case.schedule(), SOLVER, frames.append
    )
    assert [frame.info for frame in frames] == list(run.infos) == [entry.info for entry in case.trace()]
    assert run.latents is frames[-1].latents and run.state is frames[-1].state
    assert not run.latents.requires_grad, "nothing it was given asks for gradients"


def test_the_strides_of_streams_are_not_those_of_the_state() -> None:
    """The loop would refuse a state whose strides follow what a block happens to return."""

    def strided(block: pure.Block) -> pure.Block:
        def run(*arguments):
            out = block.run(*arguments)
            return attrs.evolve(out, image=out.image.transpose(1, 2).contiguous().transpose(1, 2))

        return pure.Block(run, block.prefix)

    blocks = tuple(map(strided, RANDOM.first.blocks))
    case = attrs.evolve(
        situation(CACHE), model=attrs.evolve(RANDOM, denoiser=attrs.evolve(RANDOM.first, blocks=blocks))
    )
    assert torch.equal(case.trace()[-1].prediction, situation(CACHE).trace()[-1].prediction)


def test_what_is_no_stream_passes_a_skipped_middle() -> None:
    @pure.state
    class Hidden:
        image: torch.Tensor
        text: torch.Tensor
        rows: int = static(default=1)

    hidden = Hidden(image=torch.ones(1, 2, 3), text=torch.zeros(1, 1, 3), rows=7)
    filled = Fill((Kept("image", Hold()),))(hidden, ((torch.full((1, 2, 3), 0.5),),), (None,))
    assert torch.equal(filled.image, torch.full((1, 2, 3), 1.5)) and filled.text is hidden.text and filled.rows == 7


def test_experts_are_sampled_with_their_own_step_counts() -> None:
    case = Situation(model=EXPERTS, transform=dbcache(front=1, threshold=0.9, warmup=1), seeds=(1,), count=6)
    run = pure.sample(case.denoiser, EXPERTS.params, case.conditioning(), case.latents(), case.schedule(), SOLVER)
    last = case.trace()[-1]
    assert torch.equal(run.latents, SOLVER.step(last.latents, last.prediction, last.step))


def test_change_is_the_ratio_of_two_sums() -> None:
    old, new = pure.gaussian((3, 4, 6), 0), pure.gaussian((3, 4, 6), 1)
    numerators, denominators = sums(Probe(), old, new)
    assert torch.allclose(numerators, (old - new).abs().sum((1, 2)))
    assert torch.allclose(denominators, old.abs().sum((1, 2)))
    halves = [sums(Probe(), old[:, part], new[:, part]) for part in (slice(0, 2), slice(2, 4))]
    assert torch.allclose(halves[0] + halves[1], torch.stack([numerators, denominators])), "shards add up"
    assert measure(None, old, new)[0] == pytest.approx((numerators / denominators).tolist())
    assert sums(Probe(), old.bfloat16(), new.bfloat16()).dtype == torch.float32


def test_a_size_that_is_known_is_not_summed_again() -> None:
    old, new = pure.gaussian((3, 4, 6), 0), pure.gaussian((3, 4, 6), 1)
    changes, sizes = measure(None, old, new)
    assert sizes == pytest.approx(old.abs().sum((1, 2)).tolist())
    known, again = measure(None, old * torch.nan, new, sizes=sizes)
    assert all(math.isnan(change) for change in known) and again == sizes, "only what has moved is summed"
    assert measure(None, old, new, sizes=sizes)[0] == pytest.approx(changes, rel=1e-6)
    assert measure(None, old, new, sizes=[1.0, -1.0, 1.0]) == (changes, sizes), "of one row it is not known"
    for probe, dtype in ((Probe(downsample=3), torch.float32), (None, torch.bfloat16), (None, torch.float64)):
        changes, sizes = measure(probe, old.to(dtype), new.to(dtype))
        assert measure(probe, old.to(dtype), new.to(dtype), sizes=sizes)[0] == pytest.approx(changes, rel=1e-6)
    assert measure(Probe(importance=0.1), old, new)[1] == [-1.0] * 3, "other tokens may be important next time"


def test_sizes_are_remembered_from_one_computed_step_to_the_next() -> None:
    case = situation(dbcache(front=1, threshold=0.9, warmup=1, max_continuous=2), samples=1, count=7)
    entries = case.trace()
    sizes = [read(entry.after.cache.ledger)[0].size for entry in entries]
    assert [size >= 0 for size in sizes] == [not entry.info.computed[0] for entry in entries]
    assert any(not entry.info.computed[0] for entry in entries)
    probes = [entry.after.cache.probe.abs().sum().item() for entry in entries]
    assert all(size < 0 or size == pytest.approx(probe) for size, probe in zip(sizes, probes, strict=True))


def test_downsampling_measures_every_kth_feature() -> None:
    old, new = pure.gaussian((2, 4, 6), 0), pure.gaussian((2, 4, 6), 1)
    assert measure(Probe(downsample=3), old, new) == measure(Probe(), old[..., ::3], new[..., ::3])


def test_importance_measures_the_tokens_that_moved() -> None:
    old = torch.ones(2, 4, 2)
    new = old.clone()
    new[0, 1] = 3.0  # one token of the first sample moved by 200 %
    new[1] = 1.05  # every token of the second by 5 %
    assert measure(Probe(), old, new)[0] == pytest.approx([0.5, 0.05])
    assert measure(Probe(importance=0.1), old, new)[0] == pytest.approx([2.0, 0.05])


def test_paired_rows_may_follow_the_conditional_one() -> None:
    old, new = torch.ones(4, 1, 1), torch.tensor([1.1, 1.2, 1.3, 1.4]).view(4, 1, 1)
    assert measure(Probe(), old, new, True)[0] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert measure(Probe(follow="conditional"), old, new, True)[0] == pytest.approx([0.1, 0.1, 0.3, 0.3])
    assert measure(Probe(follow="conditional"), old, new, False)[0] == pytest.approx([0.1, 0.2, 0.3, 0.4])

"""Laws 8 and 9: samples of a batch, branches and experts do not know of each other."""

import math

import attrs
import torch

import pure
from pure import Branches, Experts, Inputs
from pure.experts import mixes
from pure.memory import read
from pure.testing.oracle import NEAR, guide, is_guided
from pure.testing.situation import Entry, Situation, caches, close, same, tensors
from pure.transforms import compiled
from pure.tree import map_samples


def batches_are_independent(situation: Situation) -> None:
    """Law 8: a sample gets alone what it gets in a batch whose samples stand at different steps."""
    random, steps = situation.random(), situation.schedule()
    alone = [situation.trace(seeds=(seed,)) for seed in situation.seeds]
    if situation.part(compiled) is None:  # which would be compiled for one more size of a batch
        _begin_alike(situation, alone)
    starts = [random.randrange(situation.count) if mixes(situation.denoiser) else 0 for _ in alone]
    states = [run[start].before for run, start in zip(alone, starts, strict=True)]
    carry = pure.join(*(run[start].carry for run, start in zip(alone, starts, strict=True)))
    state, trusted, present = pure.join(*states), [True] * len(alone), list(range(len(alone)))
    places = list(starts)
    while present:
        step = pure.merge_steps([steps[places[sample]] for sample in present])
        prediction, state, info = situation.apply(state, situation.solver.latents(carry), step)
        branches = len(info.decisions) // len(present)
        for slot, sample in enumerate(present):
            decisions = info.decisions[slot * branches : (slot + 1) * branches]
            expected = alone[sample][places[sample]]
            trusted[sample] = trusted[sample] and _agree(situation, decisions, expected)
            if trusted[sample]:
                assert close(prediction[slot : slot + 1], expected.prediction, situation.slack(1e-4)), (
                    sample,
                    decisions,
                )
        carry = situation.solver.step(carry, prediction, step)
        for sample in present:
            places[sample] += 1
        staying = [slot for slot, sample in enumerate(present) if places[sample] < len(steps)]
        if len(staying) < len(present) and staying:  # the finished leave the batch
            state = pure.take(state, _rows(situation, staying))
            carry = pure.take(carry, torch.tensor(staying))
        present = [present[slot] for slot in staying]


def _begin_alike(situation: Situation, alone: list[list[Entry]]) -> None:
    """The first step of a batch is that of its samples: what is prepared is of this request and no other."""
    prediction, _, _ = situation.apply(situation.start(), situation.latents(), situation.schedule()[0])
    for sample, run in enumerate(alone):
        ours = prediction[sample : sample + 1]
        assert close(ours, run[0].prediction, situation.slack(1e-4)), (
            f"the first prediction of sample {sample} differs in a batch"
        )


def _rows(situation: Situation, samples: list[int]) -> torch.Tensor:
    if not situation.guidance:
        return torch.tensor(samples)
    return torch.tensor([row for sample in samples for row in (2 * sample, 2 * sample + 1)])


def _agree(situation: Situation, decisions: tuple, expected: Entry) -> bool:
    """Compare decisions; False once a change fell so close to a limit that either is right."""
    db = situation.dbcache
    for ours, theirs in zip(decisions, expected.info.decisions, strict=True):
        limits = [db.threshold, *([db.max_accumulated] if db.max_accumulated else [])] if db else []
        sums = [memory.accumulated for cache in caches(expected.before) for memory in read(cache.ledger)]
        nearest = abs(theirs.change - limits[0]) if limits and theirs.change is not None else math.inf
        marginal = nearest <= situation.slack(NEAR)
        marginal = marginal or any(
            abs(total - limit) <= situation.slack(NEAR) for total in sums for limit in limits[1:]
        )
        if marginal and ours.computed != theirs.computed:
            return False
        same_answer = (ours.index, ours.computed, ours.reason) == (theirs.index, theirs.computed, theirs.reason)
        assert same_answer, f"decisions differ: alone {theirs}, in a batch {ours}"
        assert (ours.branch, ours.expert, ours.blocks) == (theirs.branch, theirs.expert, theirs.blocks)
        if theirs.change is not None and ours.change != theirs.change:  # both may be infinite
            assert abs(ours.change - theirs.change) <= situation.slack(1e-4) * (1 + theirs.change)
    return True


def rows_are_isolated(situation: Situation) -> None:
    """Laws 8 and 9: a poisoned last row (a sample, or its negative prompt) changes no other row."""
    poisoned = _poisoned(situation, sample=len(situation.seeds) - 1)
    state, healthy = poisoned.start(), torch.arange(situation.rows - 1)
    entries = situation.trace()[:2]
    for entry in entries:
        _, state, _ = poisoned.apply(state, entry.latents, entry.step)
    for got, wanted in zip(caches(state), caches(entries[-1].after), strict=True):
        part, other = pure.take(got, healthy), pure.take(wanted, healthy)
        alike = all(close(tensors(part)[path], leaf, situation.slack(1e-5)) for path, leaf in tensors(other).items())
        assert alike, "NaN in the conditioning of one sample changes what is remembered of another"


def _poisoned(situation: Situation, sample: int) -> Situation:
    """The situation with NaN in the conditioning of the last sample; under guidance in its negative prompt."""
    model = situation.model
    bad = (500 if situation.guidance else 0) + situation.seeds[sample]

    def conditioning(seeds: tuple[int, ...]):
        hit = torch.tensor([seed == bad for seed in seeds])

        def poison(leaf: torch.Tensor) -> torch.Tensor:
            return torch.where(hit.view(-1, *[1] * (leaf.ndim - 1)), torch.nan, leaf)

        return map_samples(poison, model.conditioning(seeds))

    return attrs.evolve(situation, model=attrs.evolve(model, conditioning=conditioning))


def branches_are_separate(situation: Situation) -> None:
    """Law 9: a guided run is two runs, combined; outside its interval the negative branch stands still."""
    if situation.guidance is None or isinstance(situation.denoiser, Experts):
        return experts_are_separate(situation)
    probe = situation.single.plan.probe
    if probe is not None and probe.follow == "conditional":
        return following_is_followed(situation)
    guidance, alone = situation.guidance, _unguided(situation)
    positive, negative = alone.start(), attrs.evolve(alone, model=_negative(situation)).start()
    for entry in situation.trace():
        inside = is_guided(guidance, entry.step)
        cond, positive, info = alone.apply(positive, entry.latents, entry.step)
        if not inside:
            assert [d.computed for d in entry.info.decisions] == list(info.computed)
            assert close(entry.prediction, cond, situation.slack(1e-4)), "guided outside the interval"
            held = [pure.take(caches(s)[0], _odd(situation)) for s in (entry.before, entry.after)]
            assert same(*held), "the unconditional branch changed outside the interval"
            continue
        uncond, negative, other = alone.apply(negative, entry.latents, entry.step)
        if not (_settled(situation, info) and _settled(situation, other)):
            return None
        decided = entry.info.computed[0::2] == info.computed and entry.info.computed[1::2] == other.computed
        assert decided, f"step {entry.step.index}: a branch run alone decides differently"
        assert {d.branch for d in entry.info.decisions[0::2]} == {"conditional"}
        assert {d.branch for d in entry.info.decisions[1::2]} == {"unconditional"}
        combined = close(entry.prediction, guide(guidance, cond, uncond), situation.slack(1e-4))
        assert combined, f"step {entry.step.index} is not the combination of its two branches run alone"
    return None


def following_is_followed(situation: Situation) -> None:
    """Law 9: a branch that follows takes the conditional change, and keeps limits of its own."""
    for entry in situation.trace():
        if len(entry.info.decisions) == situation.rows:
            pairs = zip(entry.info.decisions[0::2], entry.info.decisions[1::2], strict=True)
            for one, two in pairs:
                if one.change is not None and two.change is not None:
                    assert one.change == two.change


def experts_are_separate(situation: Situation) -> None:
    """Law 9: a step of one expert leaves the others' states alone, and is what that expert does by itself."""
    if not isinstance(situation.denoiser, Experts):
        return None
    entries = situation.trace()
    for name, denoiser in situation.denoiser.denoisers.items():
        own = [entry for entry in entries if entry.step.expert == name]
        for entry in entries:
            if entry.step.expert != name and name in entry.before:
                assert entry.after[name] is entry.before[name]
        state = entries[0].before.get(name)
        for entry in own:
            with torch.no_grad():
                inputs = Inputs(entry.latents, entry.step)
                prediction, state, info = denoiser.apply(situation.model.params[name], state, inputs)
            assert torch.equal(prediction, entry.prediction) and same(state, entry.after[name]) and info == entry.info
    return None


def _odd(situation: Situation) -> torch.Tensor:
    return torch.arange(1, situation.rows, 2)


def _settled(situation: Situation, info: pure.Info) -> bool:
    db = situation.dbcache
    return db is None or all(
        d.change is None or abs(d.change - db.threshold) > situation.slack(NEAR) for d in info.decisions
    )


def _unguided(situation: Situation) -> Situation:
    parts = [part for part in situation.parts if part != situation.guidance]
    return attrs.evolve(situation, transform=pure.compose(*parts))


def _negative(situation: Situation):
    def conditioning(seeds):
        made = situation.conditioning(seeds)
        assert isinstance(made, Branches)
        return made.unconditional

    return attrs.evolve(situation.model, conditioning=conditioning)

"""A batch that samples join and leave: each gets what it gets alone, whatever solver, cache and guidance it has."""

import attrs
import pytest
import torch

import pure
from pure.experts import mixes
from pure.models import batch as batches
from pure.testing import toys
from pure.transforms import dbcache, guided, taylorseer
from pure.unipc import UniPC
from tests.support.adder import adder

STEPS = 6
SEEDS = (3, 5, 8)
PARAMS = toys.random_params(1)
NOISE, TEXT = toys.rows((toys.TOKENS, toys.WIDTH), 0), toys.rows((toys.WIDTH,), 50)
SOLVERS = [pure.FlowMatchEuler(), UniPC(schedule=pure.Schedule())]
CACHE = pure.compose(dbcache(threshold=0.13, warmup=1), taylorseer(order=1))
GUIDED = pure.compose(CACHE, guided(scale=3.0))


def begun(seeds, solver=SOLVERS[0], transform=CACHE):
    """A batch of samples whose keys are their seeds, before its first step."""
    denoiser = transform(toys.random_denoiser())
    text = TEXT(seeds)
    conditioning = text if denoiser.guidance is None else pure.Branches(conditional=text, unconditional=-text)
    members = [batches.Member(key=seed, prompt=f"sample {seed}", seed=seed) for seed in seeds]
    return batches.begin(denoiser, PARAMS, solver, conditioning, NOISE(seeds), solver.schedule(STEPS), members)


def advanced(batch, count=STEPS):
    for _ in range(count):
        batch, _ = batches.advance(batch)
    return batch


def ended(batch, found):
    """The batch without the samples that took their last step, whose member and latents go to `found`."""
    for row in batch.done:
        found[batch.members[row].key] = batch.members[row], batches.latents(batch, row)
    rows = [row for row in range(len(batch.members)) if row not in batch.done]
    return batches.keep(batch, rows) if rows else None


def decided(member):
    """What each step of a sample decided, in every branch."""
    return [(one.branch, one.computed, one.reason) for info in member.infos for one in info.decisions]


@pytest.mark.parametrize("transform", [CACHE, GUIDED], ids=["plain", "guided"])
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_samples_that_join_and_leave_are_those_made_alone(solver, transform):
    alone = {}
    for seed in SEEDS:
        ended(advanced(begun([seed], solver, transform)), alone)
    found, batch = {}, advanced(begun(SEEDS[:1], solver, transform), 2)
    batch = advanced(batches.join(batch, begun(SEEDS[1:2], solver, transform)), 1)
    batch = batches.join(batch, begun(SEEDS[2:], solver, transform))
    while batch is not None:
        batch = ended(advanced(batch, 1), found)
    assert list(found) == list(SEEDS)
    for seed, (member, latents) in found.items():
        assert torch.allclose(latents, alone[seed][1], atol=1e-5)
        assert (member.key, member.seed, member.prompt) == (seed, seed, f"sample {seed}")
        assert decided(member) == decided(alone[seed][0])
    assert len({str(decided(member)) for member, _ in found.values()}) == len(SEEDS), (
        "samples decided alike: nothing was tested"
    )


@pytest.mark.parametrize("transform", [CACHE, GUIDED], ids=["plain", "guided"])
def test_who_stays_keeps_rows_and_place(transform):
    """The first and then the last of three leave; an index of rows alone would follow the wrong sample."""
    alone = advanced(begun(SEEDS[1:2], SOLVERS[1], transform))
    batch = advanced(begun(SEEDS, SOLVERS[1], transform), 2)
    batch = advanced(batches.keep(batch, [2, 1]), 1)
    assert [member.key for member in batch.members] == [SEEDS[2], SEEDS[1]]
    batch = advanced(batches.keep(batch, [1]), STEPS - 3)
    assert torch.allclose(batches.latents(batch, 0), batches.latents(alone, 0), atol=1e-5)
    assert decided(batch.members[0]) == decided(alone.members[0])


def spoiled(batch, row):
    """The batch with one number of one sample's latents infinite."""
    latents = batch.carry.clone()
    latents[row, 0, 0] = torch.inf
    return attrs.evolve(batch, carry=latents)


@pytest.mark.parametrize("after", [0, 3, STEPS - 1])
def test_the_first_step_that_is_not_finite_is_named_of_the_right_sample(after):
    """One number in one sample is enough, at any step, and whoever joined or left since."""
    batch = advanced(begun(SEEDS, transform=pure.identity), after)
    batch = advanced(spoiled(batch, 1), STEPS - after)
    assert [batches.not_finite_from(batch, row) for row in range(3)] == [None, after, None]
    batch = batches.keep(batch, [1, 2])
    assert [batches.not_finite_from(batch, row) for row in range(2)] == [after, None]
    joined = batches.join(batch, begun(SEEDS[:1], transform=pure.identity))
    assert [batches.not_finite_from(joined, row) for row in range(3)] == [after, None, None]


def test_which_samples_can_stand_at_different_steps():
    """Guidance on a part of the steps has two rows for some samples and one for others; experts change by step."""
    plain = toys.random_denoiser()
    assert mixes(plain) and mixes(guided(scale=3.0)(plain))
    for part in (guided(scale=3.0, start=0.25), guided(scale=3.0, stop=0.75), guided(scale=3.0, lowest_sigma=0.5)):
        assert not mixes(part(plain))
    assert not mixes(pure.Experts({"high": plain, "low": plain}))


def test_one_number_of_a_sample_is_enough():
    """The blocks of this denoiser only add: what is infinite stays one number of its sample."""
    denoiser, params = adder([0.5])
    noise, solver = torch.ones(2, 3, 2, dtype=torch.float64), SOLVERS[0]
    noise[1, 2, 0] = torch.inf
    members = [batches.Member(key=row, prompt="") for row in range(2)]
    text = torch.zeros(2, 1, 2, dtype=torch.float64)
    batch = advanced(batches.begin(denoiser, params, solver, text, noise, solver.schedule(2), members), 2)
    assert int(batches.latents(batch, 1).isfinite().sum()) == 5
    assert [batches.not_finite_from(batch, row) for row in range(2)] == [None, 0]

"""Every family under tensor parallelism: the predictions of one process, the same bits on every rank.

Predictions are not those of one process to the last bit: a sum over features is taken in as many
parts as there are ranks, and the order of a sum of floating-point numbers matters. The difference
is that of rounding, 1e-6 of the largest number.
"""

import functools
import itertools
from typing import Any

import attrs
import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor.debug import CommDebugMode

import pure
from pure.distributed import Sizes, make_mesh, tensor_parallel
from pure.distributed.collectives import add, wait
from pure.distributed.mesh import axis
from pure.testing import toys
from pure.testing.situation import Situation, close
from pure.transforms import dbcache, guided, taylorseer
from tests.support import ranks
from tests.support.split import MODELS, Seen, seen, seen_on_ranks, split

SEEDS, COUNT = (1, 2), 8


@functools.cache
def threshold(name: str) -> float:
    """A threshold of the change at which some steps are skipped, as far from every change as can be."""
    always = dbcache(front=1, threshold=1e-9, warmup=1)
    measured = [each.change for step in seen(MODELS[name], always, SEEDS, COUNT) for each in step.decisions]
    changes = sorted(change for change in measured if change is not None)
    inner = changes[len(changes) // 4 : -len(changes) // 4]
    gap, low = max((b - a, a) for a, b in itertools.pairwise(inner))
    return low + gap / 2


def transform(name: str, *more: pure.Transform) -> pure.Transform:
    cache = dbcache(front=1, threshold=threshold(name), warmup=2, max_continuous=3)
    return pure.compose(cache, taylorseer(order=1), *more)


def check(name: str, recipe: pure.Transform, found: list[list[Seen]], tolerance: float = 1e-6) -> None:
    """Compare what every rank saw with one process, and the ranks with each other."""
    expected = seen(MODELS[name], recipe, SEEDS, COUNT)
    decisions = [each.computed for step in expected for each in step.decisions]
    assert any(decisions) and not all(decisions)
    for steps in found:
        for step, one, first in zip(steps, expected, found[0], strict=True):
            assert close(step.prediction, one.prediction, tolerance)
            assert [each.computed for each in step.decisions] == [each.computed for each in one.decisions]
            # To the last bit: decisions of ranks can never differ.
            assert step.decisions == first.decisions
            assert torch.equal(step.prediction, first.prediction)
            remembered = {path for path in step.state if ".cache" in path}
            assert remembered and all(torch.equal(step.state[path], first.state[path]) for path in remembered)


RUNS = [(name, 4) for name in MODELS]
RUNS += [(name, count) for name in ("flux-dev", "flux2-klein", "z-image-ragged", "wan-i2v") for count in (2, 3)]


@pytest.mark.parametrize(("name", "count"), RUNS)
def test_many_ranks_predict_what_one_process_does(name, count):
    recipe = transform(name)
    check(name, recipe, ranks.run(seen_on_ranks, count, name, Sizes(tp=count), recipe, SEEDS, COUNT))


def test_with_guidance():
    recipe = transform("ovis", guided(scale=3.0))
    found = ranks.run(seen_on_ranks, 2, "ovis", Sizes(tp=2), recipe, SEEDS, COUNT)
    check("ovis", recipe, found, tolerance=5e-6)  # 3 times one prediction less 2 times another


# All-reduces and all-gathers of a step that is computed, and of one that is skipped: then the first
# block runs, and what refines image or text in `embed`.
COSTS = {
    "flux-dev": ((4 + 3 * 1, 2 + 3 * 1), (4, 2)),
    "flux2-klein": ((4 + 3 * 1, 0), (4, 0)),  # blocks share their modulations
    "ovis": ((4 + 3 * 1, 2 + 3 * 1), (4, 2)),
    "qwen-image": ((4 * 4, 4 * 2), (4, 2)),
    "z-image-ragged": ((2 * (1 + 4), 0), (2 * (1 + 1), 0)),
    "wan-t2v": ((6 * 4, 0), (6, 0)),  # two attentions, a network, and norms of two queries and one key
    "hunyuan-text": ((2 + 4 + 3 * 1, 1 + 2 + 3 * 1), (2 + 4, 1 + 2)),
}


def _counted(name: str) -> list[tuple[bool, tuple[int, int]]]:
    """Whether each step was computed, and its all-reduces and all-gathers."""
    situation = Situation(model=split(MODELS[name], Sizes(tp=2)), transform=transform(name), seeds=(1,), count=COUNT)
    counts, state, latents = [], situation.start(), situation.latents()
    for step in situation.schedule():
        with CommDebugMode() as watch:
            prediction, state, info = situation.apply(state, latents, step)
        found = {str(op).split(".")[1]: number for op, number in watch.get_comm_counts().items()}
        counts.append((info.computed[0], (found.pop("all_reduce"), found.pop("all_gather_into_tensor", 0))))
        assert not found
        latents = latents - 0.1 * prediction
    return counts


@pytest.mark.parametrize("name", COSTS)
def test_collectives_of_a_step_are_counted(name):
    first, second = ranks.run(_counted, 2, name)
    assert first == second
    assert {counts for computed, counts in first if computed} == {COSTS[name][0]}
    assert {counts for computed, counts in first if not computed} == {COSTS[name][1]}


def _sums(lengths: list[int], dtype: torch.dtype) -> list[torch.Tensor]:
    """Sums over the ranks of tensors that every rank has its own of."""
    along = axis(make_mesh(Sizes(tp=dist.get_world_size())), "tp")
    own = [toys.normal(length, seed=100 * along.index + i).to(dtype) for i, length in enumerate(lengths)]
    return [wait(add(x, along.group)) for x in own]


@pytest.mark.parametrize("count", [2, 3, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_sum_has_the_same_bits_on_every_rank(count, dtype):
    """What decisions rest on: streams are the same everywhere, though sums are taken in some order."""
    first, *others = ranks.run(_sums, count, [1, 2, 3, 5, 8, 31, 64, 1000, 4099, 100_003], dtype)
    assert all(torch.equal(x, y) for other in others for x, y in zip(first, other, strict=True))


def _doubled(name: str) -> torch.Tensor:
    """A prediction with all parts doubled, which are then plain tensors."""
    model, mesh = MODELS[name], make_mesh(Sizes(tp=2))

    def double(parts):
        if "high" in parts:
            return {expert: double(each) for expert, each in parts.items()}
        assert all(type(part) is torch.Tensor for part in parts.values())
        return {key: 2 * part for key, part in parts.items()}

    local = attrs.evolve(model, params=tensor_parallel(model.params, model.denoiser, mesh, local=double))
    return seen(local, pure.identity, (1,), 4)[-1].prediction


@pytest.mark.parametrize("name", ["flux-dev", "wan-t2v", "wan-experts"])
def test_parts_can_be_changed_before_they_are_used(name):
    model = MODELS[name]
    twice: Any = {key: 2 * tensor for key, tensor in model.params.items() if not isinstance(tensor, dict)}
    for expert, params in model.params.items():
        if isinstance(params, dict):
            twice[expert] = {key: 2 * tensor for key, tensor in params.items()}
    expected = seen(attrs.evolve(model, params=twice), pure.identity, (1,), 4)[-1].prediction
    for found in ranks.run(_doubled, 2, name):
        assert close(found, expected, 1e-6)

"""Ranks whose numbers differ by rounding, or by more, decide alike."""

import attrs
import pytest
import torch
import torch.distributed as dist

import pure
from pure.distributed import Sizes, context_parallel, make_mesh, tensor_agreement
from pure.testing.situation import Model, Situation
from pure.testing.toys import RANDOM
from pure.transforms import dbcache
from tests.support import ranks
from tests.support.flux import FLUX_DEV

COUNT = 8


def _situation(model: Model, threshold: float, *more: pure.Transform) -> Situation:
    recipe = pure.compose(dbcache(front=1, threshold=threshold, warmup=1), *more)
    return Situation(model=model, transform=recipe, seeds=(1, 2), count=COUNT)


def _median(model: Model) -> float:
    """A threshold between the changes that there are."""
    entries = _situation(model, 1e-9).trace()
    changes = sorted(c for entry in entries for c in entry.info.changes if c is not None)
    return changes[len(changes) // 2]


def _decided(sizes: Sizes, threshold: float, agreeing: bool) -> list[tuple[pure.Decision, ...]]:
    """Decisions of a rank whose parameters are its own: larger ones on higher ranks."""
    model = attrs.evolve(RANDOM, params={k: (1 + 0.3 * dist.get_rank()) * v for k, v in RANDOM.params.items()})
    more = (tensor_agreement(make_mesh(sizes)),) if agreeing else ()
    return [entry.info.decisions for entry in _situation(model, threshold, *more).trace()]


def test_ranks_decide_by_what_the_first_has_measured():
    threshold, sizes = _median(RANDOM), Sizes(tp=2)
    first, second = ranks.run(_decided, 2, sizes, threshold, False)
    assert first != second
    found = ranks.run(_decided, 2, sizes, threshold, True)
    assert found == [first, first]


def _divided(threshold: float, agreeing: bool) -> list[tuple[pure.Decision, ...]]:
    """Decisions where tokens are divided too, and the parameters of the second tp rank are larger."""
    mesh = make_mesh(Sizes(ulysses=2, tp=2))
    params = {k: (1 + 0.2 * mesh.get_local_rank("tp")) * v for k, v in FLUX_DEV.params.items()}
    more = (context_parallel(mesh), tensor_agreement(mesh)) if agreeing else (context_parallel(mesh),)
    situation = _situation(attrs.evolve(FLUX_DEV, params=params), threshold, *more)
    return [entry.info.decisions for entry in situation.trace()]


def test_it_adds_to_the_agreement_of_those_who_divide_tokens():
    threshold = _median(FLUX_DEV)
    apart = ranks.run(_divided, 4, threshold, False)
    assert apart[0] == apart[2] and apart[1] == apart[3] and apart[0] != apart[1]
    assert ranks.run(_divided, 4, threshold, True) == [apart[0]] * 4


@pytest.mark.parametrize("sizes", [Sizes(), Sizes(ulysses=2)])
def test_it_changes_nothing_where_parameters_are_whole(sizes):
    assert ranks.run(_unchanged, sizes.total, sizes) == [True] * sizes.total


def _unchanged(sizes: Sizes) -> bool:
    return tensor_agreement(make_mesh(sizes))(RANDOM.first) is RANDOM.first


def test_the_same_sums_remain_the_same_bits():
    found = ranks.run(_agreed, 3)
    assert all(torch.equal(sums, found[0]) for sums in found)


def _agreed() -> torch.Tensor:
    denoiser = tensor_agreement(make_mesh(Sizes(tp=3)))(RANDOM.first)
    assert denoiser.agree is not None
    own = torch.tensor([[1.0, 2.0], [3.0, 0.1]]) * (1 + 1e-6 * dist.get_rank())
    return denoiser.agree(own)

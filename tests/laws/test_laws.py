"""Every law on every case."""

from collections.abc import Iterable

import hypothesis
import pytest
import torch

from pure.testing.checking import SETTINGS, check_law
from pure.testing.laws import LAWS, Law
from pure.testing.situation import Situation
from tests.laws.laws import CASES, FAMILIES, Case, speaks_of


def product(cases: list[Case]) -> list:
    return [
        pytest.param(case, law, id=f"{name}-{case.name}")
        for name, law in LAWS.items()
        for case in cases
        if speaks_of(law, case)
    ]


QUICK, REST = ([case for case in CASES if case.quick is quick] for quick in (True, False))
NAMES = {law: name for name, law in LAWS.items()}
EXPLORING = not hypothesis.settings().derandomize  # `python -m tests.explore`
ONCE = hypothesis.settings(SETTINGS, max_examples=1, derandomize=not EXPLORING)
AT_LENGTH = hypothesis.settings(ONCE, max_examples=3)


def hold(law: Law, case: Case, settings: hypothesis.settings) -> None:
    """Try a law on what was chosen for a case, the same every time, and on drawn situations."""
    if case.recipe == "compiled":
        torch._dynamo.reset()  # or the limit of recompilations is that of all tests together
    try_drawn(law, case, settings, case.directed())


def try_drawn(law: Law, case: Case, settings: hypothesis.settings, directed: Iterable[Situation] = ()) -> None:
    """Try a law on drawn situations, the same every time unless exploring."""
    chosen = hypothesis.settings(ONCE, max_examples=hypothesis.settings().max_examples) if EXPLORING else settings
    # Every drawn one is compiled anew.
    drawn = case.situations(most_steps=12, most_samples=4) if case.recipe != "compiled" or EXPLORING else None
    check_law(NAMES.get(law, law.__name__), law, directed, drawn, chosen, subject=case.name)


@pytest.mark.parametrize(("case", "law"), product(QUICK))
def test_law(case: Case, law: Law) -> None:
    hold(law, case, ONCE)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "law"), product(REST))
def test_law_of_the_rest(case: Case, law: Law) -> None:
    hold(law, case, ONCE if case.model in FAMILIES else AT_LENGTH)


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.name)
def test_cases_compute_and_skip(case: Case) -> None:
    """The laws would say little of caches that never skip: what is tried every time does, and not always."""
    if case.recipe == "compiled":
        torch._dynamo.reset()
    for situation in case.directed():
        decisions = {computed for entry in situation.trace() for computed in entry.info.computed}
        uncached = situation.known and situation.dbcache is None and not situation.scm and not situation.fitting
        assert decisions == ({True} if uncached else {True, False}), situation.transform

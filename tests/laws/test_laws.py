"""Every law on every case."""

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis.strategies import SearchStrategy

from tests.laws.laws import CASES, FAMILIES, LAWS, Case, Law, speaks_of
from tests.support.situation import Situation


def product(cases: list[Case]) -> list:
    return [
        pytest.param(case, law, id=f"{name}-{case.name}")
        for name, law in LAWS.items()
        for case in cases
        if speaks_of(law, case)
    ]


QUICK, REST = ([case for case in CASES if case.quick is quick] for quick in (True, False))
CHECKS = (HealthCheck.too_slow, HealthCheck.data_too_large)


# No search for a smaller one: what fails prints itself.
BRIEFLY = hypothesis.settings(max_examples=2, phases=[Phase.generate], suppress_health_check=CHECKS, database=None)
ONCE = hypothesis.settings(BRIEFLY, max_examples=1)
AT_LENGTH = hypothesis.settings(max_examples=3, suppress_health_check=CHECKS, database=None)


def hold(law: Law, situations: SearchStrategy[Situation], settings: hypothesis.settings) -> None:
    """Try a law on drawn situations.

    A function of its own for every pair: the settings of one that runs a thousand times
    grow into a chain that hypothesis follows to the recursion limit.
    """

    @settings
    @hypothesis.given(situation=situations)
    def holds(situation: Situation) -> None:
        law(situation)

    holds()


@pytest.mark.parametrize(("case", "law"), product(QUICK))
def test_law(case: Case, law: Law) -> None:
    hold(law, case.situations(most_steps=12, most_samples=4), BRIEFLY)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "law"), product(REST))
def test_law_of_the_rest(case: Case, law: Law) -> None:
    settings = ONCE if case.model in FAMILIES else AT_LENGTH
    hold(law, case.situations(most_steps=12, most_samples=4), settings)


@pytest.mark.parametrize(
    "case", [case for case in QUICK if not case.name.endswith(("-plain", "-guided"))], ids=lambda case: case.name
)
def test_cases_skip(case: Case) -> None:
    """The laws would say little of caches that never skip: of every case some situation does."""
    found = hypothesis.find(
        case.situations(),
        lambda situation: any(not all(entry.info.computed) for entry in situation.trace()),
        settings=hypothesis.settings(
            max_examples=200, database=None, phases=[Phase.generate], suppress_health_check=CHECKS
        ),
    )
    assert found.count > 1

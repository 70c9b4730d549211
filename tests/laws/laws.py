"""The list of cases and the list of laws; every law holds for every case.

A new transform adds a recipe (tests/support/recipes.py), a new family a model
(tests/support/situation.py); nothing else is needed.

Laws 12 (predictors), 13 (ranks), 14 (compilation) and 16 (solvers) speak of other things than a
denoiser with a plan in one process and have files of their own.
"""

from collections.abc import Callable

import attrs
from hypothesis import strategies as st

from pure import Experts
from tests.laws import algebra, answers, memory, rows
from tests.support import flux2, hunyuan_video, ovis, qwen_image, wan, z_image
from tests.support.recipes import RECIPES, Recipe
from tests.support.situation import CLOSED, EXPERTS, FLUX_DEV, FLUX_SCHNELL, RANDOM, STREAMS, Model, Situation

Law = Callable[[Situation], None]


def _seeds(least: int, most: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, 99), min_size=least, max_size=most, unique=True).map(tuple)


@attrs.frozen(kw_only=True)
class Case:
    """A model and a kind of transform; `quick` cases run on every change, the others with the slow tests."""

    quick: bool
    name: str
    model: Model
    recipe: Recipe

    def situations(self, most_steps: int = 6, most_samples: int = 3) -> st.SearchStrategy[Situation]:
        """Everything of this kind: any transform, batch, number of steps and inputs."""

        def of(count: int) -> st.SearchStrategy[Situation]:
            return st.builds(
                Situation,
                model=st.just(self.model),
                transform=self._recipe(count),
                seeds=_seeds(2, most_samples) | _seeds(1, 1),
                count=st.just(count),
                seed=st.integers(0, 99),
            )

        # Two experts of the same number of steps, so that one explicit mask fits both.
        twice = isinstance(self.model.denoiser, Experts)
        counts = st.integers(5, most_steps) | st.integers(2, 4)
        return counts.map(lambda n: n + n % 2).flatmap(of) if twice else counts.flatmap(of)

    def _recipe(self, count: int) -> st.SearchStrategy:
        return self.recipe(self.model, count // 2 if isinstance(self.model.denoiser, Experts) else count)


# Families cost something: they run the recipes that differ most, and few of them every time.
FEW = ("plain", "dbcache", "scm-static-dbcache", "taylorseer-hidden", "guided-interval", "everything")
FEWER = ("taylorseer-hidden", "everything")
FAMILIES: tuple[Model, ...] = (
    flux2.FLUX2_DEV,
    flux2.FLUX2_KLEIN,
    z_image.Z_IMAGE,
    z_image.Z_IMAGE_RAGGED,
    ovis.OVIS,
    qwen_image.QWEN_IMAGE,
    qwen_image.QWEN_EDIT,
    *wan.MODELS,
    wan.WAN_EXPERTS,
    *hunyuan_video.MODELS,
)
QUICK = {
    **dict.fromkeys((CLOSED, STREAMS, EXPERTS), FEW),
    FLUX_DEV: ("dbcache", "everything"),
    FLUX_SCHNELL: ("taylorseer-hidden",),
    **dict.fromkeys(FAMILIES, ("everything",)),
}
CASES = [
    Case(name=f"{model}-{name}", model=model, recipe=recipe, quick=name in QUICK.get(model, RECIPES))
    for model, names in {
        **dict.fromkeys((CLOSED, RANDOM, STREAMS, EXPERTS), RECIPES),
        **dict.fromkeys((FLUX_DEV, FLUX_SCHNELL), FEW),
        **dict.fromkeys(FAMILIES, FEWER),
    }.items()
    for name, recipe in RECIPES.items()
    if name in names
]

LAWS: dict[str, Law] = {
    "01-never-skip-is-plain": algebra.never_skip_is_plain,
    "02-composition-is-an-algebra": algebra.composition_is_an_algebra,
    "03-apply-is-pure": memory.apply_is_pure,
    "03-old-states-still-work": memory.old_states_still_work,
    "04-structure-is-invariant": memory.structure_is_invariant,
    "04-init-works-on-meta": memory.init_works_on_meta,
    "04-state-has-the-promised-size": memory.state_has_the_promised_size,
    "05-saving-changes-nothing": memory.saving_changes_nothing,
    "06-repetition-costs-nothing": answers.repetition_costs_nothing,
    "07-closed-form-holds": answers.closed_form_holds,
    "08-batches-are-independent": rows.batches_are_independent,
    "08-rows-are-isolated": rows.rows_are_isolated,
    "09-branches-and-experts-are-separate": rows.branches_are_separate,
    "10-limits-hold": answers.limits_hold,
    "11-reports-are-true": answers.reports_are_true,
    "15-failure-leaves-nothing": memory.failure_leaves_nothing,
}


def speaks_of(law: Law, case: Case) -> bool:
    """Whether a law says anything about a case: the closed form is known of one model, branches need two of them."""
    if law is answers.closed_form_holds:
        return case.model is CLOSED
    if law is rows.branches_are_separate:
        return isinstance(case.model.denoiser, Experts) or "guided" in case.name or "everything" in case.name
    return True

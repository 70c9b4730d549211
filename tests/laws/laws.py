"""The list of cases and the list of laws; every law holds for every case.

A new transform adds a recipe (pure/testing/recipes.py), a new family a model (tests/support);
nothing else is needed.

Laws 12 (predictors), 13 (ranks), 14 (compilation) and 16 (solvers) speak of other things than a
denoiser with a plan in one process and have files of their own.
"""

from collections.abc import Callable

import attrs
from hypothesis import strategies as st

from pure import Experts
from pure.testing import algebra, answers, gradients, memory, rows
from pure.testing.recipes import KERNELS, RECIPES, examples
from pure.testing.situation import Model, Situation
from pure.testing.toys import CLOSED, EXPERTS, RANDOM, STREAMS
from tests.support import flux2, hunyuan_video, ovis, qwen_image, variants, wan, z_image
from tests.support.flux import FLUX_DEV, FLUX_SCHNELL

Law = Callable[[Situation], None]


def _seeds(least: int, most: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, 99), min_size=least, max_size=most, unique=True).map(tuple)


@attrs.frozen(kw_only=True)
class Case:
    """A model and a kind of transform; `quick` cases run on every change, the others with the slow tests."""

    quick: bool
    name: str
    model: Model
    recipe: str

    def directed(self) -> list[Situation]:
        """What is tried every time: a batch of three, whose samples decide differently."""
        count = 12 if self._twice else 8
        each = examples(self.recipe, count // 2 if self._twice else count)
        return [Situation(model=self.model, transform=one, seeds=(1, 2, 3), count=count, seed=7) for one in each]

    @property
    def _twice(self) -> bool:
        """Whether there are two experts: of the same number of steps, so that one explicit mask fits both."""
        return isinstance(self.model.denoiser, Experts)

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

        counts = st.integers(5, most_steps) | st.integers(2, 4)
        return counts.map(lambda n: n + n % 2).flatmap(of) if self._twice else counts.flatmap(of)

    def _recipe(self, count: int) -> st.SearchStrategy:
        return RECIPES[self.recipe](self.model, count // 2 if self._twice else count)


# Families cost something: they run the recipes that differ most, and few of them every time.
FEW = (
    "plain",
    "dbcache",
    "scm-static-dbcache",
    "taylorseer-hidden",
    "guided-interval",
    "guided-options",
    "compiled",
    "everything",
)
ATTENTION = tuple(f"attention-{name}" for name in KERNELS)  # of models that attend
FEWER = ("scm-static", "taylorseer-hidden", "everything")
FAMILIES: tuple[Model, ...] = (
    flux2.FLUX2_DEV,
    flux2.FLUX2_KLEIN,
    z_image.Z_IMAGE,
    z_image.Z_IMAGE_RAGGED,
    ovis.OVIS,
    qwen_image.QWEN_IMAGE,
    qwen_image.QWEN_EDIT,
    *wan.MODELS,
    wan.WAN_FLF,
    wan.WAN_EXPERTS,
    wan.WAN_I2V_EXPERTS,
    *hunyuan_video.MODELS,
)
QUICK = {
    **dict.fromkeys((CLOSED, STREAMS, EXPERTS), FEW),
    FLUX_DEV: ("dbcache", *ATTENTION, "everything"),
    FLUX_SCHNELL: ("taylorseer-hidden",),
    **dict.fromkeys(FAMILIES, ("scm-static", "everything")),
    **dict.fromkeys(variants.MODELS, ("everything",)),
}
CASES = [
    Case(name=f"{model}-{name}", model=model, recipe=name, quick=name in QUICK.get(model, RECIPES))
    for model, names in {
        **dict.fromkeys((CLOSED, RANDOM, STREAMS, EXPERTS), tuple(name for name in RECIPES if name not in ATTENTION)),
        **dict.fromkeys((FLUX_DEV, FLUX_SCHNELL), FEW),
        **dict.fromkeys(FAMILIES, FEWER),
        **dict.fromkeys(variants.MODELS, FEWER),
        FLUX_DEV: (*FEW, *ATTENTION),
        # Those that mask some keys, and refine what they are given by attention of its own.
        z_image.Z_IMAGE_RAGGED: (*FEWER, *ATTENTION),
        hunyuan_video.MODELS[0]: (*FEWER, *ATTENTION),
    }.items()
    for name in RECIPES
    if name in names and (name != "compiled" or model in (RANDOM, STREAMS, FLUX_DEV))
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
    "17-runs-are-differentiable": gradients.runs_are_differentiable,
}


def speaks_of(law: Law, case: Case) -> bool:
    """Whether a law says anything about a case: the closed form is known of one model, branches need two of them."""
    if law is answers.closed_form_holds:
        return case.model is CLOSED
    if law is rows.branches_are_separate:
        guided = any(word in case.recipe for word in ("guided", "everything", "attention"))
        return isinstance(case.model.denoiser, Experts) or guided
    if law is gradients.runs_are_differentiable:
        # Torch has no derivative of a product of float8, and none of flex attention on a CPU.
        return "float8" not in case.model.name and case.recipe != "attention-flex"
    if law is memory.failure_leaves_nothing:
        return case.recipe != "compiled"  # what the law plants raises in a block, which cannot be traced
    return True

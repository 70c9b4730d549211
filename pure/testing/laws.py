"""The laws, by name, and which of them say anything about a situation."""

from collections.abc import Callable

from pure import Experts
from pure.testing import algebra, answers, gradients, memory, rows
from pure.testing.situation import Situation
from pure.testing.toys import CLOSED
from pure.transforms import attention, compiled

__all__ = ["LAWS", "Law", "applies"]

Law = Callable[[Situation], None]
"""A law raises an AssertionError where a situation breaks it."""

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
"""Every law by its name; laws with the same number are parts of one."""


def applies(law: Law, situation: Situation) -> bool:
    """Whether a law says anything about a situation.

    The closed form is known of one model, branches need two of them, and what a cache may do is known of the
    transforms of this package only.
    """
    kernel = situation.part(attention)
    if law is answers.closed_form_holds:
        return situation.known and situation.model.denoiser == CLOSED.denoiser
    if law in (answers.limits_hold, memory.state_has_the_promised_size):
        return situation.known
    if law is rows.branches_are_separate:
        return isinstance(situation.model.denoiser, Experts) or situation.guidance is not None
    if law is gradients.runs_are_differentiable:
        # Torch has no derivative of a product of float8, and none of flex attention on a CPU.
        return "float8" not in situation.model.name and (kernel is None or kernel.name != "flex")
    if law is memory.failure_leaves_nothing:
        return situation.part(compiled) is None  # what the law plants raises in a block, which cannot be traced
    return True

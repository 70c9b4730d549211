"""What was decided at a step, and why: answers of rules, decisions, `Info`."""

from __future__ import annotations

import enum

import attrs


class Answer(enum.Enum):
    """What a rule says about one sample at one step."""

    COMPUTE = "compute"
    SKIP = "skip"
    DEFER = "defer"


@attrs.frozen
class Decision:
    """What was decided for one sample at one step, and why.

    `change` is the measured relative change of the front residual, None where no rule
    measured it; `blocks` counts the blocks run for this sample.
    """

    index: int
    computed: bool
    reason: str
    change: float | None
    blocks: int
    branch: str = "conditional"
    expert: str = ""


@attrs.frozen
class Info:
    """What was decided and measured in one step, for reports; `apply` never reads it."""

    decisions: tuple[Decision, ...]

    @property
    def computed(self) -> tuple[bool, ...]:
        """Whether each sample (and branch) was computed."""
        return tuple(decision.computed for decision in self.decisions)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Which rule decided for each sample."""
        return tuple(decision.reason for decision in self.decisions)

    @property
    def changes(self) -> tuple[float | None, ...]:
        """Measured change of each sample, None where it was not needed."""
        return tuple(decision.change for decision in self.decisions)

    @property
    def blocks(self) -> int:
        """Blocks run, summed over the samples."""
        return sum(decision.blocks for decision in self.decisions)

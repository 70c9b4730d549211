"""What was computed and skipped in the calls of an accelerated pipeline."""

from collections.abc import Mapping

import attrs

from pure.info import Decision, Info


@attrs.frozen
class CallReport:
    """One call of the pipeline.

    Attributes:
        branches: for every component and guidance branch (`"transformer/cond"`) its steps.
        counts: number of steps of each, as the scheduler says.
        plain: model calls that went past the cache, with the reason.
    """

    branches: Mapping[str, tuple[Info, ...]]
    counts: Mapping[str, int]
    plain: tuple[str, ...]

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Return what was decided, for every branch, step and sample."""
        return tuple(d for infos in self.branches.values() for info in infos for d in info.decisions)

    @property
    def computed(self) -> int:
        """Return how many steps were computed, counted over branches and samples."""
        return sum(decision.computed for decision in self.decisions)

    @property
    def skipped(self) -> int:
        """Return how many steps were skipped, counted over branches and samples."""
        return sum(not decision.computed for decision in self.decisions)

    def __str__(self) -> str:
        """Show every branch as a line of digits, 1 for a computed step and 0 for a skipped one; samples one by one."""
        lines = []
        for name, infos in self.branches.items():
            rows = max((len(info.decisions) for info in infos), default=0)
            for row in range(rows):
                marks = "".join(str(int(i.computed[row])) for i in infos if row < len(i.decisions))
                lines.append(f"{name}{f' sample {row}' if rows > 1 else ''}: {marks}")
        lines.append(f"{self.computed} computed, {self.skipped} skipped")
        lines += [f"past the cache: {reason}" for reason in dict.fromkeys(self.plain)]
        return "\n".join(lines)


@attrs.define
class Report:
    """The calls made so far, the last one last."""

    calls: list[CallReport] = attrs.field(factory=list)

    @property
    def last(self) -> CallReport:
        """Return the last call.

        Raises:
            IndexError: the pipeline was not called.
        """
        if not self.calls:
            raise IndexError("the pipeline was not called inside the `with`")
        return self.calls[-1]

    def __str__(self) -> str:
        """Show every call."""
        return "\n".join(f"call {number}\n{call}" for number, call in enumerate(self.calls))

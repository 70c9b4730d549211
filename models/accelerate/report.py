"""What was computed and skipped in the calls of an accelerated pipeline."""

import html
from collections.abc import Mapping, Sequence

import attrs
import torch

from pure.html import table
from pure.info import Decision, Info
from pure.notes import Note


@attrs.frozen
class CallReport:
    """One call of the pipeline.

    Attributes:
        branches: for every component and guidance branch (`"transformer/cond"`) its steps.
        counts: number of steps of each, as the scheduler says.
        plain: model calls that went past the cache, with the reason.
        notes: on the call.
    """

    branches: Mapping[str, tuple[Info, ...]]
    counts: Mapping[str, int]
    plain: tuple[str, ...]
    notes: tuple[Note, ...] = ()

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

    def _repr_html_(self) -> str:
        """Show for a notebook what every branch computed and skipped, and the notes."""
        rows = [
            (name, len(infos), sum(map(sum, (i.computed for i in infos))), sum(len(i.decisions) for i in infos))
            for name, infos in self.branches.items()
        ]
        shown = [(name, steps, computed, every - computed) for name, steps, computed, every in rows]
        notes = "".join(f"<p>{html.escape(f'{note.kind}: {note.text}')}</p>" for note in self.notes)
        return table(("branch", "steps", "computed", "skipped"), shown) + notes

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
        lines += [f"{note.kind}: {note.text}" for note in self.notes]
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

    def _repr_html_(self) -> str:
        """Show every call for a notebook."""
        return "".join(f"<p>call {number}</p>{call._repr_html_()}" for number, call in enumerate(self.calls))

    def __str__(self) -> str:
        """Show every call."""
        return "\n".join(f"call {number}\n{call}" for number, call in enumerate(self.calls))


def finite_rows(prediction: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return which samples of a prediction (B, ...) are finite, (B,) bool, on its device."""
    several = prediction if isinstance(prediction, tuple) else (prediction,)
    return torch.stack([each.isfinite().flatten(1).all(1) for each in several]).all(0)


def notes_of(report: CallReport, could: bool, finite: Mapping[str, Sequence[torch.Tensor]]) -> tuple[Note, ...]:
    """Return the notes on a call.

    Args:
        report: of the call.
        could: whether any plan could have skipped a step.
        finite: for every branch what `finite_rows` returned at its steps.
    """
    wrong = tuple(note for name, rows in finite.items() for note in _not_finite(name, rows))
    if wrong or report.skipped or not could:
        return wrong
    reasons = sorted({decision.reason for decision in report.decisions})
    changes = [d.change for d in report.decisions if d.change is not None]
    least = f"; the least change measured was {min(changes):.3g}" if changes else ""
    return (
        Note(f"no step of this call was skipped: {report.computed} computed because of {', '.join(reasons)}{least}"),
    )


def _not_finite(name: str, steps: Sequence[torch.Tensor]) -> list[Note]:
    """Return one note for the first step whose prediction is not finite: one wait for the device per branch."""
    if not steps or bool(torch.cat(tuple(steps)).all()):
        return []
    step, rows = next((step, rows.tolist()) for step, rows in enumerate(steps) if not bool(rows.all()))
    samples = ", ".join(str(row) for row, fine in enumerate(rows) if not fine)
    return [
        Note(
            f"the prediction of {name} is not finite (NaN or infinity) from step {step} on, in sample {samples}; the "
            "model itself returns it, with a cache or without. In float16 numbers above 65504 overflow: load the "
            "pipeline in torch.bfloat16; else look at the guidance scale and the weights"
        )
    ]

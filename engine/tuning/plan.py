"""A tuned plan: which steps compute, the weights of the others, and what it was made for; as transform and as YAML.

Shapes: T steps of the schedule, K steps of a history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

import pure
from pure.configs.tuned import TunedFor
from pure.engine.tuned import differs
from pure.engine.tuning.rerun import MaskEntries, StepWeights, TunedSpan, experts_of, histories
from pure.engine.writing import write_whole
from pure.notes import Note
from pure.transforms import calibrated, dbcache, scm
from pure.transforms.calibrated import TableRow

__all__ = ["ExpertPlan", "TunedPlan", "plan_of"]

DIGITS = 5


@attrs.frozen(kw_only=True)
class ExpertPlan:
    """What one expert does; steps are the expert's own.

    Attributes:
        mask: 1 computes, 0 skips.
        table: rows of history, target and weights.
    """

    mask: MaskEntries
    table: tuple[TableRow, ...]


@attrs.frozen(kw_only=True)
class TunedPlan:
    """A plan that `tune` made.

    Attributes:
        made_for: what it fits, and how near it came.
        front: first blocks that always run.
        back: last blocks that always run.
        parts: by expert; of one denoiser one part, without a name.
        ratio: seconds of a run without a cache over seconds with it; None where it was not measured.
    """

    made_for: TunedFor
    front: int
    back: int
    parts: Mapping[str, ExpertPlan]
    ratio: float | None = None

    @property
    def transform(self) -> pure.Transform | dict[str, pure.Transform]:
        """The transform of the denoiser, or one for each expert."""
        made = {name: self._transform(part) for name, part in self.parts.items()}
        return made[""] if "" in made else made

    def differs(self, **known: Any) -> tuple[Note, ...]:
        """Say in what a run differs from what it was made for; what is not known of the run is not compared."""
        return differs(self.made_for, known)

    def _transform(self, part: ExpertPlan) -> pure.Transform:
        return pure.compose(
            dbcache(front=self.front, back=self.back, threshold=1.0, warmup=0, max_continuous=None),
            scm(mask=part.mask, policy="static"),
            calibrated(table=part.table),
        )

    @property
    def text(self) -> str:
        """The plan as a YAML file that every command takes as `--plan` or `--cache-dit-config`."""
        first, *others = self.parts.values()
        known = "\n".join(f"  {name}: {_written(value)}" for name, value in self.made_for.plain().items())
        lines = [TITLE, f"tuned:\n{known}", *self._section(first)]
        if others:
            lines += ["secondary:", *("  " + line for line in "\n".join(self._section(others[0])).splitlines())]
        return "\n".join(lines) + "\n"

    def _section(self, part: ExpertPlan) -> list[str]:
        rows = [f"    - [{list(h)}, {t}, [{', '.join(f'{w:.{DIGITS}f}' for w in ws)}]]" for h, t, ws in part.table]
        return [
            "cache_config:",
            f"  Fn_compute_blocks: {self.front}",
            f"  Bn_compute_blocks: {self.back}",
            "  residual_diff_threshold: 1.0",
            "  max_warmup_steps: 0",
            f'  steps_computation_mask: "{"".join(map(str, part.mask))}"',
            "  steps_computation_policy: static",
            "  enable_taylorseer: true",
            *(["  calibrated_weights:", *rows] if rows else []),
        ]

    def save(self, path: str | Path) -> None:
        """Write the plan as YAML, whole or not at all.

        Raises:
            Failure: the file cannot be written.
        """
        write_whole(Path(path), self.text.encode())


TITLE = "# A plan that `puredit tune` made: which steps compute, and the weights of the others; see docs/tuning.md."


def _written(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else f'"{value}"' if isinstance(value, str) else f"{value}"


def plan_of(
    steps: Sequence[pure.Step], entries: MaskEntries, weights: StepWeights, span: TunedSpan, made: TunedFor
) -> TunedPlan:
    """Return the plan of a mask over the whole schedule and the weights of its skipped steps."""
    names, past = experts_of(steps), histories(steps, entries, span.depth)
    parts = {}
    for name in dict.fromkeys(names):
        places = [at for at, of in enumerate(names) if of == name]
        own = {place: index for index, place in enumerate(places)}
        table = [
            (tuple(own[p] for p in past[at]), own[at], _rounded(weights[at].tolist()[: len(past[at])]))
            for at in places
            if not entries[at]
        ]
        parts[name] = ExpertPlan(mask=tuple(entries[at] for at in places), table=tuple(table))
    return TunedPlan(made_for=made, front=span.front, back=span.back, parts=parts)


def _rounded(weights: Sequence[float]) -> tuple[float, ...]:
    """Return weights as they are written, which add up to 1."""
    rest = [round(weight, DIGITS) for weight in weights[1:]]
    return (round(1 - sum(rest), DIGITS), *rest)

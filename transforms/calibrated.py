r"""Calibrated weights: extrapolate the middle residual by numbers that were fitted for each skipped step.

A table has a row for a history, the last computed steps $t_0 > t_1 > \dots$, and a target $t$:

$$\hat r(t) = \sum_j w_j\, r(t_j), \qquad \sum_j w_j = 1$$

Weights that add up to 1 repeat a residual that does not change.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from pure.checks import shown
from pure.step import MOST_STEPS
from pure.transforms.extrapolation import Extrapolation
from pure.transforms.taylorseer import taylorseer

__all__ = ["calibrated"]

DEEPEST = 8
"""Most computed steps of a history: each is a residual that every sample remembers."""

CLOSE = 1e-6

REST = tuple(taylorseer(order=order) for order in range(4))
"""What there is no row for, by order."""

TableRow = tuple[tuple[int, ...], int, tuple[float, ...]]
"""History (newest first), target and weights."""


def _rows(table: object) -> tuple[TableRow, ...]:
    """Return the rows of a table in order.

    Raises:
        ValueError: a row is wrong; the message shows it.
    """
    if isinstance(table, Mapping):
        table = [(*key, value) if _listed(key) else (key, value) for key, value in table.items()]
    if not isinstance(table, Iterable) or isinstance(table, str | bytes):
        raise ValueError(
            f"calibrated(table={shown(table, 80)}): a table is rows of history, target and weights, {EXAMPLE}"
        )
    rows: dict[tuple[tuple[int, ...], int], TableRow] = {}
    for row in map(_row, table):
        if rows.setdefault(row[:2], row) != row:
            raise ValueError(f"calibrated(table): history {list(row[0])} with target {row[1]} has two rows; keep one")
    return tuple(rows[key] for key in sorted(rows, key=lambda key: (key[1], key[0])))


EXAMPLE = "such as [[[6, 4], 7, [1.4, -0.4]]]"


def _row(row: Any) -> TableRow:
    if not _listed(row) or len(row) != 3 or not _listed(row[0]) or not _listed(row[2]):
        raise _wrong(row, f"a row is a history (newest step first), a target and the weights, {EXAMPLE}")
    history, target, weights = row
    if not 1 <= len(history) <= DEEPEST:
        raise _wrong(row, f"a history has 1 to {DEEPEST} steps")
    if not all(map(_index, (*history, target))):
        raise _wrong(row, f"history and target are step indices, whole numbers of 0 to {MOST_STEPS - 1}")
    descending = [target, *history]
    if any(new <= old for new, old in itertools.pairwise(descending)):
        raise _wrong(row, "a history goes back from the target, newest step first")
    if len(weights) != len(history):
        raise _wrong(row, f"{len(history)} steps have as many weights, not {len(weights)}")
    if not all(isinstance(w, int | float) and not isinstance(w, bool) and math.isfinite(w) for w in weights):
        raise _wrong(row, "weights are finite numbers")
    if abs(math.fsum(weights) - 1) > CLOSE:
        raise _wrong(row, f"weights add up to 1, these to {math.fsum(weights):.9g}; change the first one")
    return tuple(history), target, tuple(map(float, weights))


def _listed(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_STEPS


def _wrong(row: object, reason: str) -> ValueError:
    return ValueError(f"calibrated(table): the row {shown(row)} is wrong: {reason}")


@attrs.frozen(kw_only=True, cache_hash=True)
class calibrated(Extrapolation):
    """Extrapolate skipped middles by a table of weights; the transform is the predictor, too.

    A row counts where its history is the newest part of what was computed; of several the longest. For
    a history that is not in the table the weights are TaylorSeer's. `pure.tune` makes such tables.

    Args:
        table: rows of history (indices of the last computed steps, newest first, at most 8), target (the
            index of the skipped step) and one weight for each step of the history, which add up to 1; or a
            mapping of (history, target) to weights. The longest history is how many residuals are remembered.
        order: of TaylorSeer where the table has no row, 0 to 3.
        on: "residual" extrapolates what the middle blocks add; "hidden" extrapolates their output.
        streams: names of the streams to extrapolate; the others hold. None: those the head reads; "all":
            every stream.

    Raises:
        ValueError: a value is out of range, a row of the table is wrong, or a stream has no such name.

    >>> predictor = calibrated(table={((6, 4), 7): (1.4, -0.4)})
    >>> predictor.weights((6, 4), 7, 0)
    (1.4, -0.4)
    >>> predictor.weights((6, 4), 8, 0)  # not in the table: TaylorSeer's value + 2 slopes
    (2.0, -1.0)

    Reference: the weights of Liu et al., "From Reusable to Forecastable: TaylorSeers", arXiv:2503.06923, where
    nothing was fitted; learned weights are those of "Learnable Linear Predictor" (L2P), arXiv:2604.26365.
    """

    table: tuple[TableRow, ...] = attrs.field(converter=_rows)
    _found: Mapping[tuple[tuple[int, ...], int], tuple[float, ...]] = attrs.field(
        init=False, eq=False, repr=False, default=attrs.Factory(lambda self: _lookup(self.table), takes_self=True)
    )

    @property
    def history(self) -> int:
        """The longest history of the table, and what TaylorSeer needs."""
        return max([self.order + 1, *(len(history) for history, _, _ in self.table)])

    def weights(self, times: Sequence[int], target: int, first: int) -> tuple[float, ...]:
        """Return the weights of the longest row that fits, else TaylorSeer's; the rest are 0."""
        known = tuple(time for time in times if time >= 0)
        for length in range(len(known), 0, -1):
            if (row := self._found.get((known[:length], target))) is not None:
                return row + (0.0,) * (len(times) - length)
        newest = tuple(times)[: self.order + 1]
        return REST[self.order].weights(newest, target, first) + (0.0,) * (len(times) - len(newest))


def _lookup(table: tuple[TableRow, ...]) -> dict[tuple[tuple[int, ...], int], tuple[float, ...]]:
    return {(history, target): weights for history, target, weights in table}

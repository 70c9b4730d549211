"""What a plan may cost, or how near it must come."""

from __future__ import annotations

import math
import re

import attrs

from pure.engine.errors import Misuse

__all__ = ["Budget", "read_budget"]

PATTERN = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(x|dB|db|DB)?\s*$")
KINDS = {"": "steps", "x": "ratio", "db": "quality"}


@attrs.frozen
class Budget:
    """A number of computed steps, a time ratio, or a floor of the quality.

    Attributes:
        kind: "steps", "ratio" or "quality".
        value: of computed steps; how many times faster than without a cache, at least; or dB, at least.
    """

    kind: str
    value: float

    def __str__(self) -> str:
        return {"steps": f"{self.value:g}", "ratio": f"{self.value:g}x", "quality": f"{self.value:g}dB"}[self.kind]


def read_budget(budget: int | str | Budget, steps: int) -> Budget:
    """Return a budget for a run of so many steps.

    Args:
        budget: a number of computed steps; or "2.5x", how many times faster; or "50dB", the least PSNR.
        steps: of the run.

    Raises:
        Misuse: it is none of them, or out of range.

    >>> read_budget("2.5x", 28)
    Budget(kind='ratio', value=2.5)
    """
    if isinstance(budget, Budget):
        return budget
    found = PATTERN.match(str(budget)) if isinstance(budget, int | str) and not isinstance(budget, bool) else None
    if found is None:
        raise Misuse(
            f"the budget {budget!r:.80} is no number of computed steps (11), time ratio (2.5x) or least PSNR (50dB)"
        )
    kind, value = KINDS[(found[2] or "").lower()], float(found[1])
    if kind == "steps" and (not value.is_integer() or not 1 <= value < steps):
        raise Misuse(f"the budget {budget} is computed steps of a run of {steps}: a whole number of 1 to {steps - 1}")
    if kind == "ratio" and not 1 < value <= steps:
        raise Misuse(
            f"the budget {budget} is a time ratio: above 1x and at most {steps}x, one computed step of {steps}"
        )
    if kind == "quality" and not 0 < value <= 100:
        raise Misuse(f"the budget {budget} is a least PSNR: above 0 and at most 100 dB")
    assert math.isfinite(value)
    return Budget(kind, value)

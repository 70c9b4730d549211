"""A row of the checks on a GPU, and how far apart two results are."""

import traceback
from collections.abc import Callable

import attrs
import torch

__all__ = ["Check", "decibels", "distance", "tried"]


@attrs.frozen
class Check:
    """One thing that was checked.

    Attributes:
        kind: what was compared.
        name: of the contestant.
        found: what came out: a number, whether it is so, or why it was not tried.
        bound: what `found` may be: at most this if it is below 1 or `most`, else at least; None: it is shown only.
        most: whether the bound is one from above, whatever its size.
    """

    kind: str
    name: str
    found: float | bool | str
    bound: float | bool | None
    most: bool = False

    @property
    def good(self) -> bool:
        """Whether what was found is within the bound."""
        if self.bound is None:
            return True
        if isinstance(self.bound, bool):
            return self.found is self.bound
        if isinstance(self.found, str):
            return False
        return self.found <= self.bound if self.most or self.bound < 1 else self.found >= self.bound

    @property
    def row(self) -> tuple[str, str, str, str]:
        """The row of the table."""
        verdict = "" if self.bound is None else "yes" if self.good else "NO"
        return (
            self.kind,
            self.name,
            _shown(self.found),
            "" if self.bound is None else f"{_shown(self.bound)}: {verdict}",
        )


def _shown(value: float | bool | str) -> str:
    if isinstance(value, bool):
        return "equal" if value else "differ"
    if isinstance(value, str):
        return value
    return f"{value:.1e}" if 0 < abs(value) < 0.01 else f"{value:.2f}".rstrip("0").rstrip(".")


def tried(kind: str, name: str, bound: float | bool | None, function: Callable[[], float | bool]) -> Check:
    """Return the row of what a function finds; an error is what was found, too."""
    try:
        return Check(kind, name, function(), bound)
    except Exception as error:
        traceback.print_exc()
        return Check(kind, name, f"{type(error).__name__}: {' '.join(str(error).split())[:160]}", bound)


def distance(made: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference over that of what was expected."""
    return float((made.double() - expected.double()).norm() / expected.double().norm())


def decibels(made: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the PSNR of pixels in 0 to 1, at most 200."""
    error = float((made.double() - expected.double()).square().mean())
    return 200.0 if error < 1e-20 else -10 * torch.log10(torch.tensor(error)).item()

r"""How far the front residual has moved since the last computed step.

$$d = \frac{\sum |r_\mathrm{old} - r_\mathrm{now}|}{\sum |r_\mathrm{old}|}$$

per sample, over all tokens and features. It is kept as two sums until the end, so that
shards of a sequence can be added. The second, the size of the old residual, is taken once
after each computed step: whoever measures again says what it was.

Shapes: B rows, N tokens, D width.
"""

import functools
import math
from collections.abc import Callable, Sequence

import torch

from pure.plan import Probe
from pure.tree import numbers

EVERYTHING = Probe()


def sums(probe: Probe, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Return numerator and denominator of the change, shape (2, B), fp32 or wider; of shards they can be added.

    Where only important tokens count, there follow those of all tokens, shape (4, B): which of the
    two pairs holds is known when all shards are.

    Args:
        probe: importance and downsampling.
        old: (B, N, D) residual at the last computed step.
        new: (B, N, D) residual now.
    """
    old, new = _thinned(probe, old), _thinned(probe, new)
    dtype = torch.promote_types(old.dtype, torch.float32)
    both = torch.stack([old - new, old]).abs()  # one tensor: on small models every operation costs microseconds
    dims = tuple(range(2, both.ndim))
    whole = both.sum(dims, dtype=dtype)
    if probe.importance <= 0:
        return whole
    moved, size = both.mean(-1, dtype=dtype)
    important = (moved / size > probe.importance).unsqueeze(-1)
    return torch.cat([(both * important).sum(dims, dtype=dtype), whole])


def moved(probe: Probe, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Return the numerator of `sums` alone, shape (B,)."""
    apart, dims = (_thinned(probe, old) - _thinned(probe, new)).abs(), tuple(range(1, old.ndim))
    if apart.dtype == torch.float32:  # the common case, without a promotion it does not need
        return apart.sum(dims)
    return apart.sum(dims, dtype=torch.promote_types(apart.dtype, torch.float32))


def _thinned(probe: Probe, residual: torch.Tensor) -> torch.Tensor:
    return residual if probe.downsample == 1 else residual[..., :: probe.downsample]


def measure(
    probe: Probe | None,
    old: torch.Tensor,
    new: torch.Tensor,
    paired: bool = False,
    agree: Callable[[torch.Tensor], torch.Tensor] | None = None,
    sizes: Sequence[float] = (),
) -> tuple[list[float], list[float]]:
    """Return the change of every row, and the sizes that the next measurement of the same `old` can take.

    Args:
        probe: how to measure; None: everything.
        old: (B, N, D) what is compared, at the step that the probe compares with.
        new: (B, N, D) the same now.
        paired: rows are the two branches of a sample; both may take the change of the conditional one.
        agree: adds the sums of all shards, where the tokens are divided.
        sizes: of every row of `old`, as the last measurement returned them; -1 where they are not known.

    Raises:
        TypeError: under `torch.vmap`, where samples cannot decide differently.
    """
    probe = probe or EVERYTHING
    if sizes and min(sizes) >= 0:
        found, now, of_all = moved(probe, old, new), list(sizes), []
        numerators = _read(found if agree is None else agree(found.unsqueeze(0))[0])
    else:
        found = sums(probe, old, new)
        numerators, now, *of_all = _read(found if agree is None else agree(found))
    changes = [relative(n, d) for n, d in zip(numerators, now, strict=True)]
    if of_all:
        # A sample without any important token, none of which has moved by nothing, is measured on all of them.
        whole = [relative(n, d) for n, d in zip(*of_all, strict=True)]
        changes = [change if n > 0 else each for n, change, each in zip(numerators, changes, whole, strict=True)]
        now = [-1.0] * len(changes)  # which tokens are important is another question every time
    if probe.since == "last step":
        now = [-1.0] * len(changes)  # compared with this step, whose size is not known
    if probe.polynomial is not None:
        changes = [_polynomial(probe.polynomial, change) for change in changes]
    if paired and probe.follow == "conditional":
        changes = [changes[row - row % 2] for row in range(len(changes))]
    return changes, now


def _read(sums: torch.Tensor) -> list:
    found = numbers(sums)
    if found is None:
        raise TypeError(
            "torch.vmap runs one program for all samples, and the threshold of dbcache would decide for each of them: "
            "pass the samples as one batch (B, ...), where each decides for itself, or use a static mask, "
            "scm(..., policy='static')"
        )
    return found


def _polynomial(coefficients: Sequence[float], change: float) -> float:
    return functools.reduce(lambda total, each: total * change + each, coefficients, 0.0)


def relative(numerator: float, denominator: float) -> float:
    """Return the relative change; a residual that was zero has changed infinitely or not at all."""
    if denominator > 0 or math.isnan(denominator):
        return numerator / denominator
    return 0.0 if numerator == 0 else math.inf

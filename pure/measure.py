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

import numpy as np
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
    if probe.gain:
        found = moved(probe, old, new)
        return _foreseen(probe, found if agree is None else agree(found.unsqueeze(0))[0], paired, sizes)
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
    return _taken(probe, changes, paired), now


def _taken(probe: Probe, changes: list[float], paired: bool) -> list[float]:
    """Return changes as the probe's polynomial and branches take them."""
    if probe.polynomial is not None:
        changes = [_polynomial(probe.polynomial, change) for change in changes]
    if paired and probe.follow == "conditional":
        changes = [changes[row - row % 2] for row in range(len(changes))]
    return changes


def _foreseen(
    probe: Probe, found: torch.Tensor, paired: bool, sizes: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Return by how much predictions will change where what is compared has `moved`."""
    changes = [math.inf if size < 0 else relative(each, size) for each, size in zip(_read(found), sizes, strict=True)]
    return _taken(probe, changes, paired), list(sizes)


def answered(old: tuple[torch.Tensor, ...], seen: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    r"""Return how much must change of what is seen to change the prediction by all of it, (B,) float64.

    $$\lVert v \rVert \, \frac{\lVert x - x_c \rVert}{\lVert v - v_c \rVert}$$

    in sums of absolute values.

    Args:
        old: what was seen and predicted at the last computed step, x_c and v_c, each (B, ...).
        seen: now, x.
        prediction: now, v.
    """
    before, predicted = (each.flatten(1).double() for each in old)
    seen, prediction = seen.flatten(1).double(), prediction.flatten(1).double()
    turned = (prediction - predicted).abs().sum(1)
    # Where the prediction has not changed at all no change is enough: infinity, also of 0 / 0.
    return torch.where(turned == 0, torch.inf, prediction.abs().sum(1) * (seen - before).abs().sum(1) / turned)


def inner_products(
    tensors: Sequence[torch.Tensor], agree: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> np.ndarray:
    """Return the inner products of K tensors (B, ...), sample by sample: (B, K, K) float64.

    Args:
        tensors: of one shape.
        agree: adds the sums of all shards, where the tokens are divided.
    """
    wide = [tensor.detach().flatten(1).double() for tensor in tensors]
    rows = [torch.stack([(one * other).sum(1) for other in wide[: place + 1]]) for place, one in enumerate(wide)]
    sums = torch.cat(rows)  # the lower triangle, (K (K + 1) / 2, B)
    found = np.array(_read(sums if agree is None else agree(sums), "a predictor that is fitted to residuals"))
    pairs = [[sorted((row, column)) for column in range(len(wide))] for row in range(len(wide))]
    places = [[high * (high + 1) // 2 + low for low, high in row] for row in pairs]  # in the lower triangle
    return np.moveaxis(found[np.array(places)], -1, 0)


def _read(sums: torch.Tensor, reader: str = "the threshold of dbcache") -> list:
    found = numbers(sums)
    if found is None:
        raise TypeError(
            f"torch.vmap runs one program for all samples, and {reader} would decide for each of them: "
            "pass the samples as one batch (B, ...), where each decides for itself, or use a static mask, "
            "scm(..., policy='static')"
            + (", and a predictor of times, such as taylorseer()" if "fit" in reader else "")
        )
    return found


def draft_errors(
    past: Sequence[torch.Tensor],
    found: torch.Tensor,
    weights: torch.Tensor,
    agree: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> list[float]:
    """Return how far drafts are from what was found, relative to it in the Euclidean norm, for every row.

    Args:
        past: K tensors (B, N, D), of which a draft is the sum with weights.
        found: (B, N, D).
        weights: (B, K) float64.
        agree: adds the sums of all shards, where the tokens are divided.
    """
    wide = found.detach().flatten(1).double()
    each = weights.to(found.device).unbind(1)
    draft = sum(w.unsqueeze(1) * tensor.detach().flatten(1).double() for w, tensor in zip(each, past, strict=True))
    sums = torch.stack([((wide - draft) ** 2).sum(1), (wide**2).sum(1)])
    apart, sizes = _read(sums if agree is None else agree(sums), "the verification of drafts")
    return [math.sqrt(relative(one, size)) for one, size in zip(apart, sizes, strict=True)]


def _polynomial(coefficients: Sequence[float], change: float) -> float:
    return functools.reduce(lambda total, each: total * change + each, coefficients, 0.0)


def relative(numerator: float, denominator: float) -> float:
    """Return the relative change; a residual that was zero has changed infinitely or not at all."""
    if denominator > 0 or math.isnan(denominator):
        return numerator / denominator
    return 0.0 if numerator == 0 else math.inf

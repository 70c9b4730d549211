r"""How far the front residual has moved since the last computed step.

$$d = \frac{\sum |r_\mathrm{old} - r_\mathrm{now}|}{\sum |r_\mathrm{old}|}$$

per sample, over all tokens and features. It is kept as two sums until the end, so that
shards of a sequence can be added.

Shapes: B rows, N tokens, D width.
"""

from collections.abc import Callable

import torch

from pure.records import Probe
from pure.rules import relative

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
    if probe.downsample > 1:
        old, new = old[..., :: probe.downsample], new[..., :: probe.downsample]
    dtype = torch.promote_types(old.dtype, torch.float32)
    both = torch.stack([old - new, old]).abs()  # one tensor: on small models every operation costs microseconds
    dims = tuple(range(2, both.ndim))
    whole = both.sum(dims) if both.dtype == dtype else both.sum(dims, dtype=dtype)
    if probe.importance <= 0:
        return whole
    moved, size = both.mean(-1, dtype=dtype)
    important = (moved / size > probe.importance).unsqueeze(-1)
    return torch.cat([(both * important).sum(dims, dtype=dtype), whole])


def measure(
    probe: Probe | None,
    old: torch.Tensor,
    new: torch.Tensor,
    paired: bool = False,
    agree: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> list[float]:
    """Return the change of every row; of `paired` rows both may take that of the conditional one.

    `agree` adds the sums of all shards, where the tokens are divided.
    """
    found = sums(probe or EVERYTHING, old, new)
    numerators, denominators, *of_all = (found if agree is None else agree(found)).tolist()
    changes = [relative(n, d) for n, d in zip(numerators, denominators, strict=True)]
    if of_all:
        # A sample without any important token, none of which has moved by nothing, is measured on all of them.
        whole = [relative(n, d) for n, d in zip(*of_all, strict=True)]
        changes = [change if n > 0 else each for n, change, each in zip(numerators, changes, whole, strict=True)]
    if paired and probe is not None and probe.follow == "conditional":
        return [changes[row - row % 2] for row in range(len(changes))]
    return changes

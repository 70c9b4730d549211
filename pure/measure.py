r"""How far the front residual has moved since the last computed step.

$$d = \frac{\sum |r_\mathrm{old} - r_\mathrm{now}|}{\sum |r_\mathrm{old}|}$$

per sample, over all tokens and features. It is kept as two sums until the end, so that
shards of a sequence can be added.

Shapes: B rows, N tokens, D width.
"""

import torch

from pure.records import Probe
from pure.rules import relative


def sums(probe: Probe, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Return numerator and denominator of the change, shape (2, B), fp32 or wider.

    Args:
        probe: importance and downsampling.
        old: (B, N, D) residual at the last computed step.
        new: (B, N, D) residual now.
    """
    if probe.downsample > 1:
        old, new = old[..., :: probe.downsample], new[..., :: probe.downsample]
    dtype = torch.promote_types(old.dtype, torch.float32)
    moved, size = (old - new).abs(), old.abs()
    if probe.importance > 0:
        per_token, token_size = moved.mean(-1, dtype=dtype), size.mean(-1, dtype=dtype)
        important = per_token / token_size > probe.importance
        # A sample without any important token is measured on all of them.
        important = (important | ~important.flatten(1).any(1).view(-1, *[1] * (important.ndim - 1))).unsqueeze(-1)
        moved, size = moved * important, size * important
    dims = tuple(range(1, moved.ndim))
    return torch.stack([moved.sum(dims, dtype=dtype), size.sum(dims, dtype=dtype)])


def measure(probe: Probe | None, old: torch.Tensor, new: torch.Tensor, paired: bool = False) -> list[float]:
    """Return the change of every row; of `paired` rows both may take that of the conditional one."""
    probe = probe or Probe()
    numerators, denominators = sums(probe, old, new).tolist()
    changes = [relative(n, d) for n, d in zip(numerators, denominators, strict=True)]
    if paired and probe.follow == "conditional":
        return [changes[row - row % 2] for row in range(len(changes))]
    return changes

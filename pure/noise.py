"""Starting noise as a function of a seed: no global generator is read or advanced."""

from collections.abc import Sequence

import torch


def gaussian(
    shape: Sequence[int], seed: int | Sequence[int], *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> torch.Tensor:
    """Return standard normal noise, drawn on the CPU and then moved, so that a seed means the same everywhere.

    Args:
        shape: (B, ...).
        seed: one seed for a single stream of B samples, or one seed per sample, which makes a
            sample's noise independent of the batch it is in.
        dtype: of the result.
        device: of the result.

    Raises:
        ValueError: the number of seeds is not B.

    >>> bool((gaussian((2, 3), [7, 8])[1] == gaussian((1, 3), 8)[0]).all())
    True
    """
    if isinstance(seed, int):
        drawn = torch.randn(*shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=dtype)
        return drawn.to(device)
    if len(seed) != shape[0]:
        raise ValueError(f"{len(seed)} seeds for a batch of {shape[0]}; give one seed per sample, or a single integer")
    rows = [torch.randn(*shape[1:], generator=torch.Generator("cpu").manual_seed(s), dtype=dtype) for s in seed]
    return torch.stack(rows).to(device)

"""Starting noise as a function of a seed: no global generator is read or advanced."""

from collections.abc import Sequence

import torch

from pure.checks import LARGEST_SEED, shown


def check_seed(seed: object) -> None:
    """Refuse what is no seed.

    Raises:
        TypeError: it is no whole number; a bool is none.
        ValueError: it is not in 0 to `LARGEST_SEED`.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"a seed is a whole number from 0 to 2**63 - 1, got {shown(seed)}")
    if not 0 <= seed <= LARGEST_SEED:
        given = seed if seed.bit_length() < 200 else f"one of {seed.bit_length()} bits"
        raise ValueError(f"a seed is a whole number from 0 to 2**63 - 1, got {given}")


def consecutive_seeds(seed: int, count: int) -> tuple[int, ...]:
    """Return `count` seeds from `seed` on.

    Raises:
        TypeError: see `check_seed`.
        ValueError: the first or the last of them is out of range.

    >>> consecutive_seeds(7, 3)
    (7, 8, 9)
    """
    check_seed(seed)
    if seed + count - 1 > LARGEST_SEED:
        raise ValueError(
            f"{count} seeds from {seed} on go beyond 2**63 - 1; begin at {LARGEST_SEED - count + 1} or below"
        )
    return tuple(range(seed, seed + count))


def check_device(device: object) -> None:
    """Refuse what names no device.

    Raises:
        ValueError: it does not.
    """
    try:
        if isinstance(device, str | torch.device):
            torch.device(device)
            return
    except RuntimeError:
        pass
    raise ValueError(f"there is no device {shown(device)}; write 'cpu', 'cuda' or 'cuda:1'")


def gaussian(
    shape: Sequence[int],
    seed: int | Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> torch.Tensor:
    """Return standard normal noise, drawn on the CPU and then moved, so that a seed means the same everywhere.

    Args:
        shape: (B, ...).
        seed: one seed for a single stream of B samples, or one seed per sample, which makes a
            sample's noise independent of the batch it is in.
        dtype: of the result.
        device: of the result.

    Raises:
        ValueError: the number of seeds is not B, a seed is not in 0 to 2**63 - 1, a side is below 1, or there is
            no such device.
        TypeError: a seed is no whole number, or shape or type are of another kind.

    >>> bool((gaussian((2, 3), [7, 8])[1] == gaussian((1, 3), 8)[0]).all())
    True
    """
    if isinstance(shape, str) or not isinstance(shape, Sequence) or not shape:
        raise TypeError(f"a shape is a tuple (B, ...), got {shown(shape)}")
    if any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in shape):
        raise ValueError(f"a shape is whole numbers of at least 1, got {shown(tuple(shape))}")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"noise has a floating-point type, such as torch.float32, got {shown(dtype)}")
    check_device(device)
    for each in seed if isinstance(seed, Sequence) and not isinstance(seed, str) else (seed,):
        check_seed(each)
    if isinstance(seed, int):
        drawn = torch.randn(*shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=dtype)
        return drawn.to(device)
    if len(seed) != shape[0]:
        raise ValueError(f"{len(seed)} seeds for a batch of {shape[0]}; give one seed per sample, or a single integer")
    rows = [torch.randn(*shape[1:], generator=torch.Generator("cpu").manual_seed(s), dtype=dtype) for s in seed]
    return torch.stack(rows).to(device)

"""Which attention backends run here: each is called once, on a few numbers of the run's device and dtype."""

import contextlib
import functools
import warnings

import torch

from pure.transforms.attention.kernels import kernel_of
from pure.transforms.attention.names import BACKENDS, canonical, installed

__all__ = ["check_attention", "obstacle", "working"]

TOKENS, HEADS, WIDTH = 64, 2, 64  # what every kernel takes
HALF = (torch.bfloat16, torch.float16)


def check_attention(
    name: str, device: str | torch.device = "cpu", dtype: torch.dtype | None = None, parts: bool = False
) -> None:
    """Refuse an attention backend that does not run here, with those that do and how to get it.

    Args:
        name: as diffusers, cache-dit or SGLang calls it.
        device: where the denoiser runs; only its type is read.
        dtype: of its activations; None: any that the backend takes.
        parts: whether a ring passes keys on, and needs attention to a part of them.

    Raises:
        ValueError: nothing has this name, or it does not run here.

    >>> check_attention("flex")
    """
    if (why := obstacle(name, device, dtype, parts)) is not None:
        there = ", ".join(working(device, dtype))
        raise ValueError(f"the attention {name} does not run here: {why}; here run {there}")


def obstacle(
    name: str, device: str | torch.device = "cpu", dtype: torch.dtype | None = None, parts: bool = False
) -> str | None:
    """Return why a backend does not run here and how to get it, None where it does; arguments of `check_attention`."""
    name, kind = canonical(name), torch.device(device).type
    source = BACKENDS[name]
    if name == "native":
        return None
    if not installed(name):
        return f"there is no package {source.module}; {source.how}"
    if parts and not source.parts:
        return "it gives no log-sum-exp, by which a ring adds up parts; use ring_rotate_method: allgather"
    why = _tried(name, kind, dtype)
    if why is None or dtype in HALF or dtype is None:
        return why and _with_cure(why, source.how)
    if _tried(name, kind, torch.bfloat16) is None:
        return f"it does not take {str(dtype).removeprefix('torch.')}; choose bf16 (--dit-precision bf16)"
    return _with_cure(why, source.how)


def _with_cure(why: str, how: str) -> str:
    return f"{why}; {how}" if how else why


def working(device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> tuple[str, ...]:
    """Return the backends that run here; those that would be downloaded are not tried."""
    kind = torch.device(device).type
    local = [name for name, source in BACKENDS.items() if source.module != "kernels" and installed(name)]
    return tuple(name for name in local if _tried(name, kind, dtype) is None)


@functools.cache
def _tried(name: str, kind: str, dtype: torch.dtype | None) -> str | None:
    """Call a backend; return what went wrong, in one line."""
    if dtype is None:
        failures = [_tried(name, kind, each) for each in (torch.bfloat16, torch.float32)]
        return None if None in failures else failures[0]
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(3, 1, TOKENS, HEADS, WIDTH, generator=generator)
    try:
        q, k, v = numbers.to(kind, dtype)
        with warnings.catch_warnings(), torch.no_grad(), _ready(name):
            warnings.simplefilter("ignore")
            found = kernel_of(name)(q, k, v)
            good = found.shape == q.shape and bool(found.isfinite().all())
    except Exception as error:
        return _line(error, kind)
    return None if good else "it was tried and gave no attention"


def _ready(name: str) -> contextlib.AbstractContextManager[None]:
    """Let diffusers check the version of a package, and fetch a kernel of the hub."""
    if not BACKENDS[name].module:
        return contextlib.nullcontext()
    from diffusers import attention_backend

    return attention_backend(name)


def _line(error: Exception, kind: str) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if text.startswith("No viable backend"):
        text = f"torch has no such kernel on {kind}"
    return f"it was tried on {kind} and failed: {text.rstrip('.')[:200]}"

"""The attention of a model that calls it itself: by diffusers' dispatcher, for which the kernel is set."""

import contextlib
from collections.abc import Callable

import torch
from diffusers import attention_backend

from pure.attention import attend as default
from pure.models.errors import CheckpointError

__all__ = ["check_dispatched", "dispatching"]


def dispatching(attend: Callable) -> contextlib.AbstractContextManager[None]:
    """Return a context in which diffusers' models attend as `attend` does; by default as they are set."""
    if attend is default:
        return contextlib.nullcontext()
    return attention_backend(attend.name)  # type: ignore[attr-defined]  # see pure.transforms.attention


def check_dispatched(module: torch.nn.Module, attend: Callable) -> None:
    """Refuse to choose the attention of a model that does not ask diffusers' dispatcher for it.

    Raises:
        CheckpointError: it attends by itself, or with a kernel that was set in it.
    """
    if attend is default:
        return
    name, model = getattr(attend, "name", str(attend)), type(module).__name__
    processors = {id(p): p for child in module.modules() if (p := getattr(child, "processor", None)) is not None}
    if not processors:
        raise CheckpointError(f"{model} has no attention that could be chosen; leave attention({name!r}) out")
    for processor in processors.values():
        kind = type(processor).__name__
        if not hasattr(processor, "_attention_backend"):
            raise CheckpointError(
                f"the attention of {model} cannot be chosen, as its {kind} does not ask diffusers' dispatcher; "
                f"leave attention({name!r}) out"
            )
        own = getattr(processor._attention_backend, "value", processor._attention_backend)
        if own not in (None, name):
            raise CheckpointError(
                f"the attention of {model} is set to {own} (set_attention_backend), and attention({name!r}) chooses "
                "another; drop one of the two"
            )

"""Compilation as a transform: it sets an option, the pieces are compiled when they are built."""

import attrs

from pure.composition import Transform
from pure.denoiser import Denoiser
from pure.pieces import CompileOptions
from pure.transforms.checks import check_fields, flag, narrowed, refuse

__all__ = ["compiled"]


def _backend(instance: "compiled", attribute: attrs.Attribute, value: object) -> None:
    if not isinstance(value, str) and not callable(value):
        raise refuse(instance, attribute.name, value, "a backend is a name, such as 'inductor', or a function")


def _mode(instance: "compiled", attribute: attrs.Attribute, value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise refuse(instance, attribute.name, value, "a mode is a name, such as 'max-autotune', or None")


CHECKS = {"backend": _backend, "mode": _mode, "regional": flag}


@attrs.frozen(kw_only=True)
class compiled(CompileOptions, Transform):
    """Compile the pieces with `torch.compile(fullgraph=True)`; its place in a composition does not matter.

    The fields are those of `pure.CompileOptions`. Decisions stay outside the graphs, so that
    another mask, threshold or request compiles nothing again.

    Raises:
        ValueError: a value is not allowed, or the denoiser is compiled already, with other options.

    >>> compiled(backend="eager")
    compiled(backend='eager', mode=None, regional=True)
    """

    def __attrs_post_init__(self) -> None:
        check_fields(self, CHECKS)

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Set the compile options."""
        options = narrowed(self, CompileOptions)
        if denoiser.compile is not None and denoiser.compile != options:
            raise ValueError(
                f"compile is set twice, to {denoiser.compile} and to {options}; compose only one of the two"
            )
        return attrs.evolve(denoiser, compile=options)

"""Compilation as a transform: it sets an option, the pieces are compiled when they are built."""

from collections.abc import Callable

import attrs

from pure.compose import Transform
from pure.denoiser import Denoiser
from pure.pieces import CompileOptions

__all__ = ["compiled"]


@attrs.frozen(kw_only=True)
class compiled(Transform):
    """Compile the pieces with `torch.compile(fullgraph=True)`; its place in a composition does not matter.

    Decisions stay outside the graphs, so that another mask, threshold or request compiles
    nothing again.

    Args:
        backend: a `torch.compile` backend, by name or as a function.
        mode: a `torch.compile` mode, or None.
        regional: compile every kind of block once (seconds); False compiles each of the four
            pieces as one graph (minutes on large stacks, somewhat faster steps).

    Raises:
        ValueError: the denoiser is compiled already, with other options.

    >>> compiled(backend="eager")
    compiled(backend='eager', mode=None, regional=True)
    """

    backend: str | Callable = "inductor"
    mode: str | None = None
    regional: bool = True

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Set the compile options."""
        options = CompileOptions(backend=self.backend, mode=self.mode, regional=self.regional)
        if denoiser.compile is not None and denoiser.compile != options:
            raise ValueError(
                f"compile is set twice, to {denoiser.compile} and to {options}; compose only one of the two"
            )
        return attrs.evolve(denoiser, compile=options)

"""Compilation as a transform: it sets an option, the pieces are compiled when they are built."""

import attrs

from pure.checks import narrowed
from pure.composition import Transform, both
from pure.denoiser import Denoiser
from pure.pieces import CompileOptions

__all__ = ["compiled"]


@attrs.frozen(kw_only=True)
class compiled(CompileOptions, Transform):
    """Compile the pieces with `torch.compile(fullgraph=True)`; its place in a composition does not matter.

    The fields are those of `pure.CompileOptions`. Decisions stay outside the graphs, so that
    another mask, threshold or request compiles nothing again.

    Raises:
        ValueError: a value is not allowed, or the denoiser is compiled already, with other options.

    >>> compiled(backend="eager")
    compiled(backend='eager')
    """

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Set the compile options."""
        options = narrowed(self, CompileOptions)
        if denoiser.compile is not None and denoiser.compile != options:
            old = compiled(**attrs.asdict(denoiser.compile, recurse=False))
            raise ValueError(both(old, self, "how pieces are compiled"))
        return attrs.evolve(denoiser, compile=options)

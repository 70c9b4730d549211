"""What a notebook shows of a run: a recording of its steps, and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np
import torch

from pure.checks import shown
from pure.engine.comparing import compare, panels
from pure.engine.extras import require
from pure.engine.plotting import Heading, Panel, draw, png
from pure.engine.writing import write_whole
from pure.html import table
from pure.info import Info
from pure.loop import Frame, Run
from pure.models.generation import Generation
from pure.step import Step

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Plot", "Recording", "plot"]


class Recording:
    """What a run did, step by step; pass it as `observe` to `pure.sample` or `Pipeline.generate`.

    One recording is of one run; a second one is refused. A notebook shows it as a table.

    Args:
        latents: also keep the latents after every step, on the CPU; else `latents` stays empty.

    Raises:
        ValueError: at a step that it has already.

    Attributes:
        steps: that were taken.
        infos: what was computed and skipped at each, and why.
        latents: (B, ...) after each.
        samples: B; 0 before the first step.

    >>> recording = Recording()
    >>> len(recording.infos)
    0
    """

    def __init__(self, latents: bool = False) -> None:
        self.steps: list[Step] = []
        self.infos: list[Info] = []
        self.latents: list[torch.Tensor] = []
        self.samples = 0
        self._keep = latents

    def __call__(self, frame: Frame) -> None:
        """Keep what is wanted of a step."""
        if any((step.expert, step.index) == (frame.step.expert, frame.step.index) for step in self.steps):
            raise ValueError(
                f"this recording has step {frame.step.index} of a run already, and one recording is of one run; "
                "pass a new pure.Recording() to each"
            )
        self.steps.append(frame.step)
        self.infos.append(frame.info)
        self.samples = len(frame.latents)
        if self._keep:
            self.latents.append(frame.latents.detach().to("cpu", copy=True))

    def __repr__(self) -> str:
        """Say how much was recorded."""
        computed = sum(sum(info.computed) for info in self.infos)
        decisions = sum(len(info.decisions) for info in self.infos)
        return f"<Recording: {len(self.infos)} steps, {computed} of {decisions} decisions to compute>"

    def _repr_html_(self) -> str:
        """Show every decision."""
        rows = [
            (step, row // max(1, len(info.decisions) // self.samples), decision.branch,
             "computed" if decision.computed else "skipped", decision.reason,
             "" if decision.change is None else f"{decision.change:.4g}", decision.blocks)
            for step, info in enumerate(self.infos) for row, decision in enumerate(info.decisions)
        ]  # fmt: skip
        return table(("step", "sample", "branch", "", "reason", "change", "blocks run"), rows, repr(self)[1:-1])


@attrs.frozen(eq=False)
class Plot:
    """A drawing that a notebook shows; `save(path)` writes it as a PNG."""

    figure: Figure = attrs.field(repr=False)

    def save(self, path: str | Path) -> None:
        """Write it as a PNG, whole or not at all."""
        write_whole(Path(path), png(self.figure))

    def _repr_png_(self) -> bytes:
        return png(self.figure)


def plot(
    result: Generation | Run | Recording | Sequence[Info],
    against: Generation | None = None,
    *,
    sample: int = 0,
    threshold: float | None = None,
    title: str = "",
) -> Plot:
    """Draw what was computed and skipped at each step, why, and the measured changes.

    Args:
        result: of `Pipeline.generate` or `pure.sample`, a `Recording`, or the infos of one sample.
        against: what was generated without a cache: pictures of both and their difference are drawn above.
        sample: which one of the batch.
        threshold: of the cache, drawn as a line.
        title: above all.

    Raises:
        TypeError: there is nothing to draw in `result`, a comparison of something else than generations, or a title
            that is no text.
        ValueError: nothing was run, there is no such sample, or the two have other sizes or values that are not finite.
        ImportError: matplotlib or scikit-image are not installed; the message says how to install them.
    """
    if not isinstance(title, str):
        raise TypeError(f"the title of a plot is text, got {shown(title)}; leave it out where there is none")
    require("plot", "pure.plot", ImportError)
    infos = _of_sample(result, sample)
    if against is None:
        return Plot(draw(infos, threshold, (), Heading(title=title)))
    pictures, numbers = _compared(result, against, sample)
    return Plot(draw(infos, threshold, pictures, Heading(title=title, numbers=numbers)))


def _of_sample(result: object, sample: int) -> Sequence[Info]:
    """Return the infos of one sample of a batch."""
    if isinstance(result, Generation | Run):
        infos, count = result.infos, len(result.latents)
    elif isinstance(result, Recording):
        infos, count = tuple(result.infos), result.samples
    elif isinstance(result, list | tuple) and all(isinstance(each, Info) for each in result):
        infos, count = tuple(result), 1
    else:
        kinds = "a Generation, a Run, a Recording or infos"
        raise TypeError(f"plot takes {kinds}, got {type(result).__name__}")
    if not infos:
        raise ValueError("there is nothing to plot: no step was recorded")
    if isinstance(sample, bool) or not isinstance(sample, int) or not 0 <= sample < count:
        raise ValueError(f"there is no sample {sample!r}: it is 0 to {count - 1}")
    parts = [len(info.decisions) // count for info in infos]
    cut = [info.decisions[sample * n : (sample + 1) * n] for info, n in zip(infos, parts, strict=True)]
    return [Info(decisions) for decisions in cut]


def _compared(result: object, against: object, sample: int) -> tuple[list[Panel], str]:
    """Return the pictures of a sample with and without a cache, and how far they are apart."""
    if not isinstance(result, Generation) or not isinstance(against, Generation):
        raise TypeError("pictures are compared of two Generations, as Pipeline.generate returns them")
    if result.pixels.shape != against.pixels.shape:
        shapes = f"{tuple(result.pixels.shape)} and {tuple(against.pixels.shape)}"
        raise ValueError(f"the two have pixels of different shapes, {shapes}; generate both with the same request")
    cached, plain = _frames(result.pixels[sample]), _frames(against.pixels[sample])
    for name, pixels in (("first", cached), ("second", plain)):
        if not np.isfinite(pixels).all():
            raise ValueError(
                f"the pictures of the {name} generation have values that are not finite (sample {sample}), so there is "
                "no difference to draw; plot its steps alone: pure.plot(result)"
            )
    found = compare(plain, cached, 1.0, 1.0)
    return panels(plain, cached, found.frame), found.line


def _frames(pixels: torch.Tensor) -> np.ndarray:
    frames = pixels if pixels.ndim == 4 else pixels[None]
    return frames.detach().to("cpu", torch.float32).movedim(-3, -1).numpy()

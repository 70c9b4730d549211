"""The result of one sample."""

from __future__ import annotations

import attrs
import numpy as np

from pure import Info
from pure.engine.sample import Sample
from pure.statistics import Tally, tally


@attrs.frozen(kw_only=True, eq=False)
class Result:
    """One image or video and how it came about.

    Attributes:
        sample: its prompt, its seed and its file.
        frames: (F, H, W, 3) float32 in [0, 1]; an image is one frame.
        infos: one per step.
        step_seconds: one per step; the start of the loop belongs to the first.
        encode_seconds: reading the prompt.
        decode_seconds: latents to pixels.
    """

    sample: Sample
    frames: np.ndarray
    infos: tuple[Info, ...]
    step_seconds: tuple[float, ...]
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of the denoising loop."""
        return sum(self.step_seconds)

    @property
    def total_seconds(self) -> float:
        """Seconds with reading the prompt and decoding."""
        return self.encode_seconds + self.seconds + self.decode_seconds

    @property
    def branches(self) -> dict[str, Tally]:
        """What each guidance branch did."""
        return tally(self.infos)

"""The result of `Pipeline.generate`."""

import attrs
import torch

from pure.info import Info
from pure.notes import Note


@attrs.frozen(kw_only=True, eq=False)
class Generation:
    """What `Pipeline.generate` returns.

    Attributes:
        pixels: (B, 3, H, W) in 0 to 1; of videos (B, F, 3, H, W).
        latents: (B, ...), what they were decoded from.
        infos: for every step what was computed and skipped, and why.
        notes: settings without effect, prompts that were cut.
    """

    pixels: torch.Tensor
    latents: torch.Tensor
    infos: tuple[Info, ...]
    notes: tuple[Note, ...] = ()

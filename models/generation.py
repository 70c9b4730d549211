"""The result of `Pipeline.generate`, and its pixels as pictures that can be shown and saved."""

from os import PathLike

import attrs
import torch
from PIL import Image

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


class Video(list[Image.Image]):
    """The frames of one video, in order."""

    def save(self, path: str | PathLike[str], fps: float = 16.0) -> None:
        """Save it as an animated picture: .png, .webp or .gif; `puredit generate` writes .mp4.

        Raises:
            ValueError: the ending stands for no such file.
        """
        self[0].save(path, save_all=True, append_images=self[1:], duration=1000.0 / fps, loop=0)


def pictures(pixels: torch.Tensor) -> list[Image.Image]:
    """Return pixels (N, 3, H, W) in 0 to 1 as pictures.

    >>> pictures(torch.ones(1, 3, 2, 4))[0].size
    (4, 2)
    """
    arrays = (pixels.detach().to("cpu", torch.float32).permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    return [Image.fromarray(array) for array in arrays]

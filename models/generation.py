"""The result of `Pipeline.generate`, and its pixels as pictures that can be shown and saved."""

import base64
import html
import io
from os import PathLike

import attrs
import torch
from PIL import Image

from pure.html import table
from pure.info import Info
from pure.notes import Note
from pure.statistics import Tally, tally

MOST_SHOWN = 16
"""Pictures that a notebook shows of one generation."""


class Video(list[Image.Image]):
    """The frames of one video, in order."""

    def save(self, path: str | PathLike[str], fps: float = 16.0) -> None:
        """Save it as an animated picture: .png, .webp or .gif; `puredit generate` writes .mp4.

        Raises:
            ValueError: the ending stands for no such file.
        """
        self[0].save(path, save_all=True, append_images=self[1:], duration=1000.0 / fps, loop=0)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Generation:
    """What `Pipeline.generate` returns; a notebook shows its pictures and what was computed.

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

    @property
    def images(self) -> list[Image.Image] | list[Video]:
        """The B pictures, or the B videos; all of them have `save(path)`."""
        return shown(self.pixels)

    @property
    def branches(self) -> dict[str, Tally]:
        """What each guidance branch computed and skipped, counted over the samples."""
        return tally(self.infos)

    def __repr__(self) -> str:
        """Say how many there are of which size, and how much was computed."""
        count, (height, width) = len(self.pixels), self.pixels.shape[-2:]
        kind = "image" if self.pixels.ndim == 4 else f"{self.pixels.shape[1]}-frame video"
        done = self.branches.values()
        computed, total = sum(len(each.computed) for each in done), sum(each.steps for each in done)
        what = f"{count} {kind}{'s' * (count != 1)}, {width} x {height}"
        return f"<Generation: {what}, {computed} of {total} steps computed>"

    def _repr_html_(self) -> str:
        """Show the first pictures, of videos their middle frame, and a row for every guidance branch."""
        first = self.images[:MOST_SHOWN]
        tags = "".join(_tag(each[len(each) // 2] if isinstance(each, list) else each) for each in first)
        rows = [
            (name, len(each.computed), len(each.skipped), f"{each.blocks_run} of {each.blocks}")
            for name, each in self.branches.items()
        ]
        notes = "".join(f"<p>{note.kind}: {html.escape(note.text)}</p>" for note in self.notes)
        return f"<div>{tags}</div>{table(('branch', 'computed', 'skipped', 'blocks run'), rows)}{notes}"


def shown(pixels: torch.Tensor) -> list[Image.Image] | list[Video]:
    """Return pixels (B, 3, H, W) in 0 to 1 as pictures, pixels (B, F, 3, H, W) as videos."""
    return [Video(pictures(sample)) for sample in pixels] if pixels.ndim == 5 else pictures(pixels)


def pictures(pixels: torch.Tensor) -> list[Image.Image]:
    """Return pixels (N, 3, H, W) in 0 to 1 as pictures.

    >>> pictures(torch.ones(1, 3, 2, 4))[0].size
    (4, 2)
    """
    arrays = (pixels.detach().to("cpu", torch.float32).permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    return [Image.fromarray(array) for array in arrays]


def _tag(picture: Image.Image) -> str:
    written = io.BytesIO()
    picture.save(written, "png")
    return f'<img src="data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}" style="margin:2px">'

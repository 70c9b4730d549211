"""Contact sheets: the same pictures made by every method, at every number of computed steps.

    python -m benchmarks.gallery --write    # draws docs/gallery-18.png and so on, and lists them in docs/gallery.md

The settings are those that `python -m benchmarks.quality` found, whose folder of results is read (`--work`). The
pictures are from the hardest to the easiest: by the mean PSNR of all methods.

Shapes: B pictures of a method, H x W pixels.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from benchmarks.command import FOLDER, parser, publish
from benchmarks.quality import stages
from benchmarks.quality.__main__ import add_size, say, size_of
from benchmarks.quality.rows import Row
from benchmarks.quality.samples import BATCH

COLUMNS = 6
SIDE, GAP, LABEL = 64, 4, 150
AMPLIFIED = 8
COLOURS = 128
SHOWN = {
    "puredit, tuned plan": "tuned plan",
    "cache-dit": "cache-dit",
    "cache-dit, TaylorSeer": "cache-dit,\nTaylorSeer",
    "cache-dit, DMD": "cache-dit, DMD",
    "diffusers, first block": "first block",
    "diffusers, MagCache": "MagCache",
    "diffusers, TaylorSeer": "diffusers,\nTaylorSeer",
    "fewer steps, Euler": "fewer steps",
    "fewer steps, UniPC": "fewer steps,\nUniPC",
}


def chosen(rows: Sequence[Row], count: int) -> list[int]:
    """Return which pictures are shown: evenly from the hardest one to the easiest."""
    means = np.mean([row.values["psnr"] for row in rows], axis=0)
    order = np.argsort(means)
    return [int(order[round(at)]) for at in np.linspace(0, len(order) - 1, min(count, len(order)))]


def sheet(lines: Sequence[tuple[str, torch.Tensor]], plain: torch.Tensor) -> Image.Image:
    """Return a sheet: a line for every method with its pictures, and on the right how they differ.

    Args:
        lines: label and pictures (B, 3, H, W) in 0 to 1.
        plain: (B, 3, H, W), without a cache; they are the first line.
    """
    count = len(plain)
    width = LABEL + 2 * count * (SIDE + GAP) + 3 * GAP
    canvas = Image.new("RGB", (width, GAP + (len(lines) + 1) * (SIDE + GAP)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for number, (label, pictures) in enumerate([("no cache", plain), *lines]):
        y = GAP + number * (SIDE + GAP)
        pen.multiline_text((GAP, y + 12), label, "black", font)
        differences = 1 - (pictures - plain).abs().mean(1, keepdim=True).expand(-1, 3, -1, -1) * AMPLIFIED
        parts = pictures if number == 0 else torch.cat([pictures, differences.clamp(0, 1)])
        for at, picture in enumerate(parts):
            x = LABEL + at * (SIDE + GAP) + (3 * GAP if at >= count else 0)
            pixels = (picture.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
            canvas.paste(Image.fromarray(pixels), (x, y))
    right = LABEL + count * (SIDE + GAP) + 3 * GAP
    pen.multiline_text(
        (right, GAP + 12), f"what differs from the first line,\n{AMPLIFIED} times as dark", "black", font
    )
    return canvas


def lines_of(field: stages.Field, rows: Sequence[Row], places: Sequence[int]) -> list[tuple[str, torch.Tensor]]:
    """Return label and pictures of the methods that are shown."""
    found = []
    for row in rows:
        if row.method in SHOWN:
            label = f"{SHOWN[row.method]}\n{row.mean('psnr'):.1f} dB"
            found.append((label, torch.cat([_picture(field, row, place) for place in places])))
    return found


def _picture(field: stages.Field, row: Row, place: int) -> torch.Tensor:
    number, at = divmod(place, BATCH)
    return field.bench.pictures(field.methods[row.method], row.setting, number)[at : at + 1]


def draw(field: stages.Field, folder: Path) -> list[tuple[int, Path, list[str]]]:
    """Draw a sheet for every number of computed steps; return it with its file and the prompts on it."""
    steps, found = stages.by_steps(field, say), []
    places = chosen([row for rows in steps.values() for row in rows], COLUMNS)
    plain = torch.cat([field.bench.batches[place // BATCH].plain[place % BATCH][None] for place in places])
    for most, rows in steps.items():
        path = folder / f"gallery-{most}.png"
        made = sheet(lines_of(field, rows, places), plain)
        made.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
        found.append((most, path, [rows[0].prompts[place] for place in places]))
    return found


def listed(sheets: Sequence[tuple[int, Path, list[str]]]) -> str:
    """Return the sheets as Markdown."""
    prompts = ", ".join(f"*{prompt.removesuffix(' background')}*" for prompt in sheets[0][2])
    parts = [f"From the hardest picture to the easiest: {prompts}."]
    for most, path, _ in sheets:
        alt = f"the pictures of every method and their differences, at most {most} of {stages.STEPS} steps computed"
        parts += [f"## {most} computed steps", f"![{alt}]({path.name})"]
    return "\n\n".join(parts)


def main() -> None:
    """Draw the sheets."""
    found = parser(__name__, "gallery.md")
    add_size(found)
    options = found.parse_args()
    folder = FOLDER.parent / "docs" if options.write else options.work
    torch.set_num_threads(1)
    sheets = draw(stages.prepare(size_of(options), options.work, say), folder)
    publish(options.write, "gallery.md", "gallery", listed(sheets))


if __name__ == "__main__":
    main()

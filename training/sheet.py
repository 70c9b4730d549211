"""A contact sheet: samples in a grid, each with its prompt."""

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from training import data

COLUMNS = 14
CELL = 100
LABEL = 30
GAP = 8


def one_per_emoji(pairs: list[data.Pair]) -> list[data.Pair]:
    """The held-out pair of each emoji if it has one, else one in turn."""
    chosen = {}
    for pair in pairs:
        turn = pair.background == pair.emoji % len(data.BACKGROUNDS)
        if pair.emoji not in chosen or pair.held_out or turn:
            chosen[pair.emoji] = pair
    return [chosen[emoji] for emoji in sorted(chosen)]


def draw(pictures: Tensor, pairs: list[data.Pair]) -> Image.Image:
    """Lay out pictures (M, 3, H, W) in [0, 1]; a star marks held-out pairs."""
    rows = -(-len(pairs) // COLUMNS)
    size = (GAP + COLUMNS * (CELL + GAP), GAP + rows * (CELL + LABEL + GAP))
    canvas = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for index, (picture, pair) in enumerate(zip(pictures, pairs, strict=True)):
        x = GAP + index % COLUMNS * (CELL + GAP)
        y = GAP + index // COLUMNS * (CELL + LABEL + GAP)
        pixels = (picture.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        image = Image.fromarray(pixels).resize((CELL, CELL), Image.Resampling.BICUBIC)
        canvas.paste(image, (x, y))
        emoji, background = pair.prompt.removesuffix(" background").split(" on a ")
        star = " *" if pair.held_out else ""
        pen.text((x, y + CELL + 1), f"{emoji}\non {background}{star}", "black", font)
    return canvas

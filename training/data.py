"""The data: Noto emoji on flat named backgrounds, with prompts and a fixed split.

Shapes: N emoji, K sizes, B batch, H = W = 64 pixels, channels RGB(A).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

RESOLUTION = 64
SIZES = (48, 50, 52, 54, 56, 58)
"""Edge lengths in pixels at which an emoji is drawn."""
SHIFT = 3
"""An emoji's centre is at most this many pixels off the image's centre."""
HELD_OUT_EVERY = 10

BACKGROUNDS = {
    "blue": (60, 120, 220),
    "green": (70, 170, 90),
    "yellow": (250, 215, 80),
    "pink": (245, 160, 190),
    "purple": (115, 70, 165),
    "white": (250, 250, 250),
}

NAMES = """
    monkey, fox, cat, tiger, unicorn, cow, pig, elephant, koala, panda, penguin, owl, parrot, flamingo, frog,
    turtle, snake, whale, tropical fish, octopus, crab, snail, butterfly, bee, ladybug, dinosaur, rose, sunflower,
    tulip, cactus, palm tree, mushroom, maple leaf, clover, red apple, banana, grapes, watermelon, lemon,
    pineapple, strawberry, cherries, green pear, avocado, eggplant, carrot, corn, broccoli, croissant, pretzel,
    cheese, burger, french fries, pizza, fried egg, donut, cupcake, ice cream, lollipop, popcorn, balloon, gift,
    pumpkin, soccer ball, basketball, tennis racket, trophy, dartboard, eight ball, teddy bear, christmas tree,
    crown, top hat, diamond, bell, guitar, drum, light bulb, padlock, bomb, magnet, umbrella, jeans, blue dress,
    alarm clock, rocket, red car, taxi, traffic light, rainbow, snowman, fire, water drop, yellow star, globe,
    red heart, robot, alien
"""
# Short names in the package, where they are not those in prompts.
ELSEWHERE = {
    "monkey": "monkey_face",
    "fox": "fox_face",
    "unicorn": "unicorn_face",
    "panda": "panda_face",
    "dinosaur": "t-rex",
    "clover": "four_leaf_clover",
    "red apple": "apple",
    "green pear": "pear",
    "cheese": "cheese_wedge",
    "burger": "hamburger",
    "french fries": "fries",
    "donut": "doughnut",
    "ice cream": "icecream",
    "pumpkin": "jack_o_lantern",
    "soccer ball": "soccer",
    "tennis racket": "tennis",
    "dartboard": "dart",
    "eight ball": "8ball",
    "top hat": "tophat",
    "diamond": "gem",
    "drum": "drum_with_drumsticks",
    "light bulb": "bulb",
    "padlock": "lock",
    "blue dress": "dress",
    "red car": "car",
    "traffic light": "vertical_traffic_light",
    "snowman": "snowman_without_snow",
    "water drop": "droplet",
    "yellow star": "star",
    "globe": "earth_americas",
    "red heart": "heart",
    "robot": "robot_face",
}
EMOJI = {name: ELSEWHERE.get(name, name.replace(" ", "_")) for name in " ".join(NAMES.split()).split(", ")}
"""Short name in the package by name in prompts; the order is that of the trained model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One emoji on one background, the unit of the split."""

    emoji: int
    background: int

    @property
    def prompt(self) -> str:
        """The canonical prompt, without an article."""
        return prompt(list(EMOJI)[self.emoji], list(BACKGROUNDS)[self.background])

    @property
    def held_out(self) -> bool:
        """Never trained on: a diagonal, so that every emoji and background is seen."""
        return (self.emoji + 3 * self.background) % HELD_OUT_EVERY == 0


def prompt(emoji: str, background: str, article: str = "") -> str:
    """``"{article} {emoji} on a {background} background"``."""
    return f"{article} {emoji} on a {background} background".strip()


def article(emoji: str) -> str:
    """The indefinite article that fits the name."""
    return "an" if emoji[0] in "aeiou" and emoji != "unicorn" else "a"


def pairs(*, held_out: bool) -> list[Pair]:
    """All pairs on one side of the split."""
    every = (Pair(emoji=e, background=b) for e in range(len(EMOJI)) for b in range(len(BACKGROUNDS)))
    return [pair for pair in every if pair.held_out is held_out]


def colours() -> Tensor:
    """Background colours in [0, 1], shape (number of backgrounds, 3)."""
    return torch.tensor(list(BACKGROUNDS.values()), dtype=torch.float32) / 255


def load_emoji(package: Path) -> Tensor:
    """Every emoji at every size, centred, alpha-premultiplied RGBA.

    Args:
        package: the unpacked npm package ``emoji-datasource-google``.

    Returns:
        uint8 of shape (N, K, 64, 64, 4).
    """
    entries = json.loads((package / "emoji.json").read_text())
    files = {entry["short_name"]: entry["image"] for entry in entries}
    folder = package / "img" / "google" / "64"
    drawn = [np.stack([_draw(Image.open(folder / files[short]), size) for size in SIZES]) for short in EMOJI.values()]
    return torch.from_numpy(np.stack(drawn))


def _draw(image: Image.Image, size: int) -> np.ndarray:
    """Resample with premultiplied alpha ("RGBa") and centre on a clear canvas."""
    small = image.convert("RGBA").convert("RGBa").resize((size, size), Image.Resampling.BICUBIC)
    canvas = np.zeros((RESOLUTION, RESOLUTION, 4), np.uint8)
    start = (RESOLUTION - size) // 2
    canvas[start : start + size, start : start + size] = np.asarray(small)
    return canvas


def compose(sprites: Tensor, background: Tensor) -> Tensor:
    """Lay premultiplied sprites (B, H, W, 4) on colours (B, 3); float in [-1, 1].

    Returns:
        images of shape (B, 3, H, W).
    """
    sprites = sprites.permute(0, 3, 1, 2).float() / 255
    alpha = sprites[:, 3:]
    mixed = sprites[:, :3] + (1 - alpha) * background[:, :, None, None]
    return mixed.clamp(0, 1) * 2 - 1


def place(emoji: Tensor, which: Tensor, *, generator: torch.Generator) -> Tensor:
    """Draw each emoji of ``which`` (B,) at a random size, position and mirror.

    Returns:
        sprites of shape (B, 64, 64, 4).
    """
    count = len(which)
    size = torch.randint(len(SIZES), (count,), generator=generator)
    shift = torch.randint(-SHIFT, SHIFT + 1, (count, 2), generator=generator)
    mirror = torch.randint(2, (count, 1), generator=generator).bool()
    column = torch.arange(RESOLUTION).repeat(count, 1)
    column = torch.where(mirror, RESOLUTION - 1 - column, column)
    row = torch.arange(RESOLUTION) - shift[:, :1]
    column = column.gather(1, (torch.arange(RESOLUTION) - shift[:, 1:]) % RESOLUTION)
    return emoji[
        which[:, None, None],
        size[:, None, None],
        (row % RESOLUTION)[:, :, None],
        column[:, None, :],
    ]


def images(emoji: Tensor, batch: list[Pair], *, generator: torch.Generator) -> Tensor:
    """One random picture of each pair, (B, 3, 64, 64) in [-1, 1]."""
    which = torch.tensor([pair.emoji for pair in batch])
    colour = colours()[torch.tensor([pair.background for pair in batch])]
    return compose(place(emoji, which, generator=generator), colour)

"""What plans are tuned on: built-in prompts for every modality, a file, a sequence, or a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pure.engine.errors import Misuse

__all__ = ["BUILT_IN", "Prompts", "prompts_of_file", "read"]

Prompts = str | Path | Sequence[str] | Callable[[int], Sequence[str]]
"""What `read` reads."""

IMAGES = (
    "A portrait photograph of an old fisherman with a white beard, soft window light",
    "A red fox walking through fresh snow in a birch forest",
    "An isometric drawing of a small bakery on a street corner",
    "The words OPEN LATE in blue neon above a diner door at night",
    "A bowl of ramen with a boiled egg, seen from above on dark wood",
    "A watercolour of a harbour with sailing boats at dawn",
    "A macro photograph of a bee on a lavender flower",
    "A mountain lake that mirrors the peaks, wide angle, early morning",
    "Two children flying a yellow kite on a windy beach",
    "A chrome robot playing chess with a child, cinematic light",
    "An oil painting of a lighthouse in a storm",
    "A glass of orange juice beside a window with rain on it",
    "A narrow street in Lisbon with a yellow tram",
    "A golden retriever puppy asleep in a wicker basket",
    "A pencil sketch of a cathedral's rose window",
    "An astronaut riding a horse across red dunes",
    "A tidy desk with a typewriter, a lamp and three books",
    "A hummingbird in flight before dark green leaves",
    "A city skyline at dusk in the style of a travel poster",
    "A close view of hands kneading bread dough",
    "A steam train crossing a stone viaduct in autumn",
    "A market stall with pyramids of colourful spices",
    "A minimalist logo of a mountain and a rising sun",
    "A jellyfish glowing in deep blue water",
    "A woman in a green raincoat waiting at a bus stop at night",
    "A castle on a cliff above the clouds, concept art",
    "A plate of macarons in pastel colours on marble",
    "A lynx looking into the camera, shallow depth of field",
    "A child's room with a paper moon hanging from the ceiling",
    "A motorcycle parked before a graffiti wall",
    "A field of tulips in stripes, seen from the air",
    "A violin on a velvet chair, still life",
)
VIDEOS = (
    "A cat jumps from a sofa onto a wooden floor and walks away",
    "Waves break on black rocks while the camera pans to the left",
    "A woman in a red dress turns round and smiles at the camera",
    "Steam rises from a cup of coffee on a rainy windowsill",
    "A train passes through a snowy valley, seen from the air",
    "A potter shapes a bowl on a spinning wheel, close view",
    "Fireworks open over a river at night",
    "A dog runs through shallow water on a beach in slow motion",
    "Leaves fall in a park while people walk by",
    "A candle flame flickers in a dark room",
    "A car drives along a desert road towards the sunset",
    "A jellyfish drifts upwards through dark water",
    "A chef tosses vegetables in a pan over a high flame",
    "Clouds move fast over a city, time lapse",
    "A child blows soap bubbles in a garden",
    "A hummingbird hovers before a flower, then flies off",
    "Rain runs down a window, the street behind it out of focus",
    "A skateboarder jumps over a bench",
    "The camera flies slowly through a library with tall shelves",
    "A horse gallops across a green field",
    "Ink spreads in a glass of water, macro",
    "An old man feeds pigeons on a square",
    "A paper boat floats down a small stream",
    "Northern lights move over a frozen lake",
)
EDITS = (
    "Make it a watercolour",
    "Change the season to winter",
    "Make it night, with lights in the windows",
    "Turn it into a pencil drawing",
    "Add a red balloon",
    "Replace the background by a beach",
    "Make it look like an old photograph",
    "Change the main colour to blue",
    "Add soft morning light from the left",
    "Turn it into pixel art",
    "Add falling snow",
    "Make it an oil painting with thick strokes",
    "Remove everything but the main subject",
    "Make the weather stormy",
    "Add a yellow frame",
    "Turn it into a comic with black outlines",
)
THINGS = (
    *("banana", "penguin", "rocket", "red apple", "fox", "umbrella", "sunflower", "taxi", "owl", "guitar", "pizza"),
    *("snowman", "octopus", "crown", "cactus", "robot", "strawberry", "elephant", "bell", "teddy bear", "carrot"),
    *("butterfly", "globe", "cupcake", "frog", "padlock", "rose", "soccer ball", "whale", "alien", "cheese"),
    *("red heart", "tiger", "light bulb", "watermelon", "diamond", "snail", "donut", "christmas tree", "parrot"),
    *("red car", "mushroom", "drum", "popcorn", "turtle", "dartboard", "grapes", "rainbow"),
)
COLOURS = ("blue", "white", "green", "purple", "yellow", "pink")
EMOJI = tuple(f"{thing} on a {COLOURS[at % len(COLOURS)]} background" for at, thing in enumerate(THINGS))

BUILT_IN = {"images": IMAGES, "videos": VIDEOS, "edits": EDITS, "emoji": EMOJI}
"""Prompts by name; emoji are what the checkpoint in the package knows."""


def read(prompts: Prompts, count: int) -> tuple[str, ...]:
    """Return the first `count` prompts.

    Args:
        prompts: a name of `BUILT_IN`, the path of a text file with one prompt a line, the prompts themselves, or
            a function that returns so many.
        count: at least 1.

    Raises:
        Misuse: there is no such file, it is no text, or there are fewer prompts, or one is no text.

    >>> read("emoji", 1)
    ('banana on a blue background',)
    """
    if isinstance(prompts, str) and prompts in BUILT_IN:
        found, where = BUILT_IN[prompts], f"the built-in list {prompts!r}"
    elif isinstance(prompts, str | Path):
        found, where = prompts_of_file(Path(prompts)), str(prompts)
    elif callable(prompts):
        found, where = prompts(count), "the function"
    else:
        found, where = prompts, "the sequence"
    if not isinstance(found, Sequence) or isinstance(found, str) or not all(isinstance(text, str) for text in found):
        raise Misuse(f"prompts to tune with are a sequence of texts, got {found!r:.80} from {where}")
    found = tuple(dict.fromkeys(found))
    if len(found) < count:
        raise Misuse(
            f"{count} different prompts are needed and {where} has {len(found)}; give more, or fit and check with fewer"
        )
    return found[:count]


def prompts_of_file(path: Path) -> tuple[str, ...]:
    """Return the prompts of a file: one a line, without empty lines and those that begin with #.

    Raises:
        Misuse: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        names = ", ".join(BUILT_IN)
        raise Misuse(f"prompts {path} cannot be read: {reason}; give a text file, or one of {names}") from error
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))

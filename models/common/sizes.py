"""Which sizes a checkpoint can make, by its autoencoder and its patches; known from its JSON files alone."""

import attrs
from attrs import validators

POSITIVE = (validators.instance_of(int), validators.ge(1))


@attrs.frozen(kw_only=True)
class AllowedSizes:
    """Heights and widths of whole tokens, and numbers of frames.

    Attributes:
        height: pixels of which heights are multiples.
        width: likewise.
        frames: numbers of frames are `first` plus a multiple of it.
        first: the least number of frames.
        numbers: of the latents of one token.
    """

    height: int = attrs.field(validator=POSITIVE)
    width: int = attrs.field(validator=POSITIVE)
    frames: int = attrs.field(default=1, validator=POSITIVE)
    first: int = attrs.field(default=1, validator=POSITIVE)
    numbers: int = attrs.field(default=1, validator=POSITIVE)

    def wrong(self, name: str, value: int) -> str | None:
        """Return what is wrong with a "height", a "width" or a number of "frames", and the nearest that is possible.

        >>> AllowedSizes(height=16, width=16, frames=4).wrong("frames", 6)
        'is not 1 plus a multiple of 4; the nearest number is 5'
        >>> AllowedSizes(height=16, width=16).wrong("height", 7)
        'is not a positive multiple of 16 pixels; the nearest size is 16'
        """
        step = getattr(self, name)
        if name == "frames":
            if value >= self.first and not (value - self.first) % step:
                return None
            nearest = max(round((value - self.first) / step), 0) * step + self.first
            return f"is not {self.first} plus a multiple of {step}; the nearest number is {nearest}"
        if value >= 1 and not value % step:
            return None
        return f"is not a positive multiple of {step} pixels; the nearest size is {max(round(value / step), 1) * step}"

    def latents(self, height: int, width: int, frames: int = 1) -> int:
        """Return how many numbers the latents of one sample have, whose sizes are possible.

        >>> AllowedSizes(height=16, width=16, frames=4, numbers=64).latents(32, 48, 9)
        1152
        """
        tokens = (height // self.height) * (width // self.width) * ((frames - self.first) // self.frames + 1)
        return tokens * self.numbers

    def check(self, **given: int) -> None:
        """Refuse sizes that are not possible.

        Args:
            given: `height`, `width` and `frames`, or some of them.

        Raises:
            ValueError: one is not possible; with the nearest that is.
        """
        for name, value in given.items():
            if reason := self.wrong(name, value):
                raise ValueError(f"{name}={value} {reason}")

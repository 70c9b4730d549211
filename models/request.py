"""What is asked of a pipeline, and what a checkpoint does where nothing is asked."""

from collections.abc import Sequence
from typing import TypedDict

import attrs
from PIL import Image


class Options(TypedDict, total=False):
    """What may be asked besides the prompts; what is left out is the checkpoint's own default.

    Attributes:
        images: pictures to edit, or the one a video begins with; the same for all prompts.
        steps: number of denoising steps, at least 1.
        height: in pixels.
        width: in pixels.
        frames: of a video.
        guidance_scale: the guidance that the family calls so: an input of the transformer where it
            embeds one (FLUX.1-dev, FLUX.2-dev, HunyuanVideo), else the scale of classifier-free guidance.
        guidance_scale_2: that of the low-noise expert of Wan 2.2; None for the same.
        true_cfg_scale: scale of classifier-free guidance where `guidance_scale` means something else.
        images_per_prompt: neighbouring samples of the batch, at least 1.
        max_sequence_length: text tokens.
    """

    images: Sequence[Image.Image]
    steps: int | None
    height: int | None
    width: int | None
    frames: int | None
    guidance_scale: float | None
    guidance_scale_2: float | None
    true_cfg_scale: float | None
    images_per_prompt: int
    max_sequence_length: int | None


@attrs.frozen(kw_only=True)
class Request:
    """A checked request: see `Options`; sizes, steps and lengths are filled in, scales may be None."""

    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...] | None = None
    images: tuple[Image.Image, ...] = attrs.field(default=(), converter=tuple)
    steps: int = 50
    height: int = 0
    width: int = 0
    frames: int = 1
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    true_cfg_scale: float | None = None
    images_per_prompt: int = 1
    max_sequence_length: int = 512

    @property
    def batch(self) -> int:
        """Number of samples."""
        return len(self.prompts) * self.images_per_prompt


@attrs.frozen(kw_only=True)
class Defaults:
    """What a checkpoint does where nothing is asked; see `Options`.

    Attributes:
        negative_prompt: used where guidance is on and none is given; None: guidance needs one.
        fps: frames per second of a video.
        longest: most text tokens the model can read.
    """

    steps: int
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    true_cfg_scale: float | None = None
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    frames: int = 1
    fps: int = 16
    max_sequence_length: int = 512
    longest: int = 512


def prompts(prompt: str | Sequence[str], what: str = "prompt") -> tuple[str, ...]:
    """Return one or several prompts as a tuple.

    Raises:
        TypeError: it is neither a string nor a sequence of strings.
        ValueError: there is none.

    >>> prompts("a red apple")
    ('a red apple',)
    """
    found = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(found, Sequence) or not all(isinstance(text, str) for text in found):
        raise TypeError(f"{what} should be a string or a sequence of strings, got {prompt!r}")
    if not found:
        raise ValueError(f"{what} is an empty sequence; give at least one ('' will do)")
    return tuple(found)


def negatives(negative_prompt: str | Sequence[str], count: int) -> tuple[str, ...]:
    """Return a negative prompt for each of `count` prompts; a single string is for all.

    Raises:
        ValueError: there are several, and not as many as prompts.
    """
    found = prompts(negative_prompt, "negative_prompt")
    if isinstance(negative_prompt, str):
        return found * count
    if len(found) != count:
        raise ValueError(f"{len(found)} negative prompts for {count} prompts; give one string, or one per prompt")
    return found

"""Requests to a pipeline with their options, which are checked here, and the defaults of a checkpoint."""

import math
import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar

import attrs
from PIL import Image

from pure.checks import nearest
from pure.guidance import LARGEST_SCALE
from pure.noise import check_seed
from pure.notes import Note
from pure.step import MOST_STEPS, Step

M = TypeVar("M")
MOST_SAMPLES = 1024  # of one prompt
LARGEST = 2**24
"""Numbers of the latents of one sample: a picture of 8192 x 8192 pixels in FLUX.1."""
# Options that are whole numbers, and the largest one of each; None where the size of the latents limits it.
WHOLE = {
    "steps": MOST_STEPS,
    "height": None,
    "width": None,
    "frames": None,
    "images_per_prompt": MOST_SAMPLES,
    "max_sequence_length": None,  # the checkpoint's
}
SCALES = ("guidance_scale", "guidance_scale_2", "true_cfg_scale")
# What diffusers calls them.
ELSEWHERE = {
    "num_inference_steps": "steps",
    "num_images_per_prompt": "images_per_prompt",
    "num_frames": "frames",
    "image": "images",
    "last_image": "images",
    "generator": "seed",
    "callback_on_step_end": "observe",
}


MOST_PROMPTS = 10_000  # of one request: all their embeddings are in memory at once


class Options(TypedDict, total=False):
    """Options of a request besides the prompts; an option that is left out has the checkpoint's default.

    Attributes:
        images: pictures to edit, or the one a video begins with, read in three colours; the same for all prompts.
        steps: number of denoising steps, 1 to 10,000.
        height: in pixels.
        width: in pixels.
        frames: of a video.
        guidance_scale: the guidance that the family calls so: an input of the transformer where it
            embeds one (FLUX.1-dev, FLUX.2-dev, HunyuanVideo), else the scale of classifier-free guidance.
        guidance_scale_2: that of the low-noise expert of Wan 2.2; None for the same.
        true_cfg_scale: scale of classifier-free guidance where `guidance_scale` means something else.
        images_per_prompt: neighbouring samples of the batch, 1 to 1024.
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
    """A checked request: see `Options`; sizes, steps and lengths are filled in, scales may be None.

    `Pipeline.request` makes it, and everything that depends on prompts, sizes or steps takes it.

    Attributes:
        prompts: P texts.
        negative_prompts: as many; None: without classifier-free guidance.
        notes: settings that have no effect.
        memo: what `once` has computed; requests evolved from this one share it.
    """

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
    notes: tuple[Note, ...] = attrs.field(default=(), eq=False, repr=False)
    memo: dict[Hashable, Any] = attrs.field(factory=dict, eq=False, repr=False)

    def once(self, key: Hashable, make: Callable[[], M]) -> M:
        """Return what `make` returns, computed once for this key and these pictures.

        Encoding a picture is slow, and conditioning, noise and decoding may all need it.
        """
        whole = key, tuple(map(id, self.images))
        if whole not in self.memo:
            self.memo[whole] = self.images, make()  # with the pictures, or another could get the id of one
        return self.memo[whole][1]

    @property
    def batch(self) -> int:
        """Number of samples."""
        return len(self.prompts) * self.images_per_prompt

    def check_pictures(self, least: int, most: int) -> None:
        """Refuse fewer or more input pictures than a model takes.

        Raises:
            ValueError: there are.
        """
        if not least <= len(self.images) <= most:
            wanted = f"{least} to {most}" if least < most else most or "no"
            pictures = "picture" if least == most == 1 else "pictures"
            raise ValueError(f"this model takes {wanted} input {pictures}, got {len(self.images)}; see images=")


@attrs.frozen(kw_only=True)
class Defaults:
    """The defaults of a checkpoint; see `Options`.

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


def needed(request: object) -> Request:
    """Return a request that was passed to a pipeline, if it is one.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(request, Request):
        raise TypeError(
            f"a request is wanted, as pipeline.request(prompt, ...) returns it, got {type(request).__name__}; "
            "encode, noise, schedule, pixels and decode all take the same one"
        )
    return request


def prompts(prompt: str | Sequence[str], what: str = "prompt") -> tuple[str, ...]:
    """Return one or several prompts as a tuple.

    Raises:
        TypeError: it is neither a string nor a sequence of strings.
        ValueError: there is none, or one holds a lone surrogate.

    >>> prompts("a red apple")
    ('a red apple',)
    """
    found = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(found, Sequence) or not all(isinstance(text, str) for text in found):
        raise TypeError(f"{what} should be a string or a sequence of strings, got {prompt!r:.80}")
    for text in found:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{what} {text[:60]!r} holds a lone surrogate, which is no character") from error
    if not found:
        raise ValueError(f"{what} is an empty sequence; give at least one ('' will do)")
    if len(found) > MOST_PROMPTS:
        raise ValueError(f"{len(found)} are too many for {what}: at most {MOST_PROMPTS}; make several requests")
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


def checked(options: Mapping[str, Any], longest: int, video: bool = True, experts: bool = True) -> dict[str, Any]:
    """Return the options that are given, of the right types and in range; None is left out.

    Args:
        options: see `Options`.
        longest: most text tokens the model can read.
        video: whether it makes videos.
        experts: whether it has a second expert.

    Raises:
        TypeError: there is no such option, or it has another type.
        ValueError: a number is out of range, or the model has no use for an option.

    >>> checked({"steps": 28, "height": None}, longest=512)
    {'steps': 28}
    """
    given = {name: value for name, value in options.items() if value is not None}
    if unknown := next((name for name in options if name not in Options.__annotations__), None):
        raise TypeError(_unknown(unknown))
    for name in WHOLE.keys() & given.keys():
        given[name] = _whole(name, given[name])
        most = longest if name == "max_sequence_length" else WHOLE[name]
        if given[name] < 1 and name != "max_sequence_length":
            raise ValueError(f"{name}={given[name]} should be at least 1")
        if not 1 <= given[name] <= (most or given[name]):
            raise ValueError(f"{name}={given[name]} should be in 1 to {most}")
    for name in SCALES:
        if name in given:
            given[name] = _scale(name, given[name])
    if "images" in given:
        given["images"] = _pictures(given["images"])
    if given.get("frames", 1) > 1 and not video:
        raise ValueError(f"frames={given['frames']}: this model makes pictures, not videos; leave it out")
    if "guidance_scale_2" in given and not experts:
        raise ValueError(
            f"guidance_scale_2={given['guidance_scale_2']} is that of a second expert, and this model has one "
            "transformer; leave it out"
        )
    return given


def check_size(
    request: Request, shape: Sequence[int], schedule: Callable[[int, int], Sequence[Step]], tokens: int
) -> None:
    """Refuse what no memory holds, before any is taken.

    Args:
        request: its sizes.
        shape: of the latents of one sample.
        schedule: returns the steps for a number of them and of tokens.
        tokens: that the schedule depends on.

    Raises:
        ValueError: the latents are too large, or the schedule is not made for them.
    """
    frames = f" and {request.frames} frames" if request.frames > 1 else ""
    size = f"height={request.height}, width={request.width}{frames}"
    if math.prod(shape) > LARGEST:
        raise ValueError(f"{size}: latents of {math.prod(shape):,} numbers, the most are {LARGEST:,}")
    try:
        (step,) = schedule(1, tokens)
    except ValueError:  # their shift is no finite number
        step = None
    if step is None or step.sigma is None or not bool(step.sigma.isfinite()):
        raise ValueError(f"{size}: the schedule of this checkpoint is not made for {tokens} tokens")


def seeds(seed: int | Sequence[int]) -> int | list[int]:
    """Return one seed or several as plain numbers.

    Raises:
        TypeError: one is no whole number.
        ValueError: one is out of range: a larger one would mean the same as another.
    """
    if isinstance(seed, Sequence) and not isinstance(seed, str):
        return [_seed(each) for each in seed]
    return _seed(seed)


def _seed(value: Any) -> int:
    seed = _whole("seed", value)
    check_seed(seed)
    return seed


def _unknown(name: str) -> str:
    near = ELSEWHERE.get(name) or nearest(name, Options.__annotations__)
    hint = f"did you mean {near}?" if near else f"there are {', '.join(Options.__annotations__)}"
    return f"there is no option {name!r}; {hint}"


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise TypeError(f"{name} should be a whole number, got {value!r:.80}")
    try:
        found = operator.index(value)
    except TypeError as error:  # a tensor of several numbers
        raise TypeError(f"{name} should be a whole number, got {value!r:.80}") from error
    if found.bit_length() > 200:
        raise ValueError(f"{name} is out of range: it has {found.bit_length()} bits")
    return found


def _scale(name: str, value: Any) -> float:
    if isinstance(value, bool | str) or not hasattr(type(value), "__float__"):
        raise TypeError(f"{name} should be a number, got {value!r}")
    try:
        found = float(value)
    except (OverflowError, TypeError, ValueError, RuntimeError) as error:
        kind = f"a whole number of {value.bit_length()} bits" if isinstance(value, int) else f"{value!r:.80}"
        raise ValueError(f"{name} should be finite and at most {LARGEST_SCALE:g}, got {kind}") from error
    if not math.isfinite(found) or abs(found) > LARGEST_SCALE:
        raise ValueError(f"{name}={found:g} should be finite and at most {LARGEST_SCALE:g}")
    return found


def _pictures(images: Any) -> tuple[Image.Image, ...]:
    if isinstance(images, Image.Image):
        raise TypeError("images should be a sequence of pictures, got one; write images=[picture]")
    if not isinstance(images, Sequence) or not all(isinstance(each, Image.Image) for each in images):
        raise TypeError(f"images should be a sequence of Pillow's pictures, got {images!r:.80}")
    return tuple(each if each.mode == "RGB" else each.convert("RGB") for each in images)

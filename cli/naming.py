"""Names of output files: fixed ones as given, automatic ones from the prompt."""

import hashlib
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from pure.checks import nearest
from pure.engine.errors import Misuse
from pure.engine.sample import Sample
from pure.engine.saving import IMAGE_FORMATS

__all__ = ["automatic", "beside", "plan", "suffix_of"]

VIDEO = ".mp4"
OTHERS = {".mp4": "a video", ".gif": "a video", ".glb": "a mesh", ".obj": "a mesh"}


def automatic(prompt: str, when: datetime, identity: str) -> str:
    """Return a file name without its ending, of letters, digits, `.`, `_` and `-` only.

    >>> automatic("a red apple/pear", datetime(2026, 11, 23, 3, 0, 0), "seed 42")
    'a_red_apple_pear_20261123-030000_e48c14da'
    """
    text = re.sub(r"[^A-Za-z0-9._-]+", "_", prompt[:100]).strip("_.-") or "image"
    digest = hashlib.sha256(f"{prompt}\n{identity}".encode()).hexdigest()[:8]
    return f"{text}_{when:%Y%m%d-%H%M%S}_{digest}"


def suffix_of(name: str, flag: str, video: bool = False) -> str:
    """Return the ending of a file name if such an output is written under it, the default if it has none.

    Raises:
        Misuse: nothing of the kind is written under this ending.
    """
    ending = Path(name).suffix.lower()
    if not ending:
        return VIDEO if video else ".png"
    if ending in ((VIDEO,) if video else IMAGE_FORMATS):
        return ending
    if video:
        raise Misuse(f"{flag} {name}: this model makes videos, written as {VIDEO}; --save-frames adds images")
    if ending in OTHERS:
        raise Misuse(f"{flag} {name}: {ending} is {OTHERS[ending]}, this model makes images; use .png, .jpg or .webp")
    guess = nearest(ending, IMAGE_FORMATS) or ".png"
    raise Misuse(f"{flag} {name}: images are written as {', '.join(IMAGE_FORMATS)}; did you mean {guess}?")


def plan(
    pairs: Sequence[tuple[str, int]],
    folder: Path,
    fixed: str | None,
    when: datetime,
    identity: str = "",
    exists: Callable[[Path], bool] = Path.exists,
    video: bool = False,
) -> tuple[Sample, ...]:
    """Give every (prompt, seed) a file of its own in `folder`.

    A fixed name gets `.png`, or `.mp4` for a video, if it has no ending; automatic names never meet an existing file.

    Raises:
        Misuse: several images and one fixed name, or a fixed name with a folder or an unknown ending.
    """
    if fixed is not None:
        return (_named(pairs, folder, fixed, video),)
    ending = VIDEO if video else ".png"
    samples: list[Sample] = []
    taken: set[Path] = set()
    for prompt, seed in pairs:
        stem = automatic(prompt, when, f"{seed}\n{identity}")
        candidates = (folder / f"{stem}{f'-{n}' if n else ''}{ending}" for n in range(len(pairs) + 1000))
        path = next(path for path in candidates if path not in taken and not exists(path))
        taken.add(path)
        samples.append(Sample(prompt=prompt, seed=seed, path=path))
    return tuple(samples)


def _named(pairs: Sequence[tuple[str, int]], folder: Path, fixed: str, video: bool) -> Sample:
    if len(pairs) > 1:
        raise Misuse(
            f"{len(pairs)} images cannot all be called {fixed}; leave out --output-file-name and --output-file-path "
            "(every image then gets a name of its own in --output-path), or ask for one prompt, one seed and one output"
        )
    if Path(fixed).name != fixed or fixed in ("", ".", ".."):
        raise Misuse(f"--output-file-name {fixed!r} is not a plain file name; the folder goes into --output-path")
    ending = suffix_of(fixed, "--output-file-name", video)
    name = fixed if Path(fixed).suffix else fixed + ending
    return Sample(prompt=pairs[0][0], seed=pairs[0][1], path=folder / name)


def beside(path: Path, remark: str) -> Path:
    """Return the path with a remark before its ending.

    >>> beside(Path("outputs/apple.png"), "without-cache").name
    'apple-without-cache.png'
    """
    return path.with_name(f"{path.stem}-{remark}{path.suffix}")

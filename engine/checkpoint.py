"""What a checkpoint says of itself, read before anything heavy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch

from pure.checks import cut
from pure.configs import Facts
from pure.engine.errors import Misuse
from pure.engine.libraries import quiet_libraries

if TYPE_CHECKING:
    from pure.models import Picture, Pipeline
    from pure.models.family import Description

Waiting = Callable[[str], contextlib.AbstractContextManager[object]]

__all__ = ["Checkpoint", "look", "pictures"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def device() -> str:
    """Return the type of the device that runs use: "cuda" where there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@attrs.frozen(kw_only=True)
class Checkpoint:
    """A checkpoint and how to load it.

    Attributes:
        path: a folder or hub id; None: the one that comes with the package.
        found: what its JSON files say.
        precision: of `DTYPES`; None: fp32 on a CPU, as stored elsewhere.
        variant: of the files, as `load_pipeline` takes it.
        compiled: whether its denoiser is compiled.
    """

    path: str | None
    found: Description
    precision: str | None = None
    variant: str | None = None
    compiled: bool = False

    @property
    def name(self) -> str:
        """The class of its pipeline, such as `FluxPipeline`."""
        return self.found.kind.pipeline

    @property
    def video(self) -> bool:
        """Whether the model makes videos."""
        return self.found.kind.task.endswith("video")

    @property
    def experts(self) -> int:
        """How many experts the model has."""
        return len(self.found.transformers)

    @property
    def dtype(self) -> torch.dtype | None:
        """The number type that it is loaded in; None: as stored."""
        return DTYPES[self.precision] if self.precision else torch.float32 if device() == "cpu" else None

    def fps(self, given: int | None) -> int | None:
        """Return the frames per second, by default the checkpoint's; None where the model makes images."""
        return (given or self.found.defaults.fps) if self.video else None

    def facts(self, steps: int | None, processes: int = 1, sequence: int | None = None, groups: int = 1) -> Facts:
        """Return what is known of a run before it starts; `steps` None: the checkpoint's default."""
        return Facts(
            groups=groups,
            dtype=None if self.dtype is None else str(self.dtype).removeprefix("torch."),
            processes=processes,
            sequence=sequence,
            device=device(),
            steps=steps or self.found.defaults.steps,
            blocks=len(next(iter(self.found.denoisers.values())).blocks),
            experts=self.experts,
            packed=self.found.family.packed,
            denoiser=next(iter(self.found.denoisers.values())),
        )

    def check_expert_scale(self, scale: float | None, name: str) -> None:
        """Refuse the guidance scale of a second expert where there is one expert.

        Raises:
            Misuse: there is.
        """
        if scale is not None and self.experts == 1:
            message = f"{name} is for the second expert of a model, and this one has one; leave it out"
            raise Misuse(message, field=name)

    def check_pixels(self, height: int | None, width: int | None, frames: int | None, flag: str | None = None) -> None:
        """Refuse a size that the checkpoint cannot have; None is its default, `flag` names both sides if it is given.

        Raises:
            Misuse: its latents have too many numbers, or it is not made of whole tokens.
        """
        from pure.models.request import LARGEST

        given = {"height": height, "width": width, "frames": frames}
        for name, value in given.items():
            if value is not None and (reason := self.found.sizes.wrong(name, value)):
                raise Misuse(f"{_flag(name, flag)} {value} {reason}", field=name)
        defaults, sizes = self.found.defaults, self.found.sizes
        # A side that is not given may be that of a picture: it is a token at least.
        height, width = height or defaults.height or sizes.height, width or defaults.width or sizes.width
        frames = frames or defaults.frames
        if (numbers := sizes.latents(height, width, frames)) > LARGEST:
            several = f" x {frames}" if frames > 1 else ""
            raise Misuse(
                f"{flag or f'--width {width}, --height {height}'}: {width} x {height}{several} pixels are latents of "
                f"{numbers:,} numbers, the most are {LARGEST:,}"
            )

    def check_pictures(self, count: int, given: str = "this request has") -> None:
        """Refuse a number of input pictures that the model does not take.

        Raises:
            Misuse: it reads another number.
        """
        least, most = self.found.image_count
        if not least <= count <= most:
            wanted = "no" if not most else f"{least}" if least == most else f"{least} to {most}"
            raise Misuse(f"a {self.name} reads {wanted} input pictures; {given} {count}")

    def load(
        self,
        waiting: Waiting = contextlib.nullcontext,
        part: tuple[int, int] = (0, 1),
        encoder_part: tuple[int, int] = (0, 1),
    ) -> Pipeline:
        """Load it onto the device.

        Args:
            waiting: a context that shows what is waited for.
            part: as `load_pipeline` takes it, and
            encoder_part: likewise.

        Raises:
            Misuse: it is missing, damaged, or not supported.
        """
        quiet_libraries()
        from pure.models import CheckpointError, embedded
        from pure.models.checkpoint.loading import LoadOptions, load

        place: Any = {"device": device(), "part": part, "encoder_part": encoder_part}
        try:
            with waiting("loading the checkpoint ..."):
                source = embedded() if self.path is None else self.path
                return load(self.found, source, LoadOptions(variant=self.variant, dtype=self.dtype, **place))
        except CheckpointError as error:
            raise Misuse(str(error)) from error


def _flag(name: str, flag: str | None) -> str:
    """Return how the command line calls a size."""
    return "--num-frames" if name == "frames" else f"--{name}" if flag is None else f"{flag}: {name}"


def look(path: str | None, **options: Any) -> Checkpoint:
    """Describe a checkpoint from its JSON files; None is the one that comes with the package.

    Args:
        path: a folder or hub id.
        options: how to load it; see `Checkpoint`.

    Raises:
        Misuse: it is not there, or not supported.
    """
    from pure.models import CheckpointError, embedded
    from pure.models.checkpoint.description import describe
    from pure.models.checkpoint.hub import DESCRIPTION, locate

    try:
        found = describe(embedded() if path is None else locate(path, DESCRIPTION))
    except CheckpointError as error:
        raise Misuse(str(error)) from error
    return Checkpoint(path=path, found=found, **options)


def pictures(paths: Sequence[str], found: Description) -> tuple[Picture, ...]:
    """Open the input pictures; their notes name the file.

    Raises:
        Misuse: one cannot be read, or the model takes another number.
    """
    least, most = found.image_count
    if paths and not most:
        raise Misuse(
            f"--image-path {cut(' '.join(paths))}: a {found.kind.pipeline} takes no pictures (task: "
            f"{found.kind.task}); leave it out"
        )
    if least and not paths:
        raise Misuse(f"a {found.kind.pipeline} does {found.kind.task} and needs a picture; give --image-path FILE")
    Checkpoint(path=None, found=found).check_pictures(len(paths), "--image-path names")
    return tuple(_opened(path) for path in paths)


def _opened(path: str) -> Picture:
    from pure.models import PictureError, open_picture

    try:
        picture = open_picture(path)
    except (OSError, PictureError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        raise Misuse(f"--image-path {cut(path)} cannot be read: {reason}; give a local .png, .jpg or .webp") from error
    return picture.named(f"--image-path {path}")

"""Storage of results, and of uploaded pictures where the server keeps them. Clients never choose their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from pure.engine.sample import Sample
from pure.engine.saving import encode_image, save
from pure.engine.writing import write_whole
from pure.serving.jobs import Artifact

__all__ = ["Storage"]


@attrs.frozen
class Storage:
    """Where results and inputs go.

    Attributes:
        folder: of results; None: they are only sent.
        uploads: of input pictures; None: they are not kept.
    """

    folder: Path | None
    uploads: Path | None = None

    def put(self, sample: Sample, frames: np.ndarray, fps: int | None, report: Mapping[str, Any]) -> Artifact:
        """Write frames (F, H, W, 3) in [0, 1]: the one of an image, all of a video at `fps`.

        Raises:
            Failure: the disk refuses.
        """
        form, number = sample.job.form, f"-{sample.number}" if len(sample.job.seeds) > 1 else ""
        if self.folder is None:
            assert fps is None, "videos are refused where nothing is kept"
            content = encode_image(frames[0], form.encoding, form.quality)
            return Artifact(content=content, path=None, report=report)
        path = self.folder / f"{sample.job.id}{number}{form.suffix}"
        save(path, frames, fps, form.quality)
        return Artifact(content=b"", path=str(path.resolve()), report=report)

    def content(self, artifact: Artifact) -> bytes:
        """Return the file of a result."""
        return Path(artifact.path).read_bytes() if artifact.path else artifact.content

    def remove(self, artifacts: Iterable[Artifact]) -> None:
        """Delete files of results."""
        for artifact in artifacts:
            if artifact.path:
                Path(artifact.path).unlink(missing_ok=True)

    def keep(self, name: str, content: bytes) -> None:
        """Write an uploaded picture, if the server keeps them."""
        if self.uploads is not None:
            write_whole(self.uploads / name, content)

    def drop(self, names: Iterable[str]) -> None:
        """Delete uploaded pictures that were kept."""
        if self.uploads is not None:
            for name in names:
                (self.uploads / name).unlink(missing_ok=True)

"""Files of results, and of uploaded pictures where the server keeps them. Clients never choose their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from pure.engine.saving import encode_image, save_video
from pure.engine.writing import write_whole
from pure.serving.jobs import Output, Sample

__all__ = ["Files"]


@attrs.frozen
class Files:
    """Where results and inputs go.

    Attributes:
        folder: of results; None: they are only sent.
        uploads: of input pictures; None: they are not kept.
    """

    folder: Path | None
    uploads: Path | None = None

    def put(self, sample: Sample, frames: np.ndarray, fps: int | None, report: Mapping[str, Any]) -> Output:
        """Write frames (F, H, W, 3) in [0, 1]: the one of an image, all of a video at `fps`.

        Raises:
            Failure: the disk refuses.
        """
        form = sample.job.form
        number = f"-{sample.number}" if len(sample.job.seeds) > 1 else ""
        path = self.folder / f"{sample.job.id}{number}{form.suffix}" if self.folder is not None else None
        if fps is not None:
            assert path is not None, "videos are refused where nothing is kept"
            save_video(path, frames, fps)
            return Output(content=b"", path=str(path.resolve()), report=report)
        content = encode_image(frames[0], form.encoding, form.quality)
        if path is not None:
            write_whole(path, content)
        return Output(content=b"" if path else content, path=str(path.resolve()) if path else None, report=report)

    def content(self, output: Output) -> bytes:
        """Return the file of a result."""
        return Path(output.path).read_bytes() if output.path else output.content

    def remove(self, outputs: Iterable[Output]) -> None:
        """Delete files of results."""
        for output in outputs:
            if output.path:
                Path(output.path).unlink(missing_ok=True)

    def keep(self, name: str, content: bytes) -> None:
        """Write an uploaded picture, if the server keeps them."""
        if self.uploads is not None:
            write_whole(self.uploads / name, content)

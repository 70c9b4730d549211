"""One image or video to make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Sample:
    """One image or video to make: what the engine batches.

    Attributes:
        prompt: what it shows.
        seed: of its starting noise.
        path: the file it goes to; None: no file.
        job: in a server, the job that it belongs to, and
        number: its place among the job's results.
    """

    prompt: str
    seed: int
    path: Path | None = None
    job: Any = None
    number: int = 0

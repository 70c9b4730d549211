"""What the libraries print while they load, kept off the screen."""

from __future__ import annotations

import os


def quiet_libraries() -> None:
    """Keep progress bars and advice of the libraries off the screen."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import diffusers.utils.logging
    import transformers.utils.logging

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()

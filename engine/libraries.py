"""What the libraries print while they load, kept off the screen."""

from __future__ import annotations

import logging
import os
import warnings


def quiet_imports() -> None:
    """Keep off the screen what libraries say to developers: warnings, and what torchao logs while it is imported.

    Our own notes are still printed.
    """
    warnings.simplefilter("ignore")
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


def quiet_libraries() -> None:
    """Keep progress bars and advice of the libraries off the screen."""
    quiet_imports()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import diffusers.utils.logging
    import transformers.utils.logging

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()

"""What libraries print while they load, kept off the screen for as long as that takes."""

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator

FOR_DEVELOPERS = ("torchao", "torch.utils._pytree")
LIBRARIES = ("diffusers", "transformers")
ONE = threading.RLock()
"""Levels and filters are of the whole process: of two that load, one would keep what the other has set."""


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Within it no progress bars, advice or warnings of the libraries are shown; errors are, and ours."""
    with ONE, warnings.catch_warnings(), _errors_only(FOR_DEVELOPERS):
        warnings.simplefilter("ignore")
        import diffusers  # noqa: F401  (both set up their loggers when they are imported)
        import huggingface_hub.utils as hub
        import transformers.utils.logging as bars

        had, off = bars.is_progress_bar_enabled(), hub.are_progress_bars_disabled()
        bars.disable_progress_bar()
        try:
            with _errors_only(LIBRARIES):
                yield
        finally:
            if had:
                bars.enable_progress_bar()
            (hub.disable_progress_bars if off else hub.enable_progress_bars)()  # which follow the others


@contextlib.contextmanager
def _errors_only(names: tuple[str, ...]) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

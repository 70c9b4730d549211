"""The libraries that a part of the package needs and its core does not: whether they are there, and how to get them."""

import importlib

from pure.engine.errors import Misuse

__all__ = ["require"]

EXTRAS = {
    "plot": ("matplotlib and scikit-image", ("matplotlib", "skimage.metrics")),
    "video": ("imageio with ffmpeg", ("imageio_ffmpeg",)),
    "serve": ("FastAPI and uvicorn", ("fastapi", "uvicorn", "python_multipart")),
}


def require(extra: str, what: str, error: type[Exception] = Misuse) -> None:
    """Check that the libraries of an extra are installed.

    Args:
        extra: "plot", "video" or "serve".
        what: needs them, as the message begins.
        error: that is raised.

    Raises:
        Misuse: one is not; the message says how to install them.
    """
    libraries, modules = EXTRAS[extra]
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as missing:
        raise error(f"{what} needs {libraries} ({missing}); pip install 'puredit[{extra}]'") from missing

"""What `puredit generate` has finished, and the libraries that showing it needs."""

import attrs

from pure.engine.comparing import Comparison
from pure.engine.errors import Misuse
from pure.engine.result import Result

__all__ = ["Made", "require_plot_extra", "require_video_extra"]


@attrs.frozen(kw_only=True, eq=False)
class Made:
    """One finished sample: the result, and with `--compare` the one without a cache."""

    result: Result
    plain: Result | None = None
    comparison: Comparison | None = None


def require_plot_extra(flag: str) -> None:
    """Check that the libraries for measuring and drawing are there.

    Raises:
        Misuse: they are not; the message says how to install them.
    """
    try:
        import matplotlib
        import skimage.metrics  # noqa: F401
    except ImportError as error:
        raise Misuse(f"{flag} needs matplotlib and scikit-image ({error}); pip install 'puredit[plot]'") from error
    matplotlib.use("Agg")


def require_video_extra(why: str) -> None:
    """Check that the video encoder is there; `why` says what needs it.

    Raises:
        Misuse: it is not; the message says how to install it.
    """
    try:
        import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise Misuse(f"{why}, which needs imageio with ffmpeg ({error}); pip install 'puredit[video]'") from error

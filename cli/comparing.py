"""How far an image with a cache is from the one without: PSNR and SSIM of a library, on float images."""

import math
from typing import Any

import attrs
import numpy as np

from pure.engine.errors import Misuse
from pure.engine.result import Result

__all__ = ["Comparison", "Made", "compare", "require_plot_extra", "require_video_extra"]


@attrs.frozen(kw_only=True)
class Comparison:
    """Distance of two images and ratio of two times.

    Attributes:
        psnr: peak signal-to-noise ratio in dB, infinite for equal images.
        ssim: structural similarity, 1 for equal images.
        ratio: seconds of the denoising loop without the cache / with it.
        frame: index of the frame of a video where the two differ most; 0 of an image.
    """

    psnr: float
    ssim: float
    ratio: float
    frame: int = 0


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


def compare(plain: np.ndarray, cached: np.ndarray, plain_seconds: float, cached_seconds: float) -> Comparison:
    """Compare frames (F, H, W, 3) in [0, 1] and the times they took; SSIM is the mean over the frames."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    if np.array_equal(plain, cached):
        psnr = math.inf
    else:
        psnr = float(peak_signal_noise_ratio(plain, cached, data_range=1.0))
    window = min(7, *plain.shape[1:3])
    size = window - 1 + window % 2
    similar: list[Any] = [
        structural_similarity(before, after, data_range=1.0, channel_axis=2, win_size=size)
        for before, after in zip(plain, cached, strict=True)
    ]
    return Comparison(
        psnr=psnr,
        ssim=float(np.mean(similar)),
        ratio=plain_seconds / cached_seconds,
        frame=int(np.square(plain - cached).mean(axis=(1, 2, 3)).argmax()),
    )

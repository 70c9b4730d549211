"""How far an image with a cache is from the one without: PSNR and SSIM of a library, on float images."""

import math
from typing import Any

import attrs
import numpy as np

from pure.cli.errors import Misuse

__all__ = ["Comparison", "compare", "require_plot_extra"]


@attrs.frozen(kw_only=True)
class Comparison:
    """Distance of two images and ratio of two times.

    Attributes:
        psnr: peak signal-to-noise ratio in dB, infinite for equal images.
        ssim: structural similarity, 1 for equal images.
        ratio: seconds of the denoising loop without the cache / with it.
    """

    psnr: float
    ssim: float
    ratio: float


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


def compare(plain: np.ndarray, cached: np.ndarray, plain_seconds: float, cached_seconds: float) -> Comparison:
    """Compare two float images (H, W, 3) in [0, 1] and the times they took."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    if np.array_equal(plain, cached):
        psnr = math.inf
    else:
        psnr = float(peak_signal_noise_ratio(plain, cached, data_range=1.0))
    window = min(7, *plain.shape[:2])
    ssim: Any = structural_similarity(plain, cached, data_range=1.0, channel_axis=2, win_size=window - 1 + window % 2)
    return Comparison(psnr=psnr, ssim=float(ssim), ratio=plain_seconds / cached_seconds)

"""How far an image with a cache is from the one without: PSNR and SSIM of a library, on float images."""

import math
from typing import Any

import attrs
import numpy as np

__all__ = ["Comparison", "amplification", "compare", "panels"]


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

    @property
    def line(self) -> str:
        """PSNR and SSIM, as they stand above a drawing."""
        psnr = "images equal" if math.isinf(self.psnr) else f"PSNR {self.psnr:.1f} dB"
        return f"{psnr}   |   SSIM {self.ssim:.3f}"


def compare(plain: np.ndarray, cached: np.ndarray, plain_seconds: float, cached_seconds: float) -> Comparison:
    """Compare frames (F, H, W, 3) in [0, 1] and the times they took; SSIM is the mean over the frames.

    Its windows are 7 x 7 pixels, of smaller pictures 5 x 5 or 3 x 3. A side of 1 or 2 pixels leaves one pixel, of which
    SSIM compares the brightness.
    """
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    if np.array_equal(plain, cached):
        psnr = math.inf
    else:
        psnr = float(peak_signal_noise_ratio(plain, cached, data_range=1.0))
    window = min(7, *plain.shape[1:3])
    size = window - 1 + window % 2
    similar: list[Any] = [
        structural_similarity(
            before, after, data_range=1.0, channel_axis=2, win_size=size, use_sample_covariance=size > 1
        )
        for before, after in zip(plain, cached, strict=True)
    ]
    return Comparison(
        psnr=psnr,
        ssim=float(np.mean(similar)),
        ratio=plain_seconds / cached_seconds,
        frame=int(np.square(plain - cached).mean(axis=(1, 2, 3)).argmax()),
    )


def amplification(difference: np.ndarray) -> int:
    """Return the power of two, 1 to 64, that makes the largest differences just visible.

    >>> amplification(np.full((2, 2, 3), 0.1))
    8
    """
    largest = float(np.quantile(difference, 0.999))
    return 1 if largest <= 0 else int(min(64, max(1, 2 ** math.floor(math.log2(1 / largest)))))


def panels(plain: np.ndarray, cached: np.ndarray, at: int) -> list[tuple[str, np.ndarray]]:
    """Return title and pixels of three pictures: frame `at` of both runs, (F, H, W, 3), and its difference."""
    where = f", frame {at + 1} of {len(cached)}" if len(cached) > 1 else ""
    difference = np.abs(plain[at] - cached[at])
    factor = amplification(difference)
    named = "largest difference" if where else "difference"
    return [
        (f"without cache{where}", plain[at]),
        (f"with cache{where}", cached[at]),
        (f"{named}, amplified {factor}x" if factor > 1 else named, np.clip(difference * factor, 0, 1)),
    ]

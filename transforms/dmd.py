r"""DMD: extrapolate the middle residual by the linear map that best takes each computed one to the next.

With the residuals of the last $n$ computed steps, a distance $h$ apart, as columns $X = (r_1 \dots r_{n-1})$ and
$X' = (r_2 \dots r_n)$, and the leading part of $X = U S V^\top$:

$$\tilde A = U^\top X' V S^{-1} = W \Lambda W^{-1}, \qquad \Phi = X' V S^{-1} W, \qquad
b = \arg\min_b \lVert \Phi b - r_n \rVert, \qquad \hat r(t_n + k) = \mathrm{Re}\; \Phi\, \Lambda^{k/h}\, b$$

The columns of $\Phi$ are sums of residuals, so the prediction is one weighted sum of them; its weights follow from
their inner products alone.
"""

import itertools
from collections.abc import Sequence

import attrs
import numpy as np

from pure.checks import number, whole
from pure.transforms.extrapolation import Extrapolation
from pure.transforms.taylorseer import taylorseer

__all__ = ["dmd"]

LEAST = 4
"""Computed steps at equal distances that a fit needs: a pair of complex eigenvalues spends two of three pairs."""

LEADING = 1e-4
"""Singular values below this part of the largest are noise."""

PRECISION = 1e-7
"""Of singular values that are roots of inner products in float64."""

FALLBACK = taylorseer(order=1)


def _tail(times: Sequence[int]) -> int:
    """Return how many of the newest computed steps are at equal distances."""
    known = [time for time in times if time >= 0]
    gaps = [new - old for new, old in itertools.pairwise(known)]
    same = next((place for place, gap in enumerate(gaps) if gap != gaps[0]), len(gaps))
    return same + 1 if known else 0


def _leading(products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the singular values, largest first, and right singular vectors of what has these inner products."""
    squares, vectors = np.linalg.eigh(products)
    return np.sqrt(np.maximum(squares[::-1], 0.0)), vectors[:, ::-1]


def _fit(products: np.ndarray, rank: int, ridge: float, distance: float) -> np.ndarray | None:
    """Return the weights of n residuals, oldest first, from their inner products; None where there is no fit.

    Args:
        products: (n, n) inner products, oldest first.
        rank: most singular values that count; 0: those that are no noise.
        ridge: added to singular values before they are inverted.
        distance: from the newest residual, in distances between two of them.
    """
    if not np.isfinite(products).all() or not products[:-1, :-1].any():
        return None
    sizes, vectors = _leading(products[:-1, :-1])
    wanted = rank if rank > 0 else max(1, int((sizes > LEADING * sizes[0]).sum()))
    wanted = min(wanted, int((sizes > PRECISION * sizes[0]).sum()))
    sizes, vectors = sizes[:wanted], vectors[:, :wanted]
    inverse = vectors / (sizes + ridge)
    values, modes = np.linalg.eig((vectors / sizes).T @ products[:-1, 1:] @ inverse)
    columns = inverse @ modes  # of residuals 2 to n, one column a mode
    lengths, turned = _leading(products[1:, 1:])
    root = lengths[:, None] * turned.T  # what takes the place of X': it has the same inner products
    shares = np.linalg.lstsq(root @ columns, root[:, -1].astype(complex), rcond=PRECISION)[0]
    found = (columns @ (values.astype(complex) ** distance * shares)).real
    return np.array([0.0, *found]) if np.isfinite(found).all() else None


@attrs.frozen(kw_only=True)
class dmd(Extrapolation):
    """Extrapolate skipped middles by dynamic mode decomposition; the transform is the predictor, too.

    Exact on sums of exponentials, damped, growing or swinging, where the last computed steps are at equal distances.
    With fewer than 4 such steps it is `taylorseer(order=1)`, and where nothing can be fitted it repeats the last
    residual. Every sample has its own fit. Its weights depend on the residuals, so every skipped step reads inner
    products back from the device, gradients take the weights as given, and a `pure.program` refuses it.

    Args:
        history: most computed steps that are fitted, 4 to 64; each is a residual that every sample remembers.
        rank: most singular values that count; 0: those above 1e-4 of the largest.
        ridge: added to singular values before they are inverted, at least 0.
        on: "residual" extrapolates what the middle blocks add; "hidden" extrapolates their output.
        streams: names of the streams to extrapolate; the others hold. None: those the head reads; "all":
            every stream.

    Raises:
        ValueError: a value is out of range, or a stream has no such name.

    >>> dmd().weights((6, 4, -1, -1, -1, -1), 7, 0)[:2]  # nothing to fit yet: TaylorSeer's
    (1.5, -0.5)

    Reference: Schmid, "Dynamic mode decomposition of numerical and experimental data", J. Fluid Mech. 656 (2010). The
    numbers are those of cache-dit 1.5.3.
    """

    order: int = attrs.field(default=1, init=False, repr=False)
    history: int = attrs.field(  # type: ignore[assignment]  # a property in the base
        default=6, validator=whole(LEAST, "the number of computed steps", most=64)
    )
    rank: int = attrs.field(default=0, validator=whole(0, "the number of singular values (0: found)"))
    ridge: float = attrs.field(default=1e-8, validator=number(0.0, "the ridge"))

    def fits(self, times: Sequence[int]) -> bool:
        """Whether the last computed steps can be fitted: at least 4 at equal distances."""
        return _tail(times) >= LEAST

    def weights(self, times: Sequence[int], target: int, first: int) -> tuple[float, ...]:
        """Return the weights where nothing is fitted: those of `taylorseer(order=1)`."""
        newest = FALLBACK.weights(tuple(times)[:2], target, first)
        return newest + (0.0,) * (len(times) - len(newest))

    def fitted(self, products: np.ndarray, times: Sequence[int], target: int) -> tuple[float, ...]:
        """Return the weights of the last residuals, newest first; see the module's equations.

        Args:
            products: (K, K) inner products of one sample's residuals, newest first.
            times: indices of the K steps, newest first, that `fits`.
            target: index of the step to fill in.
        """
        size = _tail(times)
        oldest_first = products[:size, :size][::-1, ::-1]
        distance = (target - times[0]) / (times[0] - times[1])
        try:
            found = _fit(oldest_first, self.rank, self.ridge, distance)
        except np.linalg.LinAlgError:  # no eigenvalues were found
            found = None
        newest = (1.0,) + (0.0,) * (size - 1) if found is None else tuple(map(float, found[::-1]))
        return newest + (0.0,) * (len(times) - size)

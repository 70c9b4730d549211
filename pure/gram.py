r"""What filling in would cost, from inner products of recorded residuals alone.

Of a recorded run only the Gram matrix $G_{st} = \langle r_s, r_t \rangle$ of its residuals is kept. It holds the
error of every prediction of every step from every history:

$$\hat r_t = \sum_j w_j r_{t_j}, \qquad \lVert r_t - \hat r_t \rVert^2 = v^T G\, v, \quad v = e_t - \sum_j w_j e_{t_j}$$

and with it the weights of the least error, under $\sum_j w_j = 1$ (a residual that does not change is repeated).

Shapes: T steps, K steps of a history.
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["error_vector", "fitted_weights", "gram_matrix"]

RIDGE = 1e-6


def gram_matrix(residuals: np.ndarray) -> np.ndarray:
    """Return the inner products (T, T) of residuals (T, N), scaled so that the mean of their squares is 1.

    >>> gram_matrix(np.array([[3.0, 4.0], [0.0, 5.0]]))
    array([[1. , 0.8],
           [0.8, 1. ]])
    """
    wide = residuals.astype(np.float64)
    found = wide @ wide.T
    mean = float(np.trace(found)) / len(found)
    return found / mean if mean > 0 else found


def fitted_weights(gram: np.ndarray, history: Sequence[int], target: int, ridge: float = RIDGE) -> np.ndarray:
    """Return the weights (K,) of the least error that add up to 1.

    Args:
        gram: (T, T).
        history: indices of K computed steps, newest first.
        target: index of the step to predict.
        ridge: keeps weights small where steps are nearly alike, relative to the mean difference of them.

    >>> line = gram_matrix(np.array([[1.0, t] for t in range(5)]))
    >>> fitted_weights(line, (2, 1), 4).round(3)
    array([ 3., -2.])
    """
    newest, rest = history[0], list(history[1:])
    if not rest:
        return np.ones(1)
    apart = gram[rest][:, rest] - gram[rest, newest][:, None] - gram[newest, rest] + gram[newest, newest]
    wanted = gram[rest, target] - gram[rest, newest] - gram[newest, target] + gram[newest, newest]
    size = float(np.trace(apart)) / len(rest)
    if size <= 0:
        return np.array([1.0, *[0.0] * len(rest)])
    found = np.linalg.solve(apart + ridge * size * np.eye(len(rest)), wanted)
    return np.array([1 - found.sum(), *found])


def error_vector(count: int, history: Sequence[int], target: int, weights: np.ndarray) -> np.ndarray:
    """Return v (T,) of the module's equation: what a prediction is off by, in terms of the residuals.

    >>> error_vector(4, (1, 0), 3, np.array([2.0, -1.0]))
    array([ 1., -2.,  0.,  1.])
    """
    found = np.zeros(count)
    found[target] = 1.0
    found[list(history)] -= weights
    return found

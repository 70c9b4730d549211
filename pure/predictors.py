r"""How to fill in: predictors as linear weights over the last computed residuals.

$$\hat r(t) = \sum_{j<K} w_j(t_0, \dots, t_{K-1}; t)\, r(t_j)$$

with the computed steps $t_0 > t_1 > \dots$, newest first.
"""

from collections.abc import Sequence
from typing import Protocol

import attrs
import numpy as np
import torch


class Predictor(Protocol):
    """The protocol of predictors: hashable records, the same weights for all tensors of a stream.

    Attributes:
        on: "residual" predicts what the middle blocks add, "hidden" their output itself.
        streams: names of the streams it is for; the others hold. None: the streams the head
            reads; "all": every stream.
    """

    @property
    def history(self) -> int:
        """How many computed steps it looks back to (K)."""
        ...

    @property
    def on(self) -> str:
        """What is predicted: "residual" or "hidden"."""
        ...

    @property
    def streams(self) -> tuple[str, ...] | str | None:
        """Which streams it predicts."""
        ...

    def weights(self, times: Sequence[int], target: int, first: int) -> Sequence[float] | torch.Tensor:
        """Return K weights; as a tensor (K,) they can have a gradient.

        Args:
            times: indices of the last K computed steps, newest first; -1 where there is none yet.
            target: index of the step to fill in.
            first: index of the first computed step of the run.
        """
        ...


class Fitted(Predictor, Protocol):
    """A predictor whose weights also depend on what it predicts from: it has these two methods, too."""

    def fits(self, times: Sequence[int]) -> bool:
        """Whether the weights of a row with these times are `fitted`; else they are its `weights`."""
        ...

    def fitted(self, products: np.ndarray, times: Sequence[int], target: int) -> Sequence[float]:
        """Return K weights of one row.

        Args:
            products: (K, K) float64, inner products of what the row remembers, newest first; over all ranks where
                these divide the tokens.
            times: indices of the last K computed steps, newest first; -1 where there is none yet.
            target: index of the step to fill in.
        """
        ...


@attrs.frozen
class Hold:
    """Repeat the newest residual: order 0.

    >>> Hold().weights((5,), 7, 0)
    (1.0,)
    """

    history: int = attrs.field(default=1, init=False, repr=False)
    on: str = attrs.field(default="residual", init=False, repr=False)
    streams: str = attrs.field(default="all", init=False, repr=False)

    def weights(self, times: Sequence[int], target: int, first: int) -> tuple[float, ...]:
        """Return the weight 1 of the newest residual."""
        return (1.0,)

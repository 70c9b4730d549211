"""Which part of which parameter every rank holds under tensor parallelism, as data beside a model.

A placement says of the parameters under a name pattern along which dimension they are split,
and what a product with a part needs from the other ranks. `pure.distributed.tensor_parallel`
follows it; the model itself is written for one device, and sees fewer heads and narrower
feed-forward networks.
"""

import enum
import fnmatch

import attrs


class Kind(enum.Enum):
    """How parameters are split.

    COLUMN: by outputs, rows of the weight and of the bias; every rank goes on with its own outputs.
    ROW: by inputs, columns of the weight; what the ranks get is added, then the bias, once.
    GATHERED: by outputs, which are then put together: every rank has all of them.
    NORM: the scale of features that are split; their mean square is taken over all ranks.
    """

    COLUMN = "column"
    ROW = "row"
    GATHERED = "gathered"
    NORM = "norm"


@attrs.frozen
class Part:
    """Consecutive features that are dealt to the ranks, each rank a run of units: heads, or single features."""

    count: int
    width: int = 1

    @property
    def features(self) -> int:
        """How many features there are.

        >>> Part(24, 128).features
        3072
        """
        return self.count * self.width


@attrs.frozen
class Placement:
    """Where the parameters under one name pattern go.

    Attributes:
        pattern: of names without ".weight" and ".bias", as a shell writes it: `blocks.*.attn.to_[qkv]`.
        kind: how they are split.
        parts: of the dimension that is split, in their order. Each is dealt on its own, so that of
            fused projections a rank holds the parts that belong together.
    """

    pattern: str
    kind: Kind
    parts: tuple[Part, ...]


@attrs.frozen
class Sharding:
    """How a denoiser is split over ranks; what no placement names is on every rank.

    Attributes:
        heads: of its attention; there can be as many ranks.
        placements: of parameters; the first that fits a name holds.
    """

    heads: int
    placements: tuple[Placement, ...]

    def find(self, name: str) -> Placement | None:
        """Return the placement of the parameter of this name, None where every rank has all of it.

        >>> output = Placement("blocks.*.out", Kind.ROW, (Part(2, 4),))
        >>> Sharding(2, (output,)).find("blocks.7.out.weight") == output
        True
        """
        module = name.removesuffix(".weight").removesuffix(".bias")
        return next((each for each in self.placements if fnmatch.fnmatchcase(module, each.pattern)), None)

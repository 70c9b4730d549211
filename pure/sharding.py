"""Which part of which parameter every rank holds under tensor parallelism, as data beside a model.

A placement says of the parameters under a name pattern along which dimension they are split,
and what a product with a part needs from the other ranks. `pure.distributed.tensor_parallel`
follows it; the model itself is written for one device, and sees fewer heads and narrower
feed-forward networks.
"""

import enum
import fnmatch

import attrs
import torch


def shares(total: int, count: int) -> tuple[int, ...]:
    """Divide `total` among `count` ranks as evenly as whole numbers allow, the first ones getting more."""
    least = total // count  # not divmod, which the compiler refuses for symbolic sizes
    more = total - least * count
    return tuple(least + (index < more) for index in range(count))


def start(lengths: tuple[int, ...], index: int) -> int:
    """Return where the share of a rank begins.

    >>> start((3, 2, 2), 2)
    5
    """
    return sum(lengths[:index])


def group_size(ranks: int, most: int) -> int:
    """Return the largest size of at most `most` of equal groups of so many ranks.

    >>> group_size(8, 5)
    4
    """
    return max(size for size in range(1, min(most, ranks) + 1) if ranks % size == 0)


class Kind(enum.Enum):
    """How parameters are split.

    COLUMN: by outputs, rows of the weight and of the bias; every rank goes on with its own outputs.
    ROW: by inputs, columns of the weight; what the ranks get is added, then the bias, once.
    GATHERED: by outputs, which are then put together: every rank has all of them.
    NORM: the scale of features that are split; their mean square is taken over all ranks.
    LOOKUP: a table by columns; every rank looks up its own features.
    TABLE: the same, which are then put together: every rank has all of them.
    """

    COLUMN = "column"
    ROW = "row"
    GATHERED = "gathered"
    NORM = "norm"
    LOOKUP = "lookup"
    TABLE = "table"


COLUMNS = (Kind.ROW, Kind.LOOKUP, Kind.TABLE)
"""Kinds that split columns of a weight; the others split its rows."""


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
class Cut:
    """What one rank holds of a tensor that is split.

    Attributes:
        dim: the dimension that is split.
        runs: where runs of features along it begin and end; what they hold is put together, in their order.
        whole: how many features it has on all ranks together.
    """

    dim: int
    runs: tuple[tuple[int, int], ...]
    whole: int

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuse a tensor of another shape.

        Raises:
            ValueError: its dimension has not the features that are split.
        """
        if len(shape) <= self.dim or shape[self.dim] != self.whole:
            raise ValueError(
                f"{name} is {tuple(shape)}, and its placement splits {self.whole} features of dimension {self.dim}; "
                "the parameters belong to another config than the denoiser"
            )

    def uncut(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the whole tensor of which a rank's part has this shape.

        >>> Cut(1, ((4, 6),), 6).uncut((3, 2))
        (3, 6)
        """
        return *shape[: self.dim], self.whole, *shape[self.dim + 1 :]

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the runs of a whole tensor, as a tensor of its own: all of it would stay alive under a view.

        >>> Cut(0, ((0, 1), (3, 4)), 4).of(torch.arange(4))
        tensor([0, 3])
        """
        return torch.cat([tensor.narrow(self.dim, begin, end - begin) for begin, end in self.runs], dim=self.dim)


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
class Count:
    """A number that modules keep of what is split, such as their heads.

    Attributes:
        pattern: of names of modules; those without the attribute are left alone.
        attribute: what they call it.
        part: what it counts: a rank's number is that of its features.
    """

    pattern: str
    attribute: str
    part: Part


@attrs.frozen
class Sharding:
    """How a denoiser, or a module, is split over ranks; what no placement names is on every rank.

    Attributes:
        heads: of its attention; there can be as many ranks.
        placements: of parameters; the first that fits a name holds.
        counts: of a module; a denoiser keeps no numbers.
    """

    heads: int
    placements: tuple[Placement, ...]
    counts: tuple[Count, ...] = ()

    def find(self, name: str) -> Placement | None:
        """Return the placement of the parameter of this name, None where every rank has all of it.

        >>> output = Placement("blocks.*.out", Kind.ROW, (Part(2, 4),))
        >>> Sharding(2, (output,)).find("blocks.7.out.weight") == output
        True
        """
        module = name.removesuffix(".weight").removesuffix(".bias")
        return next((each for each in self.placements if fnmatch.fnmatchcase(module, each.pattern)), None)

    def cut(self, name: str, rank: int, ranks: int) -> Cut | None:
        """Return what a rank holds of the parameter of this name; None where that is all of it.

        Where ranks do not divide the units of a part, the first ranks hold one more. The bias of a sum is added whole.

        Args:
            name: of the parameter.
            rank: from 0 to `ranks` - 1.
            ranks: how many there are.

        >>> Sharding(3, (Placement("*.out", Kind.ROW, (Part(3, 2),)),)).cut("0.out.weight", rank=1, ranks=2)
        Cut(dim=1, runs=((4, 6),), whole=6)
        """
        placement = self.find(name)
        if placement is None or (placement.kind is Kind.ROW and name.endswith(".bias")):
            return None
        runs, before = [], 0
        for part in placement.parts:
            units = shares(part.count, ranks)
            begin = before + start(units, rank) * part.width
            runs.append((begin, begin + units[rank] * part.width))
            before += part.features
        return Cut(1 if placement.kind in COLUMNS else 0, tuple(runs), before)


def divisible(sharding: Sharding | None, ranks: int) -> Sharding:
    """Return how a denoiser is split over so many ranks.

    Raises:
        ValueError: nothing says how, or it has fewer heads.
    """
    if sharding is None:
        raise ValueError(
            "this denoiser does not say how its parameters are split over ranks (Denoiser.sharding is None); "
            "give axis 'tp' the size 1, or use one of the families in pure.models.registry"
        )
    if ranks > sharding.heads:
        raise ValueError(
            f"the attention has {sharding.heads} heads, fewer than the {ranks} ranks of axis 'tp', which need "
            f"one each; give it the size {sharding.heads} or less, best a divisor of {sharding.heads}, "
            "and the other ranks to ulysses or ring"
        )
    return sharding

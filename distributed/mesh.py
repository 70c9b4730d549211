"""The ranks of a run as a mesh with named axes.

    mesh = make_mesh(Sizes(ring=2, ulysses=2), device="cuda")  # on each of 4 ranks

Ranks along `ring` and `ulysses` hold parts of the sequence, ranks along `tp` parts of the
parameters, ranks along `cfg` a branch of guidance each; groups along `dp` have samples of their own and exchange
nothing. `tp` varies fastest, as it communicates most, and `dp` slowest.
"""

import attrs
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from pure.checks import MOST, check_argument, shown
from pure.sharding import group_size

AXES = ("dp", "cfg", "ring", "ulysses", "tp")


def _positive(sizes: "Sizes", field: attrs.Attribute, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise ValueError(f"the size of axis {field.name!r} is {shown(value)}; give a whole number from 1 on")


def _branches(sizes: "Sizes", field: attrs.Attribute, value: int) -> None:
    if value > 2:
        raise ValueError(f"the size of axis 'cfg' is {value}, and guidance has two branches; give 1 or 2")


@attrs.frozen(kw_only=True)
class Sizes:
    """How many ranks each axis of a mesh has.

    Attributes:
        ring: parts of the sequence between which keys and values go around.
        ulysses: parts of the sequence that become parts of the heads during attention.
        tp: parts of every block's parameters.
        cfg: branches of guidance, 1 or 2.
        dp: groups of all the others, each with samples of its own.

    Raises:
        ValueError: a size is not a whole number from 1 on, or `cfg` is above 2.

    >>> Sizes(ring=2, ulysses=2).total
    4
    """

    ring: int = attrs.field(default=1, validator=_positive)
    ulysses: int = attrs.field(default=1, validator=_positive)
    tp: int = attrs.field(default=1, validator=_positive)
    cfg: int = attrs.field(default=1, validator=(_positive, _branches))

    dp: int = attrs.field(default=1, validator=_positive)

    @property
    def total(self) -> int:
        """The number of ranks."""
        return self.each * self.dp

    @property
    def each(self) -> int:
        """The number of ranks of one group along `dp`."""
        return self.ring * self.ulysses * self.tp * self.cfg


def make_mesh(sizes: Sizes, device: str | torch.device = "cpu") -> DeviceMesh:
    """Return the mesh of these sizes, with axes named "dp", "cfg", "ring", "ulysses" and "tp"; every rank must call it.

    Args:
        sizes: ranks on each axis.
        device: where the denoiser runs; only its type is read.

    Raises:
        RuntimeError: this process is not one of several ranks.
        TypeError: `sizes` are none.
        ValueError: there are more or fewer ranks than the mesh needs.
    """
    check_argument(sizes, Sizes, "a mesh is made of Sizes, such as Sizes(ulysses=2)")
    if not dist.is_initialized():
        raise RuntimeError(
            f"a mesh of {sizes.total} ranks needs processes of one group; start them with "
            "pure.distributed.run, or with torchrun and torch.distributed.init_process_group()"
        )
    if (world := dist.get_world_size()) != sizes.total:
        raise ValueError(
            f"{sizes} is {sizes.total} ranks and {world} are running; start {sizes.total}, "
            f"or give sizes whose product is {world}"
        )
    return init_device_mesh(
        torch.device(device).type, tuple(getattr(sizes, axis) for axis in AXES), mesh_dim_names=AXES
    )


@attrs.frozen
class Axis:
    """One axis of a mesh as one of its ranks sees it.

    Attributes:
        name: of the axis.
        index: place of this rank on it.
        size: ranks on it.
        group: these ranks.
    """

    name: str
    index: int
    size: int
    group: dist.ProcessGroup = attrs.field(repr=False)


def axis(mesh: DeviceMesh, name: str) -> Axis:
    """Return an axis of a mesh.

    Raises:
        ValueError: the mesh has no axis of that name.
        TypeError: this is no mesh.
    """
    check_argument(mesh, DeviceMesh, "a mesh is what pure.distributed.make_mesh returns")
    names = mesh.mesh_dim_names or ()
    if name not in names:
        raise ValueError(
            f"the mesh has no axis {name!r}, its axes are {', '.join(map(repr, names)) or 'without names'}; "
            "make it with pure.distributed.make_mesh"
        )
    return Axis(name, mesh.get_local_rank(name), mesh.size(names.index(name)), mesh.get_group(name))


def companions(mesh: DeviceMesh) -> int:
    """Return how many ranks of a mesh work on the same samples: all but those along "dp", where it has this axis."""
    names = mesh.mesh_dim_names or ()
    return mesh.size() // (mesh.size(names.index("dp")) if "dp" in names else 1)


def neighbours(mesh: DeviceMesh, most: int | None = None) -> Axis:
    """Return the group of neighbouring ranks that this rank is in: equal groups of ranks that work on the same samples.

    Every rank must call it. With 8 ranks and at most 5, two groups of 4 each do the same.

    Args:
        mesh: of `make_mesh`.
        most: ranks of a group; None: all that work on the same samples.

    Raises:
        ValueError: `most` is below 1.
    """
    check_argument(mesh, DeviceMesh, "a mesh is what pure.distributed.make_mesh returns")
    if most is not None and most < 1:
        raise ValueError(f"most={shown(most)}: a group has at least 1 rank")
    size = group_size(companions(mesh), companions(mesh) if most is None else most)
    # Ranks of a group are neighbours in the mesh too, whose slowest axis is "dp".
    group = dist.group.WORLD if size == dist.get_world_size() else dist.new_subgroups(size)[0]
    assert isinstance(group, dist.ProcessGroup)
    return Axis("neighbours", dist.get_rank(group), size, group)

"""How rank 0 has groups of processes work: an order goes to all processes of a group, an answer comes from its first.

Groups along the axis `dp` of a mesh have no other exchange; none ever waits for another.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs
import torch.distributed as dist

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["Line", "make_lines"]

FOR_EVER = timedelta(days=3650)  # a server waits for its next request as long as it takes


@attrs.frozen(kw_only=True, eq=False)
class Line:
    """The line between rank 0 and the processes of one group; one thread at a time uses it.

    Attributes:
        ranks: the processes of the group; the first of them leads it.
        group: they and rank 0.
    """

    ranks: tuple[int, ...]
    group: dist.ProcessGroup

    @property
    def leading(self) -> bool:
        """Whether this process leads the group."""
        return dist.get_rank() == self.ranks[0]

    @property
    def remote(self) -> bool:
        """Whether rank 0 is not in the group."""
        return self.ranks[0] != 0

    def tell(self, order: Any) -> None:
        """Send an order to all processes of the group: on rank 0 only."""
        if self.ranks != (0,):
            dist.broadcast_object_list([order], src=0, group=self.group)

    def hear(self) -> Any:
        """Return the next order: on all ranks of the group but 0."""
        found = [None]
        dist.broadcast_object_list(found, src=0, group=self.group)
        return found[0]

    def answer(self, value: Any) -> None:
        """Answer an order: on the rank that leads the group, where that is not 0."""
        dist.send_object_list([value], dst=0, group=self.group)

    def listen(self) -> Any:
        """Wait for the answer of the group: on rank 0."""
        found = [None]
        dist.recv_object_list(found, src=self.ranks[0], group=self.group)
        return found[0]


def make_lines(mesh: DeviceMesh) -> tuple[Line, ...]:
    """Return the line of every group along the axis `dp`; every rank must call it."""
    dim = (mesh.mesh_dim_names or ()).index("dp")
    lines = []
    for group in mesh.mesh.movedim(dim, 0).flatten(1).tolist():
        ranks = sorted({0, *group})
        made = dist.new_group(ranks, timeout=FOR_EVER, backend="gloo")
        lines.append(Line(ranks=tuple(group), group=made))  # type: ignore[arg-type]
    return tuple(lines)

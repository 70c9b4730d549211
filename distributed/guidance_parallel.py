"""Each branch of guidance on ranks of its own, as a transform.

Shapes: B samples; under guidance a step has 2 B rows, c0 u0 c1 u1 .., see `pure.guidance`.
"""

import attrs
import torch
from torch.distributed.device_mesh import DeviceMesh

from pure import Denoiser, Transform
from pure.distributed.collectives import gather, wait
from pure.distributed.mesh import Axis, axis

__all__ = ["guidance_parallel"]


@attrs.frozen
class guidance_parallel(Transform):
    """Run the conditional branch on the first ranks of axis "cfg" and the unconditional one on the second.

    All ranks call the denoiser with the same inputs, the conditioning of both branches among them, and return the
    same guided prediction. A rank runs the blocks on the rows of its branch only: half the work of a guided step.
    Every rank decides for both branches, by the same rules on the same numbers, so that decisions and `Info` are
    those of one process, `follow="conditional"` included. A guided step costs one collective of the prediction, and
    one of a few numbers where a change is measured.

    The state has the shapes it has in one process: of the rows of the other branch a rank keeps zeros. A request
    without a negative prompt runs whole on every rank. Its place in a composition does not matter; it goes with
    `context_parallel`, `tensor_parallel` and `tensor_agreement`. With one rank on the axis it changes nothing.

    Args:
        mesh: of `make_mesh`; its axis "cfg" has 1 or 2 ranks.

    Raises:
        ValueError: the mesh has no such axis, or branches are divided already; or, from `init`, guidance covers a part
            of the steps only.
    """

    mesh: DeviceMesh

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Divide the branches."""
        along = axis(self.mesh, "cfg")
        if along.size == 1:
            return denoiser
        if denoiser.branching is not None:
            raise ValueError("the branches are divided twice; compose guidance_parallel(...) once")
        return attrs.evolve(denoiser, branching=BranchPerRank(along))


@attrs.frozen
class BranchPerRank:
    """The ranks of axis "cfg", each with the branch of its place on it."""

    along: Axis

    @property
    def index(self) -> int:
        """The branch of this rank."""
        return self.along.index

    @property
    def count(self) -> int:
        """The number of branches."""
        return self.along.size

    def together(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rows of both branches (2 B, ...), one after the other of each sample, of this rank's (B, ...)."""
        return wait(gather(x.unsqueeze(0), self.along.group)).transpose(0, 1).flatten(0, 1)

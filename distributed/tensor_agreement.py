"""One decision for all ranks that hold parts of the same parameters, as a transform."""

from collections.abc import Callable

import attrs
import torch
from torch.distributed.device_mesh import DeviceMesh

from pure import Denoiser, Transform
from pure.distributed.collectives import gather, wait
from pure.distributed.mesh import Axis, axis

__all__ = ["tensor_agreement"]

Agree = Callable[[torch.Tensor], torch.Tensor]


@attrs.frozen
class tensor_agreement(Transform):
    """Let the ranks of axis "tp" decide by what the first of them has measured.

    With the same kernels all have the same numbers, to the last bit. But compilers choose kernels
    by timing them, on every rank for itself, and another kernel may round another way; ranks
    that then decide differently would wait for each other for ever. It costs one collective of
    a few numbers where a change is measured, and nothing elsewhere.

    Compose it after `context_parallel`, if there is one. With one rank it changes nothing.

    Args:
        mesh: of `make_mesh`.
    """

    mesh: DeviceMesh

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Take the first rank's sums of the change."""
        along = axis(self.mesh, "tp")
        return denoiser if along.size == 1 else attrs.evolve(denoiser, agree=First(denoiser.agree, along))


@attrs.frozen
class First:
    """What the first rank of an axis has measured, after the ranks that divide tokens have agreed."""

    before: Agree | None
    along: Axis

    def __call__(self, sums: torch.Tensor) -> torch.Tensor:
        """Return the sums of the change (K, B) of the first rank."""
        sums = sums if self.before is None else self.before(sums)
        return wait(gather(sums.unsqueeze(0), self.along.group))[0]

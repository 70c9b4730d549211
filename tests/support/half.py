"""Half precision on kernels that round differently: neither library is right, fp32 is."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


def assert_as_near(found: torch.Tensor, theirs: torch.Tensor, exact: torch.Tensor) -> None:
    """Check that half-precision numbers are as near to those of fp32 as another library's are.

    How far either is depends on the processor's kernels, the steps and the strength of guidance, all of which the
    other library's error measures. Two errors of one size differ in norm by less than half of it.
    """
    ours, others = (float((x.double() - exact.double()).norm()) for x in (found, theirs))
    assert others > 0, "the other library computed in fp32"
    assert ours <= 1.5 * others, f"{ours:.3e} from fp32, where the other library is {others:.3e} from it"


@contextlib.contextmanager
def rounding_once(pipeline: Any) -> Iterator[None]:
    """Let a diffusers pipeline take steps in fp32 and round once a step, as `pure.FlowMatchEuler` does.

    Its own scheduler rounds the product of a step, too; without that, all else is equal to the last bit.
    """
    scheduler, step = pipeline.scheduler, pipeline.scheduler.step

    def wide(prediction: torch.Tensor, timestep: Any, latents: torch.Tensor, **options: Any) -> tuple[torch.Tensor]:
        moved = step(prediction.float(), timestep, latents.float(), **options)
        return (moved[0].to(prediction.dtype),)

    scheduler.step = wide
    try:
        yield
    finally:
        del scheduler.step

"""What a plan measures, checked before a run: that it names something, and what it names."""

from collections.abc import Callable

import torch

from pure.checks import shown
from pure.plan import Plan

__all__ = ["check_probe", "named"]


def named(of: Callable, found: object, batch: int) -> torch.Tensor:
    """Return what a probe names, once it is known to be comparable."""
    if isinstance(found, torch.Tensor) and found.is_floating_point() and found.ndim > 1 and len(found) == batch:
        return found
    got = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
    raise ValueError(
        f"Probe(of={shown(of)}) returned {got}; return a tensor ({batch}, N, D) of real numbers, one row a sample"
    )


def check_probe(plan: Plan) -> None:
    """Refuse a rule that judges changes where nothing can be measured.

    Raises:
        ValueError: there are no front blocks, and the probe names nothing else.
    """
    front = 0 if plan.span is None else plan.span.front
    judging = next((rule for rule in plan.rules if rule.measures), None)
    each = plan.span is not None and plan.span.each
    if judging is not None and front == 0 and not each and (plan.probe is None or plan.probe.fronted):
        raise ValueError(
            f"{judging} judges how much a step changes what the front blocks add, and the plan has no front blocks: "
            "set span=Span(front=1), or the probe to Probe(of=...)"
        )

"""What the rules of a plan are as numbers: an action a step, and limits; and what cannot be written so."""

from __future__ import annotations

import torch

from pure.denoiser import Denoiser
from pure.measure import EVERYTHING
from pure.rules import Accumulated, Continuous, Entries, Rules, Threshold, Total, Warmup, find

COMPUTE, SKIP, DEFER = range(3)
KNOWN = (Warmup, Entries, Total, Continuous, Accumulated, Threshold)


def action(rules: Rules, index: int) -> int:
    """Return what the rules say of a step that depends on its index alone."""
    if not rules or index == 0:
        return COMPUTE
    for rule in rules:
        if isinstance(rule, Warmup) and index < rule.steps and index % rule.interval == 0:
            return COMPUTE
        if isinstance(rule, Entries) and index < len(rule.entries) and rule.entries[index]:
            return COMPUTE
        if isinstance(rule, Entries) and rule.policy == "static":
            return SKIP
    bounds = [rule for rule in rules if isinstance(rule, Total | Continuous | Accumulated)]
    threshold = find(rules, Threshold)
    if threshold is None or any(rule.forbids for rule in bounds):
        return COMPUTE
    assert isinstance(threshold, Threshold)
    return COMPUTE if threshold.value <= 0 else DEFER


def limits(rules: Rules) -> torch.Tensor:
    """Return (4,) float64: most skipped, most in a row, accumulated change, threshold; infinite where there is none."""
    return torch.tensor([_limit(rules, kind) for kind in (Total, Continuous, Accumulated, Threshold)]).double()


def _limit(rules: Rules, kind: type) -> float:
    rule = find(rules, kind)
    return float("inf") if rule is None else float(getattr(rule, "limit", getattr(rule, "value", 0.0)))


def check_writable(denoiser: Denoiser, rules: Rules, static: bool) -> None:
    """Refuse what cannot be written as tensors.

    Args:
        denoiser: transformed.
        rules: of its plan, settled.
        static: whether every decision is known beforehand.

    Raises:
        ValueError: a rule, the predictor, the guidance or the probe cannot; the message names it.
    """
    plan, guidance = denoiser.plan, denoiser.guidance
    if own := [rule for rule in rules if type(rule) not in KNOWN]:
        by = plan.owners.get(type(own[0])) or own[0]
        raise ValueError(f"{by} decides in Python, and a program cannot look into it; use a mask or a threshold")
    if fitted := next((stream.predictor for stream in denoiser.pieces.kept if stream.looks), None):
        raise ValueError(
            f"{fitted} is fitted to residuals in Python, and a program cannot look into it; use taylorseer(...) or "
            "another predictor whose weights depend on steps only"
        )
    if denoiser.pieces.parts:
        by = plan.owners.get("span") or plan.span
        raise ValueError(f"{by} decides block by block, and a program once a step; use dbcache(...)")
    probe = plan.probe or EVERYTHING
    measured = not static and denoiser.pieces.probing  # a mask for all steps leaves nothing to the threshold
    if guidance is not None and not guidance.always:
        raise ValueError(f"{guidance} guides a part of the run, and a program is one for all steps; guide all of them")
    if guidance is not None and measured and probe.follow != "conditional":
        raise ValueError(
            "under guidance each branch would decide for itself, and a program takes one decision: set "
            "dbcache(follow='conditional'), or use a static mask"
        )
    if measured and (probe.importance > 0 or probe.since != "last computed" or probe.polynomial is not None):
        raise ValueError(f"{probe} is measured in Python; a program compares all tokens with the last computed step")

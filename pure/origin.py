"""What a saved state is of: the model, the plan, the schedule and the step, as text that a file can hold."""

import hashlib
import re
from collections.abc import Mapping, Sequence

import attrs
import torch

from pure.block import Bound, Weights
from pure.denoiser import Denoiser
from pure.experts import Experts, denoisers_of
from pure.step import Step, check_steps

__all__ = ["Origin", "fingerprint", "origin_of"]

SOME = 8
"""Numbers of every tensor that are read."""


@attrs.frozen(kw_only=True)
class Origin:
    """What a saved state belongs to; it is loaded into nothing else.

    Attributes:
        model: fingerprint of the parameters; None of those that are quantised or divided among ranks.
        plan: span, rules, predictor and probe, and the guidance, as they are shown; of every expert.
        schedule: number of steps, noise levels, and a digest of all of them.
        step: number of steps that were taken; None where it is not known.
    """

    model: str | None
    plan: str
    schedule: str
    step: int | None = None

    def differences(self, other: "Origin") -> list[str]:
        """Say in what two differ, with both sides; what is not known of one differs from nothing."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in attrs.fields_dict(Origin)}
        return [
            f"the state is of {name} {theirs}, this is {name} {ours}"
            for name, (theirs, ours) in pairs.items()
            if theirs != ours and None not in (theirs, ours)
        ]


def origin_of(denoiser: Denoiser | Experts, params: Weights, steps: Sequence[Step], step: int | None = None) -> Origin:
    """Return what a state of a run is of, for `save_state` and `load_state`.

    Args:
        denoiser: with its plan.
        params: of it.
        steps: the schedule of the whole run.
        step: number of steps that were taken.

    Raises:
        TypeError: `steps` are none.
        ValueError: there are no steps, or `step` is not in 0 to their number.
    """
    check_steps(steps)
    if step is not None and not 0 <= step <= len(steps):
        raise ValueError(f"step is {step} of a run of {len(steps)}; give how many of its steps were taken")
    named = denoisers_of(denoiser).items()
    plans = [f"{name}{': ' * bool(name)}{one.plan}, guidance {one.guidance}" for name, one in named]
    # Functions are shown with their addresses, which are others in another process.
    plan = re.sub(r" at 0x[0-9a-f]+", "", "; ".join(plans))
    return Origin(model=fingerprint(params), plan=plan, schedule=_schedule(steps), step=step)


def _schedule(steps: Sequence[Step]) -> str:
    found = hashlib.sha256()
    for step in steps:
        levels = [None if level is None else level.tolist() for level in (step.timestep, step.sigma, step.sigma_next)]
        found.update(repr((step.index, step.count, step.expert, levels)).encode())
    first, last = steps[0].sigma, steps[-1].sigma_next
    ends = "" if first is None or last is None or first.ndim or last.ndim else f" from {first:.4f} to {last:.4f}"
    return f"{len(steps)} steps{ends} ({found.hexdigest()[:8]})"


def fingerprint(params: Weights) -> str | None:
    """Return 16 hexadecimal digits that tell weights apart, whatever type their numbers are loaded in.

    None of weights that are quantised or divided among ranks: their numbers are others.
    """
    found = hashlib.sha256()
    for group in _groups(params):
        for name in sorted(group):
            tensor = group[name]
            if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
                return None
            found.update(f"{name} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().reshape(-1)
            some = flat[:: max(1, flat.numel() // SOME)][:SOME].to(torch.float32).to(torch.bfloat16)
            found.update(some.cpu().view(torch.int16).numpy().tobytes())
    return found.hexdigest()[:16]


def _groups(params: Weights) -> list[Mapping[str, torch.Tensor]]:
    if isinstance(params, Bound):
        return [params.all]
    values = list(params.values())
    if values and all(isinstance(value, Mapping | Bound) for value in values):
        return [group for value in values for group in _groups(value)]  # type: ignore[arg-type]
    return [params]  # type: ignore[list-item]

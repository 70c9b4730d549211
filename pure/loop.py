"""The one denoising loop, with the check that the state keeps its structure."""

from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

import attrs
import torch

from pure.denoiser import Denoiser
from pure.experts import Experts
from pure.info import Info
from pure.notes import Note
from pure.solver import Solver
from pure.step import Inputs, Step
from pure.tree import describe, leaves_with_paths, signature


@attrs.frozen(eq=False)
class Frame:
    """One step of a run: the step, what came before it is gone.

    Attributes:
        step: the step just taken.
        latents: (B, ...) after it.
        carry: what the solver remembers; `solver.latents(carry)` are the latents.
        state: the denoiser's state after it.
        info: what was computed and skipped, and why.
    """

    step: Step
    latents: torch.Tensor
    carry: Any
    state: Any
    info: Info


Observer = Callable[[Frame], None]


@attrs.frozen(eq=False)
class Run:
    """Result of `sample`.

    Attributes:
        latents: (B, ...) after the last step.
        state: after the last step.
        infos: of every step.
        notes: what the run did not do although it was asked for; see `Denoiser.notes`.
    """

    latents: torch.Tensor
    state: Any
    infos: tuple[Info, ...]
    notes: tuple[Note, ...] = ()


def unroll(
    denoiser: Denoiser | Experts,
    params: Mapping[str, Any] | Any,
    state: Any,
    carry: Any,
    steps: Iterable[Step],
    solver: Solver,
) -> Generator[Frame, None, None]:
    """Yield a `Frame` after every step; stop at any of them and go on from its state and carry.

    Raises:
        TypeError: a step changed the structure of the state (tree, shape, strides, dtype or device).
    """
    bound = denoiser.bind(params)
    expected = signature(state)
    for step in steps:
        # no_grad, not inference_mode: tensors made under inference_mode have no version
        # counter, and nothing could tell whether they were written in place.
        with torch.no_grad():
            latents = solver.latents(carry)
            prediction, new, info = denoiser.apply(bound, state, Inputs(latents, step))
            carry = solver.step(carry, prediction, step)
        if signature(new) != expected:
            raise TypeError(_mismatch(state, new, step))
        state = new
        yield Frame(step, solver.latents(carry), carry, state, info)


def sample(
    denoiser: Denoiser | Experts,
    params: Mapping[str, Any] | Any,
    conditioning: Any,
    latents: torch.Tensor,
    steps: Iterable[Step],
    solver: Solver,
    observe: Observer | None = None,
) -> Run:
    """Run all steps from starting noise.

    Args:
        denoiser: plain or transformed.
        params: parameters under the checkpoint's names.
        conditioning: what the denoiser's `prepare` takes, or `Branches`.
        latents: (B, ...) starting noise.
        steps: the schedule.
        solver: turns predictions into the next latents.
        observe: called with every `Frame`, for progress bars and recordings.

    Raises:
        ValueError: there are no steps, or they are from schedules of different lengths; or the
            plan does not fit (see `Denoiser.init`).
    """
    steps = tuple(steps)
    bound = denoiser.bind(params)
    with torch.no_grad():
        state = start(denoiser, bound, conditioning, latents, steps)
    carry = solver.init(latents)
    infos = []
    for frame in unroll(denoiser, bound, state, carry, steps, solver):
        state, carry = frame.state, frame.carry
        infos.append(frame.info)
        if observe is not None:
            observe(frame)
    return Run(solver.latents(carry), state, tuple(infos), plan_notes(denoiser, steps, conditioning))


def start(
    denoiser: Denoiser | Experts, params: Any, conditioning: Any, latents: torch.Tensor, steps: Iterable[Step]
) -> Any:
    """Return the state before the first step; every expert gets the length of its own schedule.

    Raises:
        ValueError: see `sample`.
    """
    bound: Any = denoiser.bind(params)
    return denoiser.init(bound, conditioning, latents, _counts(denoiser, tuple(steps)))


def plan_notes(denoiser: Denoiser | Experts, steps: Iterable[Step], conditioning: Any = None) -> tuple[Note, ...]:
    """Return what a run of these steps will not do although it was asked for; see `Denoiser.notes`.

    Raises:
        ValueError: see `sample`.
    """
    counts: Any = _counts(denoiser, tuple(steps))
    return denoiser.notes(counts, conditioning)


def _counts(denoiser: Denoiser | Experts, steps: tuple[Step, ...]) -> Any:
    """Return the length of the schedule the steps are from, of experts that of each; they need not be all of it."""
    if not isinstance(denoiser, Experts):
        return _count(steps)
    own = {name: tuple(step for step in steps if step.expert == name) for name in denoiser.denoisers}
    return {name: _count(some) if some else 0 for name, some in own.items()}


def _count(steps: tuple[Step, ...]) -> int:
    if not steps:
        raise ValueError("there are no steps to take; get some from solver.schedule(count, tokens)")
    counts = {step.count for step in steps}
    if len(counts) != 1 or isinstance(count := counts.pop(), tuple):
        raise ValueError(
            f"sample takes steps of one schedule, got steps of schedules of {[step.count for step in steps]} steps; "
            "take samples at different places of their schedules through unroll or apply"
        )
    return count


def _mismatch(old: Any, new: Any, step: Step) -> str:
    before, after = dict(leaves_with_paths(old)), dict(leaves_with_paths(new))
    for path in before.keys() | after.keys():
        a, b = before.get(path), after.get(path)
        if describe(a) != describe(b):
            return (
                f"step {step.index} changed the state at {path or 'its root'}: it was {describe(a)} and became "
                f"{describe(b)} (shape, strides, dtype, device, placements); allocate it in init as it will be "
                "and clone views before they are kept"
            )
    return f"step {step.index} changed the structure of the state from {signature(old)[0]} to {signature(new)[0]}"

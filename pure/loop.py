"""The one denoising loop, with the check that the state keeps its structure."""

import functools
from collections.abc import Callable, Generator, Iterable
from typing import Any

import attrs
import torch
from torch.utils.checkpoint import checkpoint as recomputed

from pure.block import Weights
from pure.info import Info
from pure.memory import States
from pure.notes import Note
from pure.runnable import Runnable
from pure.solver import Solver
from pure.step import Inputs, Step
from pure.tree import describe, leaves_with_paths, signature


@attrs.frozen(eq=False)
class Frame:
    """One step of a run that was taken: the step and what it led to.

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
    state: States
    info: Info


Observer = Callable[[Frame], None]


@attrs.frozen(eq=False)
class Run:
    """Result of `sample`.

    Attributes:
        latents: (B, ...) after the last step.
        state: after the last step.
        infos: of every step.
        notes: settings that had no effect in this run; see `Denoiser.notes`.
    """

    latents: torch.Tensor
    state: States
    infos: tuple[Info, ...]
    notes: tuple[Note, ...] = ()


def unroll(
    denoiser: Runnable,
    params: Weights,
    state: States,
    carry: Any,
    steps: Iterable[Step],
    solver: Solver[Any],
    checkpoint: bool = False,
) -> Generator[Frame, None, None]:
    """Yield a `Frame` after every step; stop at any of them and go on from its state and carry.

    What a run returns is differentiable with respect to everything it is given; see `sample`.

    Raises:
        TypeError: a step changed the structure of the state (tree, shape, strides, dtype or device);
            or an argument is of another kind.
    """
    _check(denoiser, solver, steps)
    bound = denoiser.bind(params)
    expected = signature(state)

    def taken(state: States, carry: Any, step: Step) -> tuple[States, Any, Info]:
        prediction, new, info = denoiser.apply(bound, state, Inputs(solver.latents(carry), step))
        return new, solver.step(carry, prediction, step), info

    take = functools.partial(_recompute, taken) if checkpoint else taken
    for step in steps:
        new, carry, info = take(state, carry, step)
        if signature(new) != expected:
            raise TypeError(_mismatch(state, new, step))
        state = new
        yield Frame(step, solver.latents(carry), carry, state, info)


def _recompute(function: Callable, *args: Any) -> Any:
    """Call a function, and let the backward pass call it again instead of remembering what was in between.

    Raises:
        ValueError: inside a transform of `torch.func`, which has no such thing.
    """
    if torch._C._functorch.peek_interpreter_stack() is not None:  # type: ignore[attr-defined]
        raise ValueError(
            "checkpoint=True is for autograd: torch.func.grad, vjp, jvp and torch.vmap cannot compute a step again; "
            "use loss.backward() or torch.autograd.grad, or leave checkpoint off"
        )
    return recomputed(function, *args, use_reentrant=False, preserve_rng_state=False)


def sample(
    denoiser: Runnable,
    params: Weights,
    conditioning: Any,
    latents: torch.Tensor,
    steps: Iterable[Step],
    solver: Solver[Any],
    observe: Observer | None = None,
    checkpoint: bool = False,
) -> Run:
    """Run all steps from starting noise.

    The latents are differentiable with respect to `latents`, `params`, `conditioning` and the weights of a
    predictor, by autograd and by `torch.func`, through computed and skipped steps. Decisions are not: at a
    threshold the gradient is that of the steps which were taken. Where nothing asks for gradients no graph
    is kept.

    Args:
        denoiser: plain or transformed.
        params: parameters under the checkpoint's names.
        conditioning: what the denoiser's `prepare` takes, or `Branches`.
        latents: (B, ...) starting noise.
        steps: the schedule.
        solver: turns predictions into the next latents.
        observe: called with every `Frame`, for progress bars and recordings.
        checkpoint: keep for the backward pass what stands between the steps only, and compute each step
            once more there: the memory of one step instead of all, for a third more time. For autograd;
            `torch.func` cannot recompute.

    Raises:
        ValueError: there are no steps, or they are from schedules of different lengths; or the
            plan does not fit (see `Denoiser.init`).
        TypeError: an argument is of another kind.
    """
    _check(denoiser, solver, steps, observe)
    steps = tuple(steps)
    bound = denoiser.bind(params)
    state = denoiser.init(bound, conditioning, latents, steps)
    carry = solver.init(latents)
    infos = []
    for frame in unroll(denoiser, bound, state, carry, steps, solver, checkpoint):
        state, carry = frame.state, frame.carry
        infos.append(frame.info)
        if observe is not None:
            observe(frame)
    return Run(solver.latents(carry), state, tuple(infos), denoiser.notes(steps, conditioning))


def _check(denoiser: object, solver: object, steps: object, observe: object = None) -> None:
    """Refuse arguments of another kind, or in another order."""
    if isinstance(denoiser, type) or not all(hasattr(denoiser, name) for name in ("bind", "apply")):
        raise TypeError(f"a run takes a Denoiser or Experts first, such as pipeline.denoiser, got {_kind(denoiser)}")
    if isinstance(solver, type) or not all(hasattr(solver, name) for name in ("init", "step", "latents")):
        raise TypeError(f"a run takes a solver, such as pipeline.solver or FlowMatchEuler(), got {_kind(solver)}")
    if not isinstance(steps, Iterable):
        raise TypeError(f"a run takes the steps of solver.schedule(count, tokens), got {steps!r:.80}")
    if observe is not None and not callable(observe):
        raise TypeError(f"observe is a function of a Frame, got {observe!r:.80}")


def _kind(found: object) -> str:
    return f"the class {found.__name__}" if isinstance(found, type) else type(found).__name__


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

"""Law 17: a run is differentiable with respect to everything it is given, through computed and skipped steps."""

from collections.abc import Callable
from typing import Any

import torch
import torch.utils._pytree as pytree

import pure
from pure import Inputs
from pure.testing.situation import Situation
from pure.transforms import compiled, dmd


def runs_are_differentiable(situation: Situation) -> None:
    """Law 17: gradients are those of the loop by hand, with and without recomputation, and finite differences'."""
    given = _floating((situation.latents(), situation.model.params, situation.conditioning()), _asking)
    expected = _gradients(_by_hand, situation, given)
    for checkpoint in (False, True):
        found = _gradients(_sampled(checkpoint), situation, given)
        assert len(found) == len(expected) > 0
        equal = all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
        assert equal, f"gradients of pure.sample(checkpoint={checkpoint}) are not those of the loop by hand"
    constant = situation.part(dmd) is not None  # whose weights gradients take as given
    eager = situation.part(compiled) is None
    if situation.model.differences and not situation.model.rounding and eager and not constant:
        _compare_differences(situation, *situation.model.differences)


def _compare_differences(situation: Situation, step: float, bound: float) -> None:
    """Compare the slope along a random direction with what a small step along it changes, in float64."""
    given = _floating((situation.latents(), situation.model.params, situation.conditioning()), torch.Tensor.double)
    drawn = torch.Generator().manual_seed(situation.seed)
    *along, conditioning = _floating(given, lambda leaf: torch.randn(leaf.shape, generator=drawn, dtype=leaf.dtype))
    # A guidance scale (B,) enters as a phase of a thousand radians: no step is small enough for fp32 and for it.
    along = (*along, _floating(conditioning, lambda leaf: leaf if leaf.ndim > 1 else torch.zeros_like(leaf)))
    (up, taken), (down, other) = (_total(situation, pytree.tree_map(_moved(by), given, along)) for by in (step, -step))
    if taken != other:
        return  # a change so near the threshold that the two runs are of different steps
    asking = _floating(given, _asking)
    slopes = _gradients(_sampled(False), situation, asking)
    directions = [
        d
        for d, leaf in zip(*map(pytree.tree_leaves, (along, asking)), strict=True)
        if getattr(leaf, "requires_grad", False)
    ]
    slope = sum(float((one * d).sum()) for one, d in zip(slopes, directions, strict=True))
    differs, limit = abs(slope - (up - down) / (2 * step)), bound * max(abs(slope), 1.0)
    assert differs <= limit, f"the gradient is {slope:.6g}, which differs by {differs:.1e} from a finite difference"


def _moved(by: float) -> Callable[[Any, Any], Any]:
    return lambda leaf, along: leaf + by * along if _is_floating(leaf) and leaf is not along else leaf


def _total(situation: Situation, given: Any) -> tuple[float, list]:
    with torch.no_grad():
        latents, infos = _sampled(False)(situation, *given)
    return float(_loss(latents)), [info.computed for info in infos]


def _loss(latents: torch.Tensor) -> torch.Tensor:
    return (latents * torch.linspace(-1, 1, latents.numel(), dtype=latents.dtype).view_as(latents)).sum()


def _gradients(run: Callable, situation: Situation, given: Any) -> list[torch.Tensor]:
    """Return the gradient with respect to every floating-point tensor that is given."""
    leaves = [leaf for leaf in pytree.tree_leaves(given) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    latents, _ = run(situation, *given)
    return list(torch.autograd.grad(_loss(latents), leaves, allow_unused=True, materialize_grads=True))


def _by_hand(situation: Situation, latents: torch.Tensor, params: Any, conditioning: Any) -> tuple[torch.Tensor, list]:
    denoiser, solver, steps, infos = situation.denoiser, situation.solver, situation.schedule(), []
    bound = denoiser.bind(params)
    state, carry = denoiser.init(bound, conditioning, latents, steps), solver.init(latents)
    for step in steps:
        prediction, state, info = denoiser.apply(bound, state, Inputs(solver.latents(carry), step))
        carry = solver.step(carry, prediction, step)
        infos.append(info)
    return solver.latents(carry), infos


def _sampled(checkpoint: bool) -> Callable:
    def run(situation: Situation, latents: torch.Tensor, params: Any, conditioning: Any) -> tuple[torch.Tensor, Any]:
        done = pure.sample(
            situation.denoiser,
            params,
            conditioning,
            latents,
            situation.schedule(),
            situation.solver,
            checkpoint=checkpoint,
        )
        assert done.latents.requires_grad == torch.is_grad_enabled(), "no graph where nothing asks for gradients"
        return done.latents, done.infos

    return run


def _asking(leaf: torch.Tensor) -> torch.Tensor:
    return leaf.detach().clone().requires_grad_()


def _is_floating(leaf: Any) -> bool:
    # Of quantised parameters there are no gradients.
    return type(leaf) is torch.Tensor and leaf.is_floating_point()


def _floating(tree: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Change the numbers of a tree; positions, which all samples share, stay."""

    def each(leaf: Any) -> Any:
        return change(leaf) if _is_floating(leaf) else leaf

    return pytree.tree_map(each, tree, is_leaf=lambda node: isinstance(node, pure.Shared))

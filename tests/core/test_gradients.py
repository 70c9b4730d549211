"""Gradients through a run: of a predictor's weights, by torch.func, under vmap, in bounded memory. See law 17."""

import gc
from collections.abc import Sequence

import attrs
import pytest
import torch

import pure
from pure.models import embedded, load_pipeline
from pure.testing.situation import SOLVER, Situation, close
from pure.testing.toys import RANDOM
from pure.transforms import dbcache, scm, taylorseer

MASK = pure.compose(dbcache(front=1), scm(mask=(1, 1, 0, 0, 1, 0), policy="static"))
THRESHOLD = pure.compose(dbcache(front=1, threshold=0.5, warmup=1), taylorseer(order=1))


@attrs.frozen(eq=False)
class Learned(pure.Transform):
    """A predictor whose weights are a tensor: two for every step that can be skipped."""

    table: torch.Tensor  # (steps, 2)
    history: int = 2
    on: str = "residual"
    streams: str = "all"

    def weights(self, times: Sequence[int], target: int, first: int) -> torch.Tensor:
        return self.table[target]

    def edit(self, denoiser: pure.Denoiser) -> pure.Denoiser:
        return attrs.evolve(denoiser, plan=denoiser.plan.set(predictor=self))


def case(transform: pure.Transform) -> Situation:
    return Situation(model=RANDOM, transform=transform, seeds=(1, 2), count=6)


def run(given: Situation, latents: torch.Tensor, conditioning: object, checkpoint: bool = False) -> torch.Tensor:
    return pure.sample(
        given.denoiser, RANDOM.params, conditioning, latents, given.schedule(), SOLVER, checkpoint=checkpoint
    ).latents


def test_weights_of_a_predictor_have_a_gradient() -> None:
    table = torch.tensor([[1.5, -0.5]] * 6, dtype=torch.float64).requires_grad_()
    given = case(MASK)
    latents, conditioning = given.latents().double(), RANDOM.conditioning(given.seeds).double()
    params = {name: leaf.double() for name, leaf in RANDOM.params.items()}

    def loss(table: torch.Tensor) -> torch.Tensor:
        denoiser = pure.compose(MASK, Learned(table))(RANDOM.denoiser)
        return pure.sample(denoiser, params, conditioning, latents, given.schedule(), SOLVER).latents.square().sum()

    assert torch.autograd.gradcheck(loss, (table,))
    (slope,) = torch.autograd.grad(loss(table), table)
    assert [bool(row.any()) for row in slope] == [False, False, True, True, False, True], "of the skipped steps"
    fixed = pure.sample(
        pure.compose(MASK, taylorseer(order=0))(RANDOM.denoiser),
        params,
        conditioning,
        latents,
        given.schedule(),
        SOLVER,
    )
    held = torch.tensor([[1.0, 0.0]] * 6, dtype=torch.float64)
    assert close(loss(held), fixed.latents.square().sum(), 1e-12)


@pytest.mark.parametrize(
    "wrong", [torch.full((6, 2), torch.nan), torch.ones(6, 3), torch.ones(6, 2, 1)], ids=["nan", "three", "column"]
)
def test_wrong_weights_are_refused_as_tensors_too(wrong: torch.Tensor) -> None:
    given = case(pure.compose(MASK, Learned(wrong)))
    with pytest.raises(ValueError, match=r"(?s)gave the weights tensor.* for step 2; .* gives 2 finite numbers"):
        run(given, given.latents(), given.conditioning())


@pytest.mark.parametrize("transform", [MASK, THRESHOLD], ids=["mask", "threshold"])
def test_transforms_of_torch_func_agree_with_autograd(transform: pure.Transform) -> None:
    given = case(transform)
    latents, conditioning = given.latents(), given.conditioning()
    leaf, out = latents.clone().requires_grad_(), torch.linspace(-1, 1, latents.numel()).view_as(latents)
    (expected,) = torch.autograd.grad((run(given, leaf, conditioning) * out).sum(), leaf)
    assert close(torch.func.grad(lambda x: (run(given, x, conditioning) * out).sum())(latents), expected)
    value, pull, *_ = torch.func.vjp(lambda x: run(given, x, conditioning), latents)
    assert torch.equal(value, run(given, latents, conditioning)) and close(pull(out)[0], expected)
    _, slope, *_ = torch.func.jvp(lambda x: run(given, x, conditioning), (latents,), (out,))
    (along,) = torch.autograd.grad((run(given, leaf, conditioning) * slope.detach()).sum(), leaf)
    assert close((slope * slope).sum(), (along * out).sum(), 1e-4), "jvp is the transpose of vjp"


def test_vmap_over_seeds_runs_a_mask_and_refuses_a_threshold_by_name() -> None:
    given = case(MASK)
    conditioning, seeds = given.conditioning(), torch.stack([given.latents((1, 2)), given.latents((5, 6))])
    mapped = torch.vmap(lambda noise: run(given, noise, conditioning))(seeds)
    assert all(close(each, run(given, noise, conditioning)) for each, noise in zip(mapped, seeds, strict=True))
    slopes = torch.vmap(torch.func.grad(lambda noise: run(given, noise, conditioning).sum()))(seeds)
    assert slopes.shape == seeds.shape and slopes.isfinite().all()
    with pytest.raises(TypeError, match=r"threshold of dbcache would decide for each .* batch \(B, ...\).* static"):
        torch.vmap(lambda noise: run(case(THRESHOLD), noise, conditioning))(seeds)


def test_recomputation_is_refused_inside_torch_func() -> None:
    given = case(MASK)
    with pytest.raises(ValueError, match=r"checkpoint=True is for autograd.*leave checkpoint off"):
        torch.func.grad(lambda x: run(given, x, given.conditioning(), checkpoint=True).sum())(given.latents())


class Saved:
    """Counts the bytes that wait for the backward pass."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.storages: dict[int, int] = {}

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        self.storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor


def kept(count: int, checkpoint: bool) -> int:
    """Bytes that a run of `count` steps keeps for its backward pass, parameters included."""
    given = Situation(model=RANDOM, transform=dbcache(front=1, threshold=0.5, warmup=1), seeds=(1, 2), count=count)
    saved, latents, conditioning = Saved(), given.latents().requires_grad_(), given.conditioning()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        run(given, latents, conditioning, checkpoint=checkpoint)
    gc.collect()
    return sum(saved.storages.values())


def test_recomputation_keeps_no_more_than_what_stands_between_the_steps() -> None:
    latents = case(MASK).latents()
    assert kept(24, checkpoint=True) - kept(8, checkpoint=True) == 16 * latents.nbytes, "of a step what it begins with"
    assert kept(24, checkpoint=False) > 2 * kept(8, checkpoint=False) > 0


def test_generate_differentiates_with_respect_to_parameters_and_keeps_no_graph_otherwise() -> None:
    pipeline = load_pipeline(embedded())
    made = pipeline.generate("a red apple", steps=3)
    assert not made.latents.requires_grad and not made.pixels.requires_grad
    name = next(name for name, leaf in pipeline.params.items() if leaf.ndim == 2)
    leaf = pipeline.params[name].detach().clone().requires_grad_()
    asking = attrs.evolve(pipeline, params={**pipeline.params, name: leaf})
    transform = pure.compose(dbcache(front=1), scm(mask=(1, 0, 1), policy="static"))
    slopes = []
    for checkpoint in (False, True):
        found = asking.generate("a red apple", transform=transform, checkpoint=checkpoint, steps=3)
        slopes.append(torch.autograd.grad(found.latents.square().mean() + found.pixels.mean(), leaf)[0])
    assert torch.equal(*slopes) and bool(slopes[0].any())

"""Tensor parallelism together with compilation, quantisation, and tokens that are divided among ranks."""

import functools

import attrs
import pytest
import torch

import pure
from pure.distributed import Sizes, context_parallel, make_mesh, tensor_parallel
from pure.testing.situation import Situation, close
from pure.transforms import compiled, dbcache, taylorseer
from pure.transforms.quantize.quantize import Quantization, quantize
from tests.support import ranks
from tests.support.split import MODELS, Seen, seen, split

SEEDS, COUNT = (1, 2), 6
ALTERNATING = pure.compose(dbcache(front=1, threshold=1e3, warmup=2, max_continuous=1), taylorseer(order=1))


def _compiled(name: str, sizes: Sizes | None) -> tuple[list[int], torch.Tensor, torch.Tensor]:
    """Compilations of three requests, the last with parameters split anew; the prediction, and the eager one."""
    graphs = []

    def watch(graph, example):
        graphs.append(graph)
        return graph.forward

    model = MODELS[name] if sizes is None else split(MODELS[name], sizes)
    recipe = pure.compose(ALTERNATING, compiled(backend=watch))
    counts, found = [], []
    for again in (False, False, True):
        if again and sizes is not None:
            model = split(MODELS[name], sizes)
        found = Situation(model=model, transform=recipe, seeds=SEEDS, count=COUNT).trace()
        counts.append(len(graphs))
    eager = Situation(model=model, transform=ALTERNATING, seeds=SEEDS, count=COUNT).trace()
    return counts, found[-1].prediction, eager[-1].prediction


@pytest.mark.parametrize("name", ["flux-dev", pytest.param("wan-i2v", marks=pytest.mark.slow)])
def test_it_compiles_as_often_as_one_process_and_then_no_more(name):
    [(one, _, _)] = ranks.run(_compiled, 1, name, None)
    for counts, found, eager in ranks.run(_compiled, 2, name, Sizes(tp=2)):
        assert counts == one
        assert counts[0] == counts[1] == counts[2]
        assert torch.equal(found, eager)


def _both(name: str, sizes: Sizes) -> list[Seen]:
    """A run with parameters and tokens divided."""
    model, mesh = MODELS[name], make_mesh(sizes)
    model = attrs.evolve(model, params=tensor_parallel(model.params, model.denoiser, mesh))
    return seen(model, pure.compose(ALTERNATING, context_parallel(mesh)), SEEDS, COUNT)


def test_three_axes_at_once():
    sizes = Sizes(ring=2, ulysses=2, tp=2)
    expected = seen(MODELS["qwen-image"], ALTERNATING, SEEDS, COUNT)
    for steps in ranks.run(_both, 8, "qwen-image", sizes):
        assert all(close(step.prediction, one.prediction, 2e-6) for step, one in zip(steps, expected, strict=True))


def _quantised(name: str, kind: str, transform: pure.Transform) -> torch.Tensor:
    model, mesh = MODELS[name], make_mesh(Sizes(tp=2))
    settings = Quantization(kind=kind, exclude=("embed", "mod"))
    local = functools.partial(quantize, denoiser=model.denoiser, settings=settings)
    params = tensor_parallel(model.params, model.denoiser, mesh, local=local)
    return seen(attrs.evolve(model, params=params), transform, SEEDS, 3)[-1].prediction


@pytest.mark.parametrize("name", ["flux-dev", "flux2-klein", "wan-experts"])
@pytest.mark.parametrize("kind", ["int8_weight_only", "float8_weight_only"])
def test_parts_can_be_quantised(name, kind):
    model = MODELS[name]
    exact = seen(model, pure.identity, SEEDS, 3)[-1].prediction
    whole = quantize(model.params, model.denoiser, Quantization(kind=kind, exclude=("embed", "mod")))
    alone = seen(attrs.evolve(model, params=whole), pure.identity, SEEDS, 3)[-1].prediction
    first, second = ranks.run(_quantised, 2, name, kind, pure.identity)
    assert torch.equal(first, second)
    # Parts have scales of their own: other errors, no larger ones.
    assert not close(first, exact, 1e-4)
    assert (first - exact).norm() < 1.5 * (alone - exact).norm()


@pytest.mark.alone
def test_quantised_parts_compile():
    eager, _ = ranks.run(_quantised, 2, "flux-dev", "int8_weight_only", pure.identity)
    for found in ranks.run(_quantised, 2, "flux-dev", "int8_weight_only", compiled(backend="eager")):
        assert torch.equal(found, eager)

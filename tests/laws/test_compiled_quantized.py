"""Law 14 with quantised weights: compiled is eager, without graph breaks, and a second request compiles nothing."""

import attrs
import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters

import pure
from pure import pieces
from pure.testing import toys
from pure.testing.situation import Model, Situation
from pure.transforms import Quantization, compiled, dbcache, guided, quantize, taylorseer
from pure.transforms.quantize.kinds import KINDS
from tests.support.flux import FLUX_DEV
from tests.support.wan import WAN_EXPERTS

CACHED = pure.compose(dbcache(front=1, threshold=0.9, warmup=1), taylorseer(order=1))
MIXED = dbcache(front=1, threshold=0.4, warmup=1)


def quantised(model: Model, kind: str) -> Model:
    return attrs.evolve(model, params=quantize(model.params, model.denoiser, Quantization(kind=kind)))


@pytest.fixture(autouse=True)
def fresh():
    def forget():
        torch._dynamo.reset()
        counters.clear()
        pieces._compile.cache_clear()

    forget()
    yield
    assert not counters["graph_break"], dict(counters["graph_break"])
    forget()


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize(
    ("kind", "regional"),
    [
        *((kind, True) for kind in ("float8_per_row", "float8_weight_only", "int8_per_row", "int8_weight_only")),
        ("int8_per_row", False),
    ],
)
def test_compiled_is_eager_and_compiles_once(kind, regional):
    eager = Situation(model=quantised(FLUX_DEV, kind), transform=CACHED, seeds=(1,), count=5)
    traced = attrs.evolve(eager, transform=pure.compose(CACHED, compiled(backend="eager", regional=regional)))
    for ours, theirs in zip(traced.trace(), eager.trace(), strict=True):
        assert ours.info == theirs.info
        assert torch.allclose(ours.prediction, theirs.prediction, atol=1e-5)
    first = graphs()
    # Regional: embed, double block, single block, head, fill-in. Else four pieces.
    assert first == (5 if regional else 4)
    attrs.evolve(traced, seeds=(2,), count=7).trace()
    assert graphs() == first, "no recompilation on the second request, though other blocks have other scales"


def test_sub_batches_and_guidance_settle():
    """As with plain weights: pieces compile for one row and for any number, and that is all."""
    recipe = pure.compose(guided(scale=2.0), MIXED, compiled(backend="eager", regional=True))
    plain, counted = Situation(model=FLUX_DEV, transform=recipe, seeds=(1, 2, 3), count=6), []
    for model in (FLUX_DEV, quantised(FLUX_DEV, "int8_weight_only")):
        torch._dynamo.reset()
        counters.clear()
        pieces._compile.cache_clear()
        situation = attrs.evolve(plain, model=model)
        assert {sum(entry.info.computed) for entry in situation.trace()} != {6}, "some were skipped"
        first = graphs()
        attrs.evolve(situation, seeds=(4, 5, 6)).trace()
        attrs.evolve(situation, seeds=(7, 8, 9)).trace()
        counted.append((first, graphs()))
    assert counted[0] == counted[1], "quantised weights compile as often as plain ones"


def test_experts_share_their_compilation():
    transform = pure.compose(CACHED, compiled(backend="eager", regional=True))
    situation = Situation(model=quantised(WAN_EXPERTS, "int8_weight_only"), transform=transform, seeds=(1,), count=6)
    situation.trace()
    first = graphs()
    attrs.evolve(situation, seeds=(2,)).trace()
    assert graphs() == first


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.linear(F.silu(x), weight, bias)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_inductor_computes_the_same_product(kind):
    weight, x, bias = toys.normal(256, 128, seed=0), toys.normal(3, 7, 128, seed=1), toys.normal(256, seed=2)
    made = KINDS[kind].make(weight)
    fast = torch.compile(product, fullgraph=True)
    # A sum in another order may round a number that is multiplied to its neighbour: one step of one of 128.
    found, expected = fast(x, made, bias), product(x, made, bias)
    assert (found - expected).norm() <= (1e-2 if KINDS[kind].dynamic else 1e-5) * expected.norm()
    other = KINDS[kind].make(toys.normal(256, 128, seed=3))
    assert (fast(x, other, bias) - product(x, other, bias)).norm() <= 1e-2 * expected.norm()
    assert graphs() == 1

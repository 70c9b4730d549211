"""Products with parts of weights, eager and compiled, in every type."""

from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import torch
import torch.nn.functional as F

from pure.distributed import Sizes, make_mesh, tensor_parallel
from pure.distributed.mesh import axis
from pure.distributed.sharded_weight import ShardedWeight
from pure.distributed.tensor_parallel import placed
from pure.sharding import Kind, Part, Placement, Sharding
from pure.testing import toys
from tests.support import ranks

HEADS, INNER, WIDTH = Part(4, 6), Part(14), 10
SHARDING = Sharding(
    4,
    (
        Placement("wide", Kind.COLUMN, (HEADS, INNER)),
        Placement("scale", Kind.NORM, (HEADS,)),
        Placement("out", Kind.ROW, (HEADS, INNER)),
        Placement("change", Kind.GATHERED, (Part(2 * WIDTH),)),
    ),
)


def layer(params: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """A little of everything; features (2, 3, WIDTH) to as many."""
    wide = F.linear(x, params["wide.weight"], params["wide.bias"])
    inner = params["out.weight"].shape[1] - params["scale.weight"].shape[0]
    q, rest = wide[..., :-inner], wide[..., -inner:]
    q = F.rms_norm(q, q.shape[-1:], params["scale.weight"], 1e-6)
    out = F.linear(torch.cat([q, F.silu(rest)], dim=-1), params["out.weight"], bias=params["out.bias"])
    shift, scale = F.linear(x.mean(1), params["change.weight"], params["change.bias"]).unsqueeze(1).chunk(2, dim=-1)
    return F.linear(out * (1 + scale) + shift, params["last.weight"])


def parameters(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    split = HEADS.features + INNER.features
    shapes = {"wide": (split, WIDTH), "out": (WIDTH, split), "change": (2 * WIDTH, WIDTH)}
    params = {f"{name}.weight": 0.2 * toys.normal(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    params |= {f"{name}.bias": toys.normal(shape[0], seed=10 + i) for i, (name, shape) in enumerate(shapes.items())}
    params["scale.weight"] = 1 + 0.1 * toys.normal(HEADS.features, seed=20)
    params["last.weight"] = 0.2 * toys.normal(WIDTH, WIDTH, seed=21)
    return {name: tensor.to(dtype) for name, tensor in params.items()}


def tokens(dtype: torch.dtype) -> torch.Tensor:
    return toys.normal(2, 3, WIDTH, seed=30).to(dtype)


def _on_a_rank(count: int, dtype: torch.dtype, backend: str | None) -> torch.Tensor:
    denoiser = attrs.evolve(toys.random_denoiser(), sharding=SHARDING)
    params = tensor_parallel(parameters(dtype), denoiser, make_mesh(Sizes(tp=count)))
    run = layer if backend is None else torch.compile(layer, backend=backend, fullgraph=True)
    with torch.no_grad():
        return run(params, tokens(dtype))


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_products_agree_with_those_of_the_whole(count, dtype):
    expected = layer(parameters(dtype), tokens(dtype))
    first, *others = ranks.run(_on_a_rank, count, count, dtype, None)
    assert all(torch.equal(first, other) for other in others)
    # Sums are taken in parts, and each part is rounded.
    assert (first - expected).abs().max() <= 8 * torch.finfo(dtype).eps * expected.abs().max()


EPS = 1e-6


def _norm_of_parts(dtype: torch.dtype, size: float) -> torch.Tensor:
    """The norm of this rank's features; the scale is a part of one."""
    denoiser = attrs.evolve(
        toys.random_denoiser(), sharding=Sharding(2, (Placement("norm", Kind.NORM, (Part(5, 2),)),))
    )
    along = axis(make_mesh(Sizes(tp=2)), "tp")
    scale = 1 + toys.normal(WIDTH, seed=1).to(dtype)
    part: Any = tensor_parallel({"norm.weight": scale}, denoiser, make_mesh(Sizes(tp=2)))["norm.weight"]
    width = part.shape[0]
    begin = 0 if along.index == 0 else WIDTH - width
    x = (size * toys.normal(3, 7, WIDTH, seed=2)).to(dtype)[..., begin : begin + width]
    return F.rms_norm(x, (width,), part, EPS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_a_norm_of_parts_is_that_of_fp64(dtype, size):
    """Also where squares have no place in half precision: they are above 65504, or below the smallest number."""
    scale, x = 1 + toys.normal(WIDTH, seed=1).to(dtype), (size * toys.normal(3, 7, WIDTH, seed=2)).to(dtype)
    exact = F.rms_norm(x.double(), (WIDTH,), scale.double(), EPS)
    parts = ranks.run(_norm_of_parts, 2, dtype, size)
    assert [part.shape[-1] for part in parts] == [6, 4], "whole heads of two features, the first rank one more"
    found = torch.cat(parts, dim=-1)
    assert found.dtype == dtype
    # Rounded once at the end, by half a step at most; in fp32 and wider a few times on the way.
    error = (found.double() - exact).abs() / exact.abs().clamp(min=1e-3)
    assert float(error.max()) <= torch.finfo(dtype).eps * (0.51 if dtype.itemsize == 2 else 8)


def test_a_part_knows_the_width_of_the_whole_and_its_own_type():
    along: Any = SimpleNamespace(group=SimpleNamespace(group_name="0"), size=2)
    part = placed({"out.weight": torch.ones(WIDTH, 19, dtype=torch.bfloat16)}, SHARDING, along)["out.weight"]
    assert isinstance(part, ShardedWeight) and part.dtype == torch.bfloat16
    assert (part.whole, part.ranks) == (HEADS.features + INNER.features, 2)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_products_agree(backend):
    expected = layer(parameters(torch.float32), tokens(torch.float32))
    for found in ranks.run(_on_a_rank, 2, 2, torch.float32, backend):
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    "name", ["wide.weight", "wide.bias", "out.weight", "out.bias", "last.weight", "wide.up.weight"]
)
def test_a_placement_is_found_by_name(name):
    module, _, _ = name.rpartition(".")
    found = SHARDING.find(name)
    assert (found.pattern if found else None) == (module if module in ("wide", "out") else None)

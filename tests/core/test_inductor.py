"""Products and attention of compiled code on a CPU: what a graph computes stays what it was, up to rounding."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from pure import inductor

OURS = "puredit.linear.default"
HALF = torch.bfloat16


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def exchanged(function: Callable[..., Any], *inputs: torch.Tensor) -> tuple[list[Any], Any, Any]:
    """What a graph calls after the pass, what it returns, and what the function returns."""
    inductor.options(None)
    module = torch.fx.symbolic_trace(function)
    FakeTensorProp(module, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*inputs)
    for node in module.graph.nodes:
        node.meta["example_value"] = node.meta.get("val")  # as dynamo calls it
    for node, value in zip(module.graph.find_nodes(op="placeholder"), inputs, strict=True):
        node.meta["example_value"].requires_grad_(value.requires_grad)
    inductor.exchange(module.graph)
    module.graph.lint()
    module.recompile()
    calls = [node for node in module.graph.nodes if node.op == "call_function"]
    assert all(isinstance(node.meta["example_value"], torch.Tensor) for node in calls), "later passes read the shapes"
    return [OURS if str(node.target) == OURS else node.target for node in calls], module(*inputs), function(*inputs)


def layer(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.linear(x, weight, bias)


def curved(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.gelu(F.linear(x, weight, bias=bias), approximate="tanh")


def exactly(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.gelu(F.linear(x, weight)) * 2


def twice(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    product = F.linear(x, weight, bias)
    return F.gelu(product) + product


SLICED = draw(2, 14, 16)[:, 5:]


@pytest.mark.parametrize("x", [draw(2, 9, 16), draw(9, 16), SLICED], ids=["batch", "rows", "slice"])
def test_products_in_fp32_are_onednns_and_a_gelu_is_done_with_them(x: torch.Tensor) -> None:
    weight, bias = draw(12, 16), draw(12)
    for function, arguments, others in (
        (layer, (x, weight, bias), 0),
        (curved, (x, weight, bias), 0),
        (exactly, (x, weight), 1),
        (twice, (x, weight, bias), 2),
    ):
        calls, made, wanted = exchanged(function, *arguments)
        assert calls.count(OURS) == 1 and F.linear not in calls and len(calls) == 1 + others
        assert made.shape == wanted.shape and made.stride() == wanted.stride()
        assert torch.allclose(made, wanted, atol=1e-5)


def test_in_bf16_those_with_a_gelu_are(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = draw(2, 9, 16, dtype=HALF), draw(12, 16, dtype=HALF), draw(12, dtype=HALF)
    monkeypatch.setattr(inductor, "_in_bf16", lambda: True)
    assert exchanged(layer, x, weight, bias)[0] == exchanged(twice, x, weight, bias)[0][:1] == [F.linear]
    calls, made, wanted = exchanged(curved, x, weight, bias)
    assert calls == [OURS] and made.dtype == HALF
    assert torch.allclose(made, wanted, atol=2e-2, rtol=2e-2)
    monkeypatch.setattr(inductor, "_in_bf16", lambda: False)
    assert exchanged(curved, x, weight, bias)[0] == [F.linear, F.gelu]


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def test_attention_in_bf16_is_that_in_fp32_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (draw(1, tokens, 2, 8, dtype=HALF).transpose(1, 2) for tokens in (9, 10, 10))
    bias, mask = draw(1, 1, 9, 10, dtype=HALF), draw(1, 1, 9, 10) > 0
    monkeypatch.setattr(inductor, "_tiles", lambda: False)
    for more in ((bias,), (mask,)):
        calls, made, wanted = exchanged(attention, q, k, v, *more)
        assert calls == [F.scaled_dot_product_attention] and made.dtype == HALF and made.stride() == wanted.stride()
        wide = [each.float() if each.is_floating_point() else each for each in (q, k, v, *more)]
        assert torch.equal(made, attention(*wide).to(HALF)) and torch.allclose(made, wanted, atol=2e-2)
    single = (q.float(), k.float(), v.float(), mask)
    assert torch.equal(*exchanged(attention, *single)[1:])
    monkeypatch.setattr(inductor, "_tiles", lambda: True)
    assert torch.equal(*exchanged(attention, q, k, v, bias)[1:])


@pytest.mark.parametrize(
    "inputs",
    [
        (draw(3, 16), draw(12, 16), draw(12)),  # a few rows: reading the weight takes the time
        (draw(9, 16, dtype=torch.float64), draw(12, 16, dtype=torch.float64), draw(12, dtype=torch.float64)),
        (draw(9, 16), draw(12, 16).requires_grad_(), draw(12)),  # the operator has no gradient
    ],
    ids=["rows", "fp64", "gradient"],
)
def test_other_products_stay(inputs: tuple[torch.Tensor, ...]) -> None:
    calls, made, wanted = exchanged(curved, *inputs)
    assert calls == [F.linear, F.gelu] and torch.equal(made, wanted)


def test_a_mode_keeps_its_options() -> None:
    found, plain = inductor.options("max-autotune-no-cudagraphs"), inductor.options("default")
    assert found["max_autotune"] is True and plain.keys() == {"pre_grad_custom_pass"}
    assert found["pre_grad_custom_pass"] is plain["pre_grad_custom_pass"]
    assert plain["pre_grad_custom_pass"].uuid() == plain["pre_grad_custom_pass"].uuid() is not None

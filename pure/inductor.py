"""How inductor compiles for a CPU: which library multiplies matrices, and in which type attention is computed.

In fp32 torch multiplies matrices by MKL, which on processors that are not Intel's takes two to seven times the time of
oneDNN, torch's other library. And oneDNN applies a GELU to a product while it is in the registers, in fp32 and bf16. A
pass over the graphs has the layers multiply by it. Attention in bf16 takes a tenth longer than in fp32, unless the
processor has tiles for bf16 (AMX); what comes before it can be written in fp32 as well. Results differ by rounding, as
those of compiled code do. Graphs that are differentiated stay as they are.

This is the only file that knows inductor's passes and oneDNN's operator.

Shapes: M rows, K features in, N features out.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor

__all__ = ["exchange", "options"]

FEW = 8  # rows below which a product is bound by reading the weight: torch's kernel for one row is as fast
LIBRARY = "puredit"


def options(mode: str | None) -> dict[str, Any]:
    """Return the options of `torch.compile` for inductor: those of a mode, and the pass."""
    from torch._inductor import list_mode_options

    _register()
    found = {} if mode in (None, "default") else dict(list_mode_options(mode))
    return {**found, "pre_grad_custom_pass": _layers()}


@functools.cache
def _register() -> torch.library.Library:
    """Define the product by oneDNN for torch, once a process: compiled graphs on disk call it by name."""
    library = torch.library.Library(LIBRARY, "FRAGMENT")
    library.define("linear(Tensor x, Tensor weight, Tensor? bias, str? gelu) -> Tensor")
    library.impl("linear", _product, "CPU")
    library.impl("linear", _shape, "Meta")
    return library


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gelu: str | None) -> torch.Tensor:
    """Return the affine map of x (..., K) by a weight (N, K) and a bias (N,), and a GELU of it, if it is named."""
    activation = ("none", [], "") if gelu is None else ("gelu", [], gelu)
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight.contiguous(), bias, *activation)


def _shape(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gelu: str | None) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@functools.cache
def _layers() -> Any:
    """Return the pass; its base class is imported when something is compiled, as importing inductor takes a second."""
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

    class Layers(CustomGraphPass):
        """The pass: exchange the products of a graph on a CPU."""

        def __call__(self, graph: torch.fx.Graph) -> None:
            """Change the graph in place, as inductor wants it."""
            if torch.backends.mkldnn.is_available():
                exchange(graph)

        def uuid(self) -> Any:
            """Tell apart on disk what is compiled apart."""
            return get_hash_for_files(
                (__file__,), extra=f"{torch.backends.mkldnn.is_available()} {_in_bf16()} {_tiles()}"
            )

    return Layers()


def _in_bf16() -> bool:
    """Whether oneDNN multiplies in bf16 on this processor."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16") or torch.cpu.get_capabilities().get("amx_bf16"))


def _tiles() -> bool:
    """Whether the processor multiplies matrices in bf16 by tiles, which attention in bf16 makes use of."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def exchange(graph: torch.fx.Graph) -> None:
    """Exchange the products of layers and attention on a CPU; the graph is changed.

    The products are those in fp32, and those in bf16 that a GELU follows; attention is that in bf16.

    Args:
        graph: of torch's functions, as dynamo has it.
    """
    if any(getattr(_value(node), "requires_grad", False) for node in graph.nodes):
        return
    for node in list(graph.nodes):
        if node.target is F.linear:
            _by_onednn(graph, node)
        elif node.target is F.scaled_dot_product_attention and not _tiles():
            _in_fp32(graph, node)


def _by_onednn(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    """Multiply by oneDNN, and let it do the GELU that follows, if nothing else reads the product."""
    names = ("input", "weight", "bias")
    given = {"bias": None, **dict(zip(names, node.args, strict=False)), **node.kwargs}
    found = [_value(given[name]) for name in names if given[name] is not None]
    x, dtype = found[0], found[0].dtype
    # A subclass, such as a quantised weight, has a product of its own.
    plain = all(each.device.type == "cpu" and each.dtype == dtype and type(each) is FakeTensor for each in found)
    rows = x.numel() // max(1, x.shape[-1])
    if not plain or (isinstance(rows, int) and rows < FEW):
        return
    follower = next(iter(node.users)) if len(node.users) == 1 else None
    gelu = follower is not None and follower.target is F.gelu and follower.args[:1] == (node,)
    if dtype != torch.float32 and not (dtype == torch.bfloat16 and gelu and _in_bf16()):
        return
    last: Any = follower if gelu else node
    form = last.kwargs.get("approximate", "none") if gelu else None
    with graph.inserting_before(last):
        made = graph.call_function(torch.ops.puredit.linear.default, (*(given[name] for name in names), form))
    made.meta.update(last.meta)
    last.replace_all_uses_with(made)
    graph.erase_node(last)
    if gelu:
        graph.erase_node(node)


def _in_fp32(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    """Attend in fp32, and round what comes out."""
    value = _value(node)
    if value.device.type != "cpu" or value.dtype != torch.bfloat16:
        return

    def converted(each: Any, dtype: torch.dtype) -> Any:
        found = _value(each) if isinstance(each, torch.fx.Node) else None
        if found is None or not found.is_floating_point():
            return each
        made = graph.call_method("to", (each, dtype))
        made.meta["example_value"] = found.to(dtype)
        return made

    with graph.inserting_before(node):
        args = [converted(each, torch.float32) for each in node.args]
        kwargs = {name: converted(each, torch.float32) for name, each in node.kwargs.items()}
        wide = graph.create_node("call_function", node.target, tuple(args), kwargs)
        wide.meta["example_value"] = value.to(torch.float32)
        made = converted(wide, torch.bfloat16)
    node.replace_all_uses_with(made)
    graph.erase_node(node)


def _value(node: Any) -> Any:
    """Return the fake tensor that stands for a node's."""
    return node.meta.get("example_value")

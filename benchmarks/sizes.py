"""Sizes of the published checkpoints, without their weights: parameters, operations, bytes of cache.

One step of the full size runs on fake tensors, which have shapes and no numbers.

    python -m benchmarks.sizes --write
"""

import math
from typing import Any

import attrs
import torch
import torch.utils._pytree as pytree
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import pure
from benchmarks.command import parser, publish
from benchmarks.published import PUBLISHED, Published
from benchmarks.table import markdown
from pure.models.common.config import parameter_shapes
from pure.transforms import dbcache, scm, taylorseer

MASK = scm(preset="fast", policy="static")
PLANS = {
    "static mask": pure.compose(dbcache(front=1, threshold=1.0), MASK),
    "dbcache": dbcache(front=1),
    "dbcache + taylorseer(1)": pure.compose(dbcache(front=1), taylorseer(order=1)),
}

CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""The kernel that torch's counter does not know."""


@attrs.frozen
class Sizes:
    """What one step of full size is made of.

    Attributes:
        parameters: their number.
        blocks: number of blocks by kind.
        flops: floating-point operations of one block, by kind.
        step_flops: of the whole step.
        latents: shape of the latents.
        prediction: shape of what came out.
        cache: bytes of the cache of one sample in bf16, by plan.
    """

    parameters: int
    blocks: dict[str, int]
    flops: dict[str, int]
    step_flops: int
    latents: tuple[int, ...]
    prediction: tuple[int, ...]
    cache: dict[str, int]


def measure(found: Published) -> Sizes:
    """Run one step of full size on fake tensors, in bf16."""
    config = found.found.config.read(found.settings)
    denoiser, shapes = found.found.denoiser(config), parameter_shapes(config)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        params = denoiser.bind({name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in shapes.items()})
        conditioning, latents = found.request(torch.bfloat16)
        prepared = denoiser.prepare(params.all, conditioning)
        counter = FlopCounterMode(display=False, custom_mapping={CPU_ATTENTION: _attention})
        with counter:
            hidden, context = denoiser.embed(params.all, prepared, latents, torch.ones(1))
            before = counter.get_total_flops()
            flops: dict[str, int] = {}
            for block, group in zip(denoiser.blocks, params.blocks, strict=True):
                hidden = block.run(group, hidden, context, denoiser.attend)
                now = counter.get_total_flops()
                flops.setdefault(_kind(block), now - before)
                before = now
            prediction = denoiser.head(params.all, hidden, context)
        cache = {name: _bytes(denoiser, plan, params, conditioning, latents) for name, plan in PLANS.items()}
    kinds = [_kind(block) for block in denoiser.blocks]
    return Sizes(
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        blocks={kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        flops=flops,
        step_flops=counter.get_total_flops(),
        latents=tuple(latents.shape),
        prediction=tuple(prediction.shape),
        cache=cache,
    )


def _attention(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _kind(block: pure.Block) -> str:
    return block.prefix.rstrip("0123456789.").rpartition(".")[2]


def _bytes(denoiser: pure.Denoiser, plan: Any, params: Any, conditioning: Any, latents: torch.Tensor) -> int:
    state = plan(denoiser).init(params, conditioning, latents, 28)
    leaves = [leaf for leaf in pytree.tree_leaves((state.cache.probe, state.cache.history))]
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves if isinstance(leaf, torch.Tensor))


def table() -> str:
    """Return all checkpoints as a Markdown table."""
    rows = []
    for found in PUBLISHED:
        sizes = measure(found)
        flops = ", ".join(f"{sizes.blocks[kind]} x {sizes.flops[kind] / 1e12:.2f}" for kind in sizes.blocks)
        cache = [f"{sizes.cache[plan] / 2**20:,.0f}" for plan in PLANS]
        frames, height, width = found.size
        size = f"{height} x {width}" + (f", {frames} frames" if frames > 1 else "")
        row = (
            found.short,
            f"{sizes.parameters / 1e9:.2f}",
            size,
            " x ".join(map(str, sizes.prediction)),
            f"{sizes.step_flops / 1e12:,.0f}",
            flops,
            *cache,
        )
        rows.append(row)
    head = ("checkpoint", "parameters, 10^9", "request", "prediction", "TFLOP a step", "TFLOP by block")
    return markdown((*head, *(f"{plan}, MiB" for plan in PLANS)), rows)


def main() -> None:
    """Print the table, and put it into the document."""
    options = parser(__name__, "models.md").parse_args()
    publish(options.write, "models.md", "sizes", table())


if __name__ == "__main__":
    main()

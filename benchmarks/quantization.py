"""What quantised weights cost and save: bytes, decibels, and time on this CPU.

    python -m benchmarks.quantization --write    # puts the table into docs/quantization.md

Bytes and decibels are those of the checkpoint in the package, in float32: all parameters against
1 without, and a picture after 12 steps against the one without. The time is that of one product of
272 tokens with 256 x 768 weights, on one thread, against 1 without; the products take turns in
every round, and medians are compared.
"""

import functools
from collections.abc import Mapping

import attrs
import torch
import torch.nn.functional as F

import pure
from benchmarks.command import medians, parser, publish
from benchmarks.table import markdown
from pure.models import Pipeline, embedded, load_pipeline
from pure.transforms import Quantization, nbytes, quantize
from pure.transforms.quantize.kinds import KINDS

PROMPT = "a red apple on a blue background"
STEPS = 12
TOKENS, INPUTS, OUTPUTS = 272, 256, 768
KNOWN = {
    "float8_per_row": ("`float8`, `float8_per_row`", "float8, a scale per output", "float8, a scale per token"),
    "float8_per_tensor": ("`float8_per_tensor`", "float8, one scale", "float8, a scale per token"),
    "float8_per_block": ("`float8_blockwise`, `float8_per_block`", "float8, a scale per 128 x 128", "as it is"),
    "float8_weight_only": ("`float8_weight_only`", "float8, a scale per output", "as it is"),
    "int8_per_row": ("`int8`, `int8_per_row`", "int8, a scale per output", "int8, a scale per token"),
    "int8_per_tensor": ("`int8_per_tensor`", "int8, one scale", "int8, a scale per token"),
    "int8_weight_only": ("`int8_weight_only`", "int8, a scale per output", "as it is"),
    "int4_weight_only": ("`int4_weight_only`", "4 bits in a byte each, a scale per 32", "as it is"),
}
"""How the table calls every kind, its weights, and what is multiplied with them."""


def quality(pipeline: Pipeline) -> dict[str, tuple[float, float]]:
    """Return for every kind the bytes against 1 without, and the PSNR of a picture in dB."""

    def picture(params: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return attrs.evolve(pipeline, params=params).generate(PROMPT, steps=STEPS).pixels

    exact, size = picture(pipeline.params), nbytes(pipeline.params)
    found = {}
    for kind in KNOWN:
        params = quantize(pipeline.params, pipeline.denoiser, Quantization(kind=kind))
        error = (picture(params) - exact).square().mean()
        found[kind] = nbytes(params) / size, float(-10 * torch.log10(error))
    return found


def times(rounds: int, seed: int) -> dict[str, float]:
    """Return for every kind the time of a product against 1 without."""
    x = pure.gaussian((1, TOKENS, INPUTS), 0)
    plain = pure.gaussian((1, OUTPUTS, INPUTS), 1)[0]
    weights = {"": plain, **{kind: KINDS[kind].make(plain) for kind in KNOWN}}
    median = medians({name: functools.partial(F.linear, x, weight) for name, weight in weights.items()}, rounds, seed)
    return {kind: median[kind] / median[""] for kind in KNOWN}


def main() -> None:
    """Run the benchmark."""
    words = parser(__name__, "quantization.md")
    words.add_argument("--rounds", type=int, default=101, help="how often every product is taken (default 101)")
    words.add_argument("--seed", type=int, default=0, help="seed of the shuffling")
    options = words.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        found, cost = quality(load_pipeline(embedded())), times(options.rounds, options.seed)
    head = ("`quant_type`", "weights", "activations", "bytes", "decibels", "time on a CPU")
    rows = [
        (*says, f"{found[kind][0]:.2f}", f"{found[kind][1]:.0f}", f"{cost[kind]:.1f}") for kind, says in KNOWN.items()
    ]
    publish(options.write, "quantization.md", "quantization", markdown(head, rows))


if __name__ == "__main__":
    main()

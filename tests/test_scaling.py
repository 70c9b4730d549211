"""What `docs/scaling.md` says is counted and predicted is what the code counts and predicts."""

import json
from pathlib import Path

import pytest
import torch

import pure
from benchmarks import predicted, scaling, sizes, traced
from benchmarks.predicted import FLUX, Way, cost
from benchmarks.traced import Arrival, Message, Product, Trace
from pure.distributed import Sizes, context_parallel
from pure.testing.situation import Situation
from tests.support import ranks
from tests.support.flux import FLUX_DEV
from tests.support.sharded import Collectives, shard

ROOT = Path(__file__).resolve().parents[1]
ROUND = predicted.Machine(
    peak=1e3, used=1.0, memory=1e3, inside=100.0, across=10.0, filled=1.0, begin=1.0, begin_across=2.0
)


def trace(*events: traced.Event) -> Trace:
    return Trace(outside=(), blocks={"block": events}, counts={"block": 2})


@pytest.mark.parametrize(
    ("events", "seconds", "waiting"),
    [
        ([Product(2000, 0), Product(0, 3000)], 5, 0),  # one is bound by operations, one by memory
        ([Message("add", 2, 300, across=False), Arrival(0)], 4, 4),
        ([Message("add", 4, 300, across=False), Arrival(0)], 5, 5),  # two doublings of ranks
        ([Message("add", 2, 30, across=True), Arrival(0)], 5, 5),
        (
            [Message("add", 2, 300, across=False), Product(3000, 0), Arrival(0)],
            4,
            1,
        ),  # sent while something is computed
        ([Message("add", 2, 0, across=False)] * 2 + [Arrival(1)], 2, 2),  # one after the other
    ],
)
def test_a_step_is_played_back(events: list[traced.Event], seconds: float, waiting: float) -> None:
    found = cost(trace(*events), ROUND)
    assert (found.seconds, found.waiting, found.block) == (2 * seconds, 2 * waiting, seconds)


def sent(layout: Sizes) -> dict[str, int]:
    """Return the collectives of a computed step on real ranks, as the tests of `distributed` count them."""
    situation = shard(
        Situation(model=FLUX_DEV, transform=pure.identity, seeds=(1,), count=2), layout, parameters=layout.tp > 1
    )
    state = situation.start()
    with Collectives() as counted:
        situation.apply(state, situation.latents(), situation.schedule()[0])
    return dict(counted.counts)


@pytest.mark.parametrize("layout", [Sizes(ulysses=2), Sizes(ring=2), Sizes(tp=2)], ids=str)
def test_traced_ranks_send_what_real_ones_send(layout: Sizes) -> None:
    model = FLUX_DEV
    shapes = {name: tuple(tensor.shape) for name, tensor in model.params.items()}
    with traced.fake_ranks(layout) as mesh:
        request = lambda: (model.conditioning((1,)), model.latents((1,)))  # noqa: E731
        found = traced.traced(model.first, shapes, request, mesh, context_parallel(mesh), torch.float32)
    assert dict(found.collectives) == ranks.run(sent, 2, layout)[0]


def test_operations_of_attention_are_counted() -> None:
    """24 S D^2 of products, 4 S^2 D of attention, and the modulations of one row."""
    tokens, width = 4096 + 512, 3072
    expected = 24 * tokens * width**2 + 4 * tokens**2 * width
    found = sizes.measure(FLUX).flops["transformer_blocks"]
    assert found == expected + 2 * 2 * 6 * width**2


def test_predictions_in_the_document_are_those_of_the_code() -> None:
    numbers = json.loads((ROOT / "benchmarks" / "predicted.json").read_text())
    assert predicted.tables(numbers) in (ROOT / "docs" / "scaling.md").read_text(), "run benchmarks.predicted --write"
    assert list(numbers) == list(predicted.REQUESTS)
    alone = cost(predicted.step(FLUX, Way("1 GPU", Sizes())))
    for way in predicted.EIGHT[0], predicted.MANY[0]:
        row = numbers["FLUX.1-dev, 1024 x 1024"][way.name]
        assert predicted.predict(FLUX, way, alone) == pytest.approx(row), "run python -m benchmarks.predicted --write"


def test_measurements_in_the_document_are_those_of_the_file() -> None:
    numbers = json.loads((ROOT / "benchmarks" / "scaling.json").read_text())
    assert scaling.tables(numbers) in (ROOT / "docs" / "scaling.md").read_text(), "run benchmarks.scaling --write"
    assert numbers["counted"]["ulysses 2"] == scaling.counted("ulysses", 2)
    for plan in scaling.PLANS:
        assert {mode.name for mode in scaling.MODES} <= set(numbers["seconds"][plan])

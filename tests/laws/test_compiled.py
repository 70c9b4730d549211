"""Law 14: compiled is eager; graphs and compilations are counted, and no second request adds one."""

import warnings
from collections.abc import Iterator

import attrs
import pytest
import torch
from torch._dynamo.utils import counters

import pure
from pure import pieces
from pure.testing.recipes import KERNELS
from pure.testing.situation import Entry, Model, Situation, same
from pure.testing.toys import STREAMS
from pure.transforms import attention, compiled, dbcache, guided, scm, taylorseer
from tests.support.flux import FLUX_DEV

CACHED = pure.compose(dbcache(front=1, back=1, threshold=0.9, warmup=1), taylorseer(order=1))


class Counting:
    """The eager backend, with a count of the graphs it was given."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list) -> torch.fx.GraphModule:
        self.graphs += 1
        return graph


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    backend = Counting()
    _forget()
    yield backend
    assert not counters["graph_break"], f"graph breaks: {dict(counters['graph_break'])}"
    _forget()


def _forget() -> None:
    torch._dynamo.reset()
    counters.clear()
    pieces._compile.cache_clear()


def run(backend: object, *, model: Model = FLUX_DEV, regional: bool = False, transform=CACHED, **fields) -> list[Entry]:
    """Run a request compiled, and check that it is the eager one."""
    fields = {"seeds": (1,), "count": 6, **fields}
    eager = Situation(model=model, transform=transform, **fields)
    options = compiled(backend=backend, regional=regional)  # type: ignore[arg-type]
    entries = attrs.evolve(eager, transform=pure.compose(transform, options)).trace()
    for ours, theirs in zip(entries, eager.trace(), strict=True):
        assert ours.info == theirs.info
        assert same((ours.prediction, ours.after.cache), (theirs.prediction, theirs.after.cache))
    return entries


def skips(entries: list[Entry]) -> int:
    return sum(not computed for entry in entries for computed in entry.info.computed)


def test_four_graphs_for_four_pieces(counting: Counting) -> None:
    assert skips(run(counting)) > 0
    assert counting.graphs == 4
    assert counters["stats"]["unique_graphs"] == 4


def test_nothing_more_for_requests_masks_thresholds_and_step_counts(counting: Counting) -> None:
    assert skips(run(counting)) > 0
    masks = [scm(mask=mask, policy=policy) for mask, policy in (("110100", "static"), ("101011", "dynamic"))]
    assert run(counting, seeds=(2,)) and run(counting, seeds=(3,), count=9) and counting.graphs == 4
    for mask in masks:
        assert run(counting, transform=pure.compose(CACHED, mask))
    for threshold in (0.05, 0.4, 0.9):
        assert run(counting, transform=pure.compose(dbcache(front=1, back=1, threshold=threshold), taylorseer(order=1)))
    limits = dbcache(front=1, back=1, threshold=0.3, warmup=2, max_cached=1, max_continuous=1)
    assert run(counting, transform=pure.compose(limits, taylorseer(order=1)))
    assert counting.graphs == 4


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_of_attention_is_inside_the_graphs(counting: Counting, name: str) -> None:
    assert skips(run(counting, transform=pure.compose(CACHED, attention(name)))) > 0
    assert counting.graphs == 4


def test_nothing_more_for_nine_denoisers(counting: Counting) -> None:
    for number in range(9):
        rebuilt = attrs.evolve(FLUX_DEV.first, plan=pure.Plan())
        run(counting, model=attrs.evolve(FLUX_DEV, denoiser=rebuilt), seeds=(number,), count=4)
    assert counting.graphs == 4


def test_nine_different_denoisers_never_fall_back(counting: Counting) -> None:
    """Dynamo's limit of recompilations counts code objects; isolation keeps each denoiser's own."""
    spans = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 0), (2, 2), (3, 1), (1, 3)]
    for front, back in spans:
        run(counting, transform=dbcache(front=front, back=back, threshold=0.9, warmup=1), count=3)
    compiled_once = counting.graphs
    assert len(spans) < compiled_once <= 4 * len(spans), "equal pieces are shared, others are not"
    for front, back in spans:
        run(counting, transform=dbcache(front=front, back=back, threshold=0.9, warmup=1), count=3, seeds=(7,))
    assert counting.graphs == compiled_once


def test_regional_compiles_every_kind_of_block_once(counting: Counting) -> None:
    assert skips(run(counting, regional=True)) > 0
    # Embed, double block, single block, head, fill-in; blocks of a kind share theirs.
    assert counting.graphs == 5
    for seed in range(9):
        run(counting, regional=True, seeds=(seed,), count=4)
    run(counting, regional=True, transform=pure.compose(CACHED, scm(mask="110100", policy="static")))
    assert counting.graphs == 5
    # Without back blocks the text stream is not kept: another fill-in.
    other = pure.compose(dbcache(front=2, threshold=0.9, warmup=1), taylorseer(order=1))
    run(counting, regional=True, transform=other)
    assert counting.graphs == 6
    run(counting, regional=True, transform=other, seeds=(5,))
    assert counting.graphs == 6
    # Where a mask skips the middle and nothing but the head follows, a double block without what no head reads.
    masked = pure.compose(dbcache(front=1), scm(mask="110100", policy="static"), taylorseer(order=1))
    run(counting, regional=True, transform=masked, seeds=(6,))
    assert counting.graphs == 7


def test_mixed_batches_add_a_fixed_number(counting: Counting) -> None:
    """Sub-batches of every size: the middle compiles for one sample and for any number, and that is all."""
    split = dbcache(front=1, threshold=0.2, warmup=1)
    sizes = set()
    for seeds in ((1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12)):
        entries = run(counting, model=STREAMS, transform=split, seeds=seeds, count=8)
        sizes |= {sum(entry.info.computed) for entry in entries}
    assert {1, 2, 3} <= sizes, "sub-batches of several sizes were computed"
    settled = counting.graphs
    assert settled == MIXED
    for seeds in ((13, 14, 15, 16), (17, 18, 19, 20)):
        run(counting, model=STREAMS, transform=split, seeds=seeds, count=10)
    assert counting.graphs == settled


# Front, fill-in and back once; the middle for the whole batch, for a part of it, and for one sample.
MIXED = 6


def test_guidance_adds_a_fixed_number(counting: Counting) -> None:
    recipe = pure.compose(guided(scale=2.0, start=0.3, stop=0.8), dbcache(front=1, threshold=0.2, warmup=1))
    run(counting, model=STREAMS, transform=recipe, seeds=(1,), count=8)
    first = counting.graphs
    for seed in range(2, 5):
        run(counting, model=STREAMS, transform=recipe, seeds=(seed,), count=8)
    # Every piece for one row (outside the interval) and for two.
    assert counting.graphs == first == 8


def test_the_options_belong_to_the_record() -> None:
    """Where `compiled` stands in a composition does not matter, and two different ones are an error."""
    options = compiled(backend="eager")
    one, two = (pure.compose(*parts)(FLUX_DEV.first) for parts in ((options, CACHED), (CACHED, options)))
    assert one == two and one.compile == pieces.CompileOptions(backend="eager")
    with pytest.raises(ValueError, match=r"compiled\(backend='eager'\) and compiled\(\) both set how pieces are"):
        pure.compose(options, compiled())(FLUX_DEV.first)


@pytest.mark.slow
def test_regional_inductor_agrees_with_eager() -> None:
    _forget()
    eager = Situation(model=FLUX_DEV, transform=CACHED, seeds=(1,), count=6)
    fast = attrs.evolve(eager, transform=pure.compose(CACHED, compiled()))
    with warnings.catch_warnings():
        # Of inductor's own code; not ours to mend.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        entries = fast.trace()
    counted = counters["stats"]["unique_graphs"]
    for ours, theirs in zip(entries, eager.trace(), strict=True):
        assert torch.allclose(ours.prediction, theirs.prediction, atol=1e-5)
        assert ours.info.computed == theirs.info.computed
    assert skips(entries) > 0 and counted == 5
    attrs.evolve(fast, seeds=(2,)).trace()
    assert counters["stats"]["unique_graphs"] == counted and not counters["graph_break"]
    _forget()

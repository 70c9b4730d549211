"""DBPrune: decisions and results of every block from the definition, and what is refused."""

import attrs
import pytest
import torch

import pure
from pure.memory import read
from pure.testing.memory import with_blocks
from pure.testing.situation import Situation
from pure.testing.toys import RANDOM
from pure.transforms import compiled, dbcache, dbprune, scm, taylorseer

SEEDS, COUNT, THRESHOLD, WARMUP = (1, 2, 3), 12, 0.2, 2


def blocks_of(case: Situation, front: int) -> list[tuple[list[int], torch.Tensor]]:
    """Return the blocks that run at every step, and its prediction, of a plain loop that prunes by the definition."""
    model = case.model
    denoiser, bound = model.first, model.first.bind(model.params)
    prepared = denoiser.prepare(bound.all, case.conditioning())
    last: dict[int, tuple[torch.Tensor, dict[str, torch.Tensor]]] = {}
    steps = []
    for index, entry in enumerate(case.trace()):
        hidden, context = denoiser.embed(bound.all, prepared, entry.latents, entry.step.times(1))
        ran = []
        for number, block in enumerate(denoiser.blocks):
            entering = denoiser.probe(hidden)
            change = None
            if number >= front and number in last:
                old = last[number][0]
                change = float((old - entering).abs().sum() / old.abs().sum())
                assert abs(change - THRESHOLD) > 1e-4, "choose a threshold that decides"
            if number < front or index < WARMUP or change is None or change >= THRESHOLD:
                out = block.run(bound.blocks[number], hidden, context, denoiser.attend)
                added = {name: getattr(out, name) - getattr(hidden, name) for name in denoiser.streams}
                last[number] = (entering, added)
                hidden = out
                ran.append(number)
            else:
                added = last[number][1]
                hidden = attrs.evolve(hidden, **{n: getattr(hidden, n) + added[n] for n in denoiser.streams})
        steps.append((ran, denoiser.head(bound.all, hidden, context)))
    return steps


@pytest.mark.parametrize("front", [0, 1])
def test_every_block_decides_as_defined(front: int) -> None:
    prune = dbprune(front=front, threshold=THRESHOLD, warmup=WARMUP)
    case = Situation(model=RANDOM, transform=prune, seeds=(1,), count=COUNT)
    expected, entries, partly = blocks_of(case, front), case.trace(), 0
    size = len(RANDOM.first.blocks)
    for (ran, prediction), entry in zip(expected, entries, strict=True):
        (decision,) = entry.info.decisions
        assert decision.blocks == len(ran) and decision.computed == (len(ran) == size)
        torch.testing.assert_close(entry.prediction, prediction, rtol=1e-5, atol=1e-6)
        partly += front < len(ran) < size
    assert any(len(ran) < size for ran, _ in expected) and (partly > 1 or front == 0), "some steps skip some blocks"


def test_a_batch_prunes_as_its_samples_do_with_a_predictor_and_compiled() -> None:
    prune = pure.compose(dbprune(threshold=THRESHOLD, warmup=4), taylorseer(order=1))
    case = Situation(model=RANDOM, transform=prune, seeds=SEEDS, count=COUNT)
    batch = case.trace()
    for row, seed in enumerate(SEEDS):
        for one, of_batch in zip(case.trace(seeds=(seed,)), batch, strict=True):
            assert one.info.decisions[0].blocks == of_batch.info.decisions[row].blocks
            torch.testing.assert_close(one.prediction[0], of_batch.prediction[row], rtol=1e-4, atol=1e-5)
    compiling = attrs.evolve(case, transform=pure.compose(prune, compiled(backend="eager")))
    for ours, plain in zip(compiling.trace(), batch, strict=True):
        assert [d.blocks for d in ours.info.decisions] == [d.blocks for d in plain.info.decisions]


def test_blocks_to_keep_and_limits() -> None:
    size, ran = len(RANDOM.first.blocks), []

    def wrap(run):
        def block(params, hidden, context, attend):
            ran.append(1)
            return run(params, hidden, context, attend)

        return block

    prune = dbprune(front=1, keep=(2,), threshold=1.0, warmup=1, max_cached=3, max_continuous=2)
    case = Situation(model=RANDOM, transform=prune, seeds=(1,), count=8)
    entries, counted, state = case.trace(), with_blocks(case.denoiser, wrap), case.start()
    for entry in entries:
        ran.clear()
        _, state, info = case.apply(state, entry.latents, entry.step, counted)
        assert len(ran) == info.blocks
    assert [entry.info.blocks for entry in entries] == [size, 2, 2, size, 2, size, size, size]
    assert [memory.skipped for memory in read(entries[-1].after.cache.ledger)] == [3]


def test_a_mask_is_followed() -> None:
    masked = pure.compose(dbprune(threshold=1.0, warmup=0), scm(mask="10110100", policy="static"))
    entries = Situation(model=RANDOM, transform=masked, seeds=(1,), count=8).trace()
    assert "".join(str(int(e.info.computed[0])) for e in entries) == "10110100"


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dbprune\(\) and dbcache\(\) both set which blocks may be skipped"):
        pure.compose(dbprune(), dbcache(front=1))(RANDOM.first)
    size = len(RANDOM.first.blocks)
    with pytest.raises(ValueError, match=f"keeps a block that is not there: the denoiser has {size}; give indices"):
        dbprune(keep=(1, 99))(RANDOM.first)
    every = tuple(range(size))
    for options in ({"front": 99}, {"back": size - 1}, {"keep": every[1:]}, {"front": 0, "keep": every}):
        with pytest.raises(ValueError, match=f"leaves no block to skip: the denoiser has {size}; make front and back"):
            dbprune(**options)(RANDOM.first)  # type: ignore[arg-type]
    wrong = {"threshold": -1.0, "front": -1, "back": "x", "keep": [1], "max_cached": -1, "follow": "both"}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            dbprune(**{name: value})  # type: ignore[arg-type]
    case = Situation(model=RANDOM, transform=dbprune(), seeds=(1,), count=4)
    with pytest.raises(ValueError, match=r"^dbprune\(\) decides block by block, and a program once a step"):
        pure.program(case.single, case.schedule(), case.solver)

"""SpeCa: its decisions and errors from the definition, and what is refused."""

import pytest
import torch

import pure
from pure import Answer, Memory, Where
from pure.testing.memory import with_blocks
from pure.testing.situation import Situation
from pure.testing.toys import RANDOM
from pure.transforms import dbcache, scm, speca, taylorseer

SEEDS, COUNT = (1, 2, 3), 16
RULE = {"threshold": 0.05, "decay": 0.5, "floor": 0.01, "least": 1, "most": 4, "warmup": 5}


def last_blocks(case: Situation) -> list[torch.Tensor]:
    """Return what the last block added to the measured stream at every step, (B, N, D), run for all samples."""
    found, probe, count = [], case.model.first.probe, len(case.model.first.blocks)
    number = [0]

    def wrap(run):
        def block(params, hidden, context, attend):
            after = run(params, hidden, context, attend)
            number[0] += 1
            found.append((probe(after) - probe(hidden)).detach())
            return after

        return block

    state, seen = case.start(with_blocks(case.denoiser, wrap)), []
    for entry in case.trace():
        found.clear()
        _, state, _ = case.apply(state, entry.latents, entry.step, with_blocks(case.denoiser, wrap))
        assert len(found) in (1, count)
        seen.append(found[-1])
    return seen


def test_drafts_are_verified_as_defined() -> None:
    parts = [speca(**RULE), taylorseer(order=1)]
    case = Situation(model=RANDOM, transform=pure.compose(*parts), seeds=SEEDS, count=COUNT)
    added, entries, seer = last_blocks(case), case.trace(), taylorseer(order=1)
    skips = rejected = 0
    for row in range(len(SEEDS)):
        computed: list[int] = []
        streak, error = 0, -1.0
        for index, entry in enumerate(entries):
            decision = entry.info.decisions[row]
            limit = max(0.05 * 0.5 ** (index / COUNT), 0.01)
            refused = streak >= 1 and error > limit
            assert streak < 1 or abs(error - limit) > 1e-6, "choose a threshold that decides"
            expected = index < 5 or streak >= 4 or refused
            assert decision.computed == expected, (index, error, limit)
            if expected:
                computed, streak, error = [index, *computed], 0, -1.0
                rejected += refused
                continue
            streak, skips = streak + 1, skips + 1
            now = added[index][row].double()
            times = tuple(computed[:2])
            draft = sum(w * added[t][row].double() for w, t in zip(seer.weights(times, index, 0), times, strict=True))
            error = float((now - draft).norm() / now.norm())
            assert decision.change == pytest.approx(error, rel=1e-4) and decision.reason == "speca"
    assert skips > 3 and rejected > 1, (skips, rejected)


def test_the_threshold_falls_and_drafts_are_counted() -> None:
    (rule,) = speca(threshold=0.4, decay=0.25, floor=0.15, least=2, most=3, warmup=1)(RANDOM.first).plan.rules

    def ask(index: int, streak: int, error: float) -> Answer:
        memory = Memory(skipped=1, streak=streak, computed=1, first=0, accumulated=0.0, times=(0,), size=error)
        return rule.answer(Where(index, 10), memory)

    assert ask(0, 0, -1.0) is Answer.COMPUTE, "warm-up"
    assert ask(5, 0, -1.0) is ask(5, 1, 9.0) is ask(5, 2, 0.19) is Answer.SKIP, "the first is never rejected"
    assert ask(5, 2, 0.21) is ask(5, 3, 0.0) is ask(5, 2, float("nan")) is Answer.COMPUTE, "0.4 x 0.25^0.5 is 0.2"
    assert ask(9, 2, 0.14) is Answer.SKIP and ask(9, 2, 0.16) is Answer.COMPUTE, "the floor"


def test_a_mask_computes_first() -> None:
    masked = pure.compose(speca(threshold=9.0, floor=9.0, warmup=1, most=9), scm(mask="1000100000"))
    entries = Situation(model=RANDOM, transform=masked, seeds=(1,), count=10).trace()
    assert "".join(str(int(e.info.computed[0])) for e in entries) == "1000100000"


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"speca\(\) and dbcache\(\) both set which blocks may be skipped"):
        pure.compose(speca(), dbcache(front=1))(RANDOM.first)
    with pytest.raises(ValueError, match="asks for blocks that always run, but the denoiser has"):
        speca(back=99)(RANDOM.first)
    with pytest.raises(ValueError, match=r"speca\(least=9, most=2\): after 2 drafts .* give at most 2, or raise most"):
        speca(least=9, most=2)
    assert (speca(most=0).most, speca(most=1).most, speca(least=9, most=9).least) == (0, 1, 9)
    wrong = {"threshold": -1.0, "decay": 0.0, "floor": "x", "least": -1, "most": -1, "back": 0, "warmup": 0.5}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            speca(**{name: value})  # type: ignore[arg-type]

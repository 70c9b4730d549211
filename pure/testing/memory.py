"""Laws 3, 4, 5 and 15: purity, the structure and size of the state, saving, recovery."""

import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.utils._pytree as pytree

import pure
from pure import Denoiser
from pure.experts import transformed
from pure.testing.situation import Situation, caches, same, tensors
from pure.tree import signature


def apply_is_pure(situation: Situation) -> None:
    """Law 3: the same arguments twice give the same answers; nothing passed in changes."""
    denoiser, params = situation.denoiser, situation.model.params
    conditioning, carry = situation.conditioning(), situation.carry()
    modules = {name: dict(vars(module)) for name, module in sys.modules.items() if name.split(".")[0] == "pure"}
    generator, state = torch.get_rng_state(), situation.start()
    witnesses = [_witness((params, conditioning, carry))]
    for step in situation.schedule():
        latents = situation.solver.latents(carry)
        witnesses.append(_witness((state, carry, step.timestep, step.sigma)))
        first = situation.apply(state, latents, step)
        again = situation.apply(state, latents, step)
        assert same(first[:2], again[:2]) and first[2] == again[2], (
            f"step {step.index}: the same arguments gave two results"
        )
        state, carry = first[1], situation.solver.step(carry, first[0], step)
    for witness in witnesses:
        _assert_untouched(witness)
    assert torch.equal(torch.get_rng_state(), generator), "the global generator was advanced"
    for name, attributes in modules.items():
        now = vars(sys.modules[name])
        assert all(now.get(key) is value for key, value in attributes.items()), (
            f"an attribute of module {name} was changed"
        )
    assert same(situation.start(denoiser), situation.start(denoiser))


def old_states_still_work(situation: Situation) -> None:
    """Law 3: whatever came after it, a state continues as it did the first time."""
    entries = situation.trace()
    for entry in reversed(entries):
        prediction, after, info = situation.apply(entry.before, entry.latents, entry.step)
        again = same((prediction, after), (entry.prediction, entry.after)) and info == entry.info
        assert again, f"the state before step {entry.step.index} continues differently after later steps were taken"


def _witness(tree: Any) -> list[tuple[str, torch.Tensor, torch.Tensor, int]]:
    return [(path, leaf, leaf.clone(), leaf._version) for path, leaf in tensors(tree).items()]


def _assert_untouched(witness: list[tuple[str, torch.Tensor, torch.Tensor, int]]) -> None:
    for path, leaf, copy, version in witness:
        assert leaf._version == version, f"{path} was modified in place"
        assert torch.equal(leaf, copy), f"the value of {path} changed"


def structure_is_invariant(situation: Situation) -> None:
    """Law 4: same tree, shapes, strides, dtypes from `init` on; every leaf owns exactly its memory."""
    state = situation.start()
    expected = signature(state)
    for frame in situation.unroll(state, situation.carry(), situation.schedule()):
        assert signature(frame.state) == expected
        for cache in caches(frame.state):
            leaves = tensors(cache)
            for path, leaf in leaves.items():
                held = leaf.untyped_storage().nbytes()
                assert leaf.is_contiguous() and held == leaf.nbytes, f"{path} is a view of {held} bytes"
            places = {leaf.data_ptr() for leaf in leaves.values() if leaf.numel()}
            assert len(places) == sum(leaf.numel() > 0 for leaf in leaves.values()), "two leaves share memory"
            assert not places & {leaf.data_ptr() for leaf in tensors((frame.latents, situation.model.params)).values()}


def init_works_on_meta(situation: Situation) -> None:
    """Law 4: shapes are known without a single number."""
    meta = attrs.evolve(situation, model=_on_meta(situation))
    real, shadow = tensors(situation.start()), tensors(meta.start(situation.denoiser))
    assert real.keys() == shadow.keys()
    for path, leaf in shadow.items():
        wanted = real[path]
        assert (leaf.shape, leaf.dtype, leaf.stride()) == (wanted.shape, wanted.dtype, wanted.stride()), path
        assert leaf.device.type == ("cpu" if path.endswith(".ledger") else "meta"), path


def _on_meta(situation: Situation) -> Any:
    model = situation.model

    def move(tree: Any) -> Any:
        return pytree.tree_map_only(torch.Tensor, lambda leaf: leaf.to("meta"), tree)

    return attrs.evolve(
        model,
        params=move(dict(model.params)),
        conditioning=lambda seeds: move(model.conditioning(seeds)),
        latents=lambda seeds: model.latents(seeds).to("meta"),
    )


def state_has_the_promised_size(situation: Situation) -> None:
    """Law 4: K residuals of the streams that later blocks read, one probe and 6 + K numbers, per row.

    Differences of streams in fp16 are kept in fp32.
    """
    wide = 2 if situation.latents().dtype == torch.float16 else 1
    db, seer, static = situation.dbcache, situation.predictor, situation.static
    first = situation.model.first
    threshold = db.threshold if db else 0.0
    limited = db is not None and 0 in (db.max_cached, db.max_continuous)
    skipping = static or (threshold > 0 and not limited)
    back = db.back if db else 0
    read = first.streams if back or first.reads is None else first.reads
    probing = 0 < threshold < 1 or (threshold >= 1 and db is not None and db.max_accumulated is not None)
    for expert, cache in zip(_sizes(situation), caches(situation.start()), strict=True):
        expected = {name: _depth(seer, name, first) for name in read} if skipping else {}
        depth = max(expected.values(), default=0)
        assert cache.ledger.shape == (situation.rows, 6 + depth) and cache.ledger.device.type == "cpu"
        assert sum(leaf.nbytes for leaf in tensors(cache.history).values()) == situation.rows * wide * sum(
            expert[name] * times for name, times in expected.items()
        )
        probe = situation.rows * wide * expert["image"] * probing
        assert (cache.probe.nbytes if cache.probe is not None else 0) == probe


def _depth(seer: Any, name: str, denoiser: Denoiser) -> int:
    if seer is None:
        return 1
    wanted = seer.streams
    if wanted is None:
        wanted = denoiser.streams if denoiser.reads is None else denoiser.reads
    longest = max([seer.order + 1, *(len(history) for history, _, _ in getattr(seer, "table", ()))])
    return longest if wanted == "all" or name in wanted else 1


def _sizes(situation: Situation) -> list[dict[str, int]]:
    """Bytes of every stream of one sample, per expert."""
    model = situation.model
    if isinstance(model.denoiser, Denoiser):
        pairs = [(model.denoiser, model.params)]
    else:
        named = {step.expert for step in situation.schedule()}
        pairs = [(each, model.params[name]) for name, each in model.denoiser.denoisers.items() if name in named]
    found = []
    for denoiser, params in pairs:
        prepared = denoiser.prepare(params, model.conditioning((0,)))
        hidden, _ = denoiser.embed(params, prepared, model.latents((0,)), torch.zeros(1))
        found.append({name: getattr(hidden, name).nbytes for name in denoiser.streams})
    return found


def saving_changes_nothing(situation: Situation) -> None:
    """Law 5: stop at any step, save, load, go on: the same bits."""
    entries, steps = situation.trace(), situation.schedule()
    with tempfile.TemporaryDirectory() as folder:
        for stop, entry in enumerate(entries):
            path = Path(folder) / f"{stop}.safetensors"
            pure.save_state((entry.before, entry.carry), path)
            fresh = (situation.start(seeds=tuple(700 + seed for seed in situation.seeds)), situation.carry())
            state, carry = pure.load_state(path, like=fresh)
            assert signature(state) == signature(entry.before)
            assert same((state, carry), (entry.before, entry.carry))
            frames = list(situation.unroll(state, carry, steps[stop:]))
            for frame, then in zip(frames, entries[stop:], strict=True):
                on = same(frame.state, then.after) and frame.info == then.info
                assert on, f"saved before step {stop} and loaded, step {then.step.index} gives another result"
            last = entries[-1]
            assert same(frames[-1].carry, situation.solver.step(last.carry, last.prediction, last.step))


class Sabotage(Exception):
    """What the saboteur raises."""


def failure_leaves_nothing(situation: Situation) -> None:
    """Law 15: after an exception in a block, or a request dropped half-way, the next is as if it were the first."""
    fresh = situation.trace()
    calls = situation.random().randrange(1, 2 + sum(map(_runs, fresh)))
    denoiser, armed = sabotaged(situation.denoiser, calls)
    before = _witness(situation.model.params)
    try:
        situation.trace(denoiser)
    except Sabotage:
        armed.clear()
    armed.clear()
    _assert_untouched(before)
    for entry, expected in zip(situation.trace(denoiser), fresh, strict=True):
        alike = same((entry.prediction, entry.after), (expected.prediction, expected.after))
        assert alike and entry.info == expected.info, f"step {entry.step.index} gives another result after a failure"
    frames = situation.unroll(situation.start(denoiser), situation.carry(), situation.schedule(), denoiser)
    for _ in range(random.Random(situation.seed).randrange(1, situation.count + 1)):
        next(frames)
    frames.close()
    for entry, expected in zip(situation.trace(denoiser), fresh, strict=True):
        alike = same(entry.prediction, expected.prediction) and entry.info == expected.info
        assert alike, f"step {entry.step.index} gives another result after a request that was dropped"


def _runs(entry: Any) -> int:
    return max(decision.blocks for decision in entry.info.decisions)


def sabotaged(denoiser: Any, calls: int) -> tuple[Any, list[int]]:
    """Return a denoiser whose blocks raise at the given call, and the list that arms it."""
    armed = [calls]

    def wrap(run):
        def block(params, hidden, context, attend):
            if armed:
                armed[0] -= 1
                if not armed[0]:
                    raise Sabotage
            return run(params, hidden, context, attend)

        return block

    return with_blocks(denoiser, wrap), armed


def with_blocks(denoiser: Any, wrap: Any) -> Any:
    """Wrap the function of every block, of every expert."""

    def wrapped(one: Denoiser) -> Denoiser:
        return attrs.evolve(one, blocks=tuple(attrs.evolve(block, run=wrap(block.run)) for block in one.blocks))

    return transformed(denoiser, wrapped)

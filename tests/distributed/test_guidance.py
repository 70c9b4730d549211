"""`guidance_parallel`: a branch of guidance a rank; the predictions, decisions and reports of one process."""

import warnings

import attrs
import pytest
import torch
from torch._dynamo.utils import counters

import pure
from pure.distributed import Sizes, context_parallel, guidance_parallel, make_mesh
from pure.testing import memory
from pure.testing.situation import Situation
from pure.transforms import compiled, dbcache, guided, taylorseer
from tests.laws import sharded
from tests.laws.laws import FAMILIES
from tests.support import ranks
from tests.support.flux import FLUX_DEV
from tests.support.sharded import Collectives, difference, report, same_reports, shard
from tests.support.wan import WAN_EXPERTS, WAN_T2V

TAYLOR = taylorseer(order=1)
SEEDS = (3, 4)


def cached(**options):
    return pure.compose(guided(scale=2.5), dbcache(**{"front": 1, "threshold": 0.5, "warmup": 1, **options}), TAYLOR)


RUN = Situation(model=FLUX_DEV, transform=cached(), seeds=SEEDS, count=6)


@pytest.mark.parametrize("way", sharded.GUIDED)
@pytest.mark.parametrize("follow", ["own", "conditional"])
def test_is_one_process_whatever_else_is_divided(follow, way):
    situation = attrs.evolve(RUN, transform=cached(follow=follow))
    assert any(len(set(entry.info.computed)) == 2 for entry in situation.trace()), "rows decide differently"
    sharded.every_way_is_one_process(situation, sharded.GUIDED[way])


@pytest.mark.parametrize("model", FAMILIES, ids=str)
def test_every_family(model):
    situation = Situation(model=model, transform=cached(threshold=0.6), seeds=SEEDS, count=4)
    sharded.every_way_is_one_process(situation, sharded.GUIDED["cfg"])


@pytest.mark.parametrize("options", [{"normalize": "token"}, {"normalize": "sample", "cap": 0.5}])
def test_norms_that_are_kept(options):
    transform = pure.compose(guided(scale=2.5, **options), dbcache(front=1, threshold=0.5, warmup=1))
    sharded.every_way_is_one_process(attrs.evolve(RUN, transform=transform), sharded.GUIDED["cfg"])


def _laws():
    situation = shard(RUN, Sizes(cfg=2))
    for law in (memory.apply_is_pure, memory.old_states_still_work, memory.structure_is_invariant):
        law(situation)


def test_laws_of_one_process_hold_on_every_rank():
    ranks.run(_laws, 2)


def _counted():
    """What each step sends, and how many rows the first block sees."""
    situation, sent = shard(RUN, Sizes(cfg=2)), []
    block, rows = situation.model.first.blocks[0], []

    def seen(params, hidden, context, attend):
        rows.append(hidden.image.shape[0])
        return block.run(params, hidden, context, attend)

    first = attrs.evolve(block, run=seen)
    model = situation.model
    denoiser = attrs.evolve(model.first, blocks=(first, *model.first.blocks[1:]))
    situation = attrs.evolve(situation, model=attrs.evolve(model, denoiser=denoiser))
    state = situation.start()
    for entry in RUN.trace():
        with Collectives() as counted:
            _, state, info = situation.apply(state, entry.latents, entry.step)
        sent.append((any(change is not None for change in info.changes), dict(counted.counts)))
    return rows, sent


def test_what_is_sent_and_computed():
    """A gather of the prediction, another where something is measured; blocks see the rows of one branch."""
    for rows, sent in ranks.run(_counted, 2):
        assert set(rows) == {len(SEEDS)}
        assert {measured for measured, _ in sent} == {True, False}
        assert all(counts == {"all_gather_into_tensor": 1 + measured} for measured, counts in sent)


def _leaving():
    """The second sample leaves after two steps; the first goes on as it would alone."""
    situation, found = shard(RUN, Sizes(cfg=2)), []
    state = situation.start()
    for number, entry in enumerate(RUN.trace()):
        if number == 2:
            state = pure.take(state, torch.tensor([0, 1]))
        latents = entry.latents if number < 2 else entry.latents[:1]
        prediction, state, info = situation.apply(state, latents, entry.step)
        found.append((prediction[:1], info.computed[:2]))
    return found


def test_samples_leave_a_batch():
    for found in ranks.run(_leaving, 2):
        for (prediction, computed), entry in zip(found, RUN.trace(), strict=True):
            assert difference(prediction, entry.prediction[:1]) <= 2e-6 and computed == entry.info.computed[:2]


def _unguided():
    alone = attrs.evolve(RUN, transform=pure.compose(dbcache(front=1, threshold=0.5, warmup=1), TAYLOR))
    with Collectives() as sent:
        found = report(shard(alone, Sizes(cfg=2)))
    return found, alone.trace(), dict(sent.counts)


def test_a_request_without_guidance_runs_whole_and_sends_nothing():
    for found, alone, sent in ranks.run(_unguided, 2):
        assert sent == {}
        assert same_reports(found, [(entry.prediction, entry.info.decisions) for entry in alone])


def _refused():
    mesh = make_mesh(Sizes(cfg=2))
    divide = guidance_parallel(mesh)
    with pytest.raises(ValueError, match="the branches are divided twice; compose guidance_parallel"):
        pure.compose(divide, divide)(FLUX_DEV.first)
    part = attrs.evolve(RUN, transform=pure.compose(guided(scale=2.5, stop=0.5), divide))
    with pytest.raises(ValueError, match=r"guides some steps only, .*leave guidance_parallel.* out"):
        part.start()
    (note,) = divide(FLUX_DEV.first).notes(4)
    assert "have no effect, as nothing is guided" in note.text
    assert not pure.compose(guided(scale=2.0), divide)(FLUX_DEV.first).notes(4)


def test_what_cannot_be_divided_is_refused_or_noted():
    ranks.run(_refused, 2)


def _ordered():
    mesh = make_mesh(Sizes(cfg=2, ulysses=2))
    parts = (guided(scale=2.5), dbcache(), guidance_parallel(mesh), context_parallel(mesh))
    assert pure.compose(*parts)(FLUX_DEV.first) == pure.compose(*reversed(parts))(FLUX_DEV.first)


def test_the_order_does_not_matter():
    ranks.run(_ordered, 4)


@pytest.mark.parametrize("model", [WAN_EXPERTS, WAN_T2V], ids=str)
def test_experts_and_tokens(model):
    situation = Situation(model=model, transform=cached(), seeds=SEEDS, count=6)
    sharded.every_way_is_one_process(situation, sharded.GUIDED["ulysses"])


def _compiled():
    eager = report(shard(RUN, Sizes(cfg=2)))
    transform = pure.compose(RUN.transform, compiled(backend="eager"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo looks at what other libraries have deprecated
        found = report(shard(attrs.evolve(RUN, transform=transform), Sizes(cfg=2)))
        before = counters["stats"]["unique_graphs"]
        again = report(shard(attrs.evolve(RUN, transform=transform), Sizes(cfg=2)))
    return same_reports(found, eager) and same_reports(again, eager), counters["stats"]["unique_graphs"] - before


def test_compiled_is_eager_and_a_second_request_compiles_nothing():
    assert ranks.run(_compiled, 2) == [(True, 0)] * 2

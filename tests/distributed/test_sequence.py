"""`context_parallel`: what is decided, sent, remembered and refused. Law 13 is in tests/laws/test_sharded.py."""

import attrs
import hypothesis
import pytest
import torch
import torch.distributed as dist
from hypothesis import HealthCheck
from hypothesis import strategies as st
from torch.distributed.device_mesh import init_device_mesh

import pure
from pure.attention import attend
from pure.distributed import Sizes, context_parallel, make_mesh
from pure.models.flux.config import FluxConfig
from pure.models.flux.denoiser import Conditioning, flux
from pure.testing import toys
from pure.testing.situation import SOLVER, Model, Situation, same
from pure.testing.toys import RANDOM
from pure.transforms import compiled, dbcache, guided, scm, taylorseer
from tests.laws.sharded import run_alike
from tests.support import ranks
from tests.support.adder import drawn
from tests.support.flux import FLUX, FLUX_DEV
from tests.support.sharded import Collectives, difference, numbers, report, same_reports, shard, uneven
from tests.support.wan import WAN_T2V

SLOWLY = hypothesis.settings(max_examples=4, suppress_health_check=(HealthCheck.too_slow,), database=None)
CACHED = pure.compose(dbcache(front=1, threshold=0.6, warmup=1), taylorseer(order=1))
RUN = Situation(model=FLUX_DEV, transform=CACHED, seeds=(1, 2), count=5)


def sized(heads: int, text: int, rows: int, columns: int) -> Model:
    """FLUX with so many heads and tokens."""
    config = {**FLUX, "num_attention_heads": heads, "guidance_embeds": False}
    params = drawn(FluxConfig.read(config), 0.12)
    grid = torch.cartesian_prod(torch.zeros(1), torch.arange(rows).float(), torch.arange(columns).float())
    ids = pure.Shared(value=torch.cat([torch.zeros(text, 3), grid]))

    def conditioning(seeds):
        words, pooled = toys.rows((text, 8), 1000)(seeds), toys.rows((8,), 2000)(seeds)
        return Conditioning(text=words, pooled=pooled, guidance=None, ids=ids)

    latents = toys.rows((rows * columns, 4), 3000)
    return Model(name="flux", denoiser=flux(config), params=params, conditioning=conditioning, latents=latents)


@SLOWLY
@hypothesis.given(
    model=st.builds(sized, st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)),
    seeds=st.integers(1, 3).map(lambda count: tuple(range(count))),
    guide=st.sampled_from((pure.identity, guided(scale=2.5), guided(scale=2.5, start=0.2, stop=0.7))),
)
def test_any_number_of_tokens_heads_and_samples(model, seeds, guide):
    """Also fewer tokens of a stream, and fewer heads, than ranks."""
    situation = Situation(model=model, transform=pure.compose(CACHED, guide), seeds=seeds, count=4)
    run_alike(situation, (Sizes(ulysses=4), Sizes(ring=4), Sizes(ring=2, ulysses=2)), first=2e-6, later=2e-5)


def _split(layout):
    situation = shard(Situation(model=WAN_T2V, transform=CACHED, seeds=(1, 2, 3), count=6), layout)
    return report(situation)


def test_all_ranks_compute_the_same_part_of_a_batch():
    alone = Situation(model=WAN_T2V, transform=CACHED, seeds=(1, 2, 3), count=6).trace()
    parts = [sum(entry.info.computed) for entry in alone]
    assert {1, 2} & set(parts), f"the batch is split: {parts}"
    for found in ranks.run(_split, 2, Sizes(ulysses=2)):
        assert [sum(decision.computed for decision in decisions) for _, decisions in found] == parts


# Two tokens move and two do not. On two ranks one would compute and one would skip.

MOVING = uneven(steady=[1.0, 1.0, 1.0, 1.0], moving=[1.0, 1.0, 0.0, 0.0])


def straddling(**options) -> Situation:
    """A change of 0.0667 measured on all tokens, of 0.1 on the first rank's and of 0 on the second's."""
    return Situation(model=MOVING, transform=dbcache(front=1, warmup=0, **options), seeds=(1,), count=2)


def _straddle(layout, options, agreeing):
    situation, step = straddling(**options), attrs.evolve(SOLVER.schedule(2, tokens=4)[0], count=2)
    sharded = shard(situation, layout)
    denoiser = sharded.denoiser if agreeing else attrs.evolve(sharded.single, agree=None)
    steps = [attrs.evolve(step, index=i, timestep=torch.tensor(1.0 - 0.2 * i)) for i in range(2)]
    return sharded.trace(denoiser, steps=steps)[1].info.decisions[0]


@pytest.mark.parametrize("layout", [Sizes(ulysses=2), Sizes(ring=2)], ids=str)
def test_ranks_whose_changes_straddle_the_threshold_agree(layout):
    apart = ranks.run(_straddle, 2, layout, {"threshold": 0.08}, False)
    assert [decision.computed for decision in apart] == [True, False], "alone they would decide otherwise"
    first, second = ranks.run(_straddle, 2, layout, {"threshold": 0.08}, True)
    assert first == second and not first.computed and first.change == pytest.approx(0.4 / 6)
    assert all(decision.computed for decision in ranks.run(_straddle, 2, layout, {"threshold": 0.06}, True))


def test_important_tokens_are_those_of_all_ranks():
    """The second rank has none, and does not take part with all it has."""
    apart = ranks.run(_straddle, 2, Sizes(ulysses=2), {"threshold": 0.08, "importance": 0.05}, False)
    assert [decision.change for decision in apart] == pytest.approx([0.1, 0.0], abs=1e-6)
    for decision in ranks.run(_straddle, 2, Sizes(ulysses=2), {"threshold": 0.08, "importance": 0.05}, True):
        assert decision.computed and decision.change == pytest.approx(0.1)
    for decision in ranks.run(_straddle, 2, Sizes(ulysses=2), {"threshold": 0.08, "importance": 0.5}, True):
        assert not decision.computed and decision.change == pytest.approx(0.4 / 6), "none is important: all count"


# What is sent: attention in every block that runs, one agreement where a change is measured, one prediction.


def _sent(layout, transform, options):
    situation = shard(attrs.evolve(RUN, transform=transform, seeds=(1,)), layout, **options)
    state, latents, found = situation.start(), situation.latents(), []
    for step in situation.schedule():
        with Collectives() as sent:
            prediction, state, info = situation.apply(state, latents, step)
        latents = SOLVER.step(latents, prediction, step)
        (decision,) = info.decisions
        found.append((decision, dict(sent.counts)))
    return found


@pytest.mark.parametrize(
    ("layout", "options", "attention"),
    [
        (Sizes(ulysses=2), {}, {"all_to_all_single": 2}),
        (Sizes(ulysses=2), {"overlap": True}, {"all_to_all_single": 4}),
        (Sizes(ring=3), {}, {"all_to_all_single": 2}),
        (Sizes(ring=3), {"rotate": "allgather"}, {"all_gather_into_tensor": 1}),
        (Sizes(ring=2, ulysses=2), {}, {"all_to_all_single": 3}),
    ],
    ids=str,
)
def test_skipped_steps_send_nothing_in_the_middle(layout, options, attention):
    axes = (layout.ring > 1) + (layout.ulysses > 1)
    for transform in (CACHED, pure.compose(CACHED, scm(mask="10100", policy="static"))):
        for found in ranks.run(_sent, layout.total, layout, transform, options):
            assert {decision.computed for decision, _ in found} == {True, False}
            for decision, counts in found:
                expected = {name: count * decision.blocks for name, count in attention.items()}
                gathers = axes * (1 + (decision.change is not None))
                expected["all_gather_into_tensor"] = expected.get("all_gather_into_tensor", 0) + gathers
                assert counts == expected, decision
                assert decision.blocks == (4 if decision.computed else 1)


# What is remembered.


def _remembered(layout):
    return numbers(shard(RUN, layout).start())


@pytest.mark.parametrize("layout", [Sizes(ulysses=4), Sizes(ring=4), Sizes(ring=2, ulysses=2)], ids=str)
def test_every_rank_remembers_its_share(layout):
    found, alone = ranks.run(_remembered, 4, layout), numbers(RUN.start())
    # Four tokens of the image on four ranks; of the text nothing is remembered.
    assert sum(found) == alone and found == [alone // 4] * 4


def _begin(layout, folder, stop):
    situation = shard(RUN, layout)
    entries = situation.trace()
    pure.save_state((entries[stop].before, entries[stop].latents), folder / f"rank{dist.get_rank()}.safetensors")
    return [(entry.prediction, entry.info.decisions) for entry in entries[stop:]]


def _go_on(layout, folder, stop):
    situation = shard(RUN, layout)
    like = situation.start(), situation.latents()
    state, latents = pure.load_state(folder / f"rank{dist.get_rank()}.safetensors", like=like)
    found = []
    for step in situation.schedule()[stop:]:
        prediction, state, info = situation.apply(state, latents, step)
        latents = SOLVER.step(latents, prediction, step)
        found.append((prediction, info.decisions))
    return found


def test_other_processes_go_on_to_the_same_bits(tmp_path):
    layout = Sizes(ring=2, ulysses=2)
    whole, rest = (ranks.run(each, 4, layout, tmp_path, 2) for each in (_begin, _go_on))
    assert all(same_reports(a, b) for a, b in zip(whole, rest, strict=True)) and len(rest[0]) == RUN.count - 2


# Composition, compilation.


def _composed():
    parallel, cached = context_parallel(make_mesh(Sizes(ulysses=2))), dbcache(front=1, threshold=0.6, warmup=1)
    one, other = pure.compose(parallel, cached), pure.compose(cached, parallel)
    assert one(FLUX_DEV.first) == other(FLUX_DEV.first) != cached(FLUX_DEV.first)
    both = one(pure.Experts({"high": FLUX_DEV.first, "low": FLUX_DEV.first}))
    assert both.denoisers["high"] == both.denoisers["low"] == one(FLUX_DEV.first)
    assert repr(one).startswith("compose(context_parallel(") and one != other


def test_the_place_in_a_composition_does_not_matter():
    ranks.run(_composed, 2)


def _one_rank():
    parallel = context_parallel(make_mesh(Sizes(tp=2)))
    assert parallel(FLUX_DEV.first) == FLUX_DEV.first and parallel(RANDOM.first) == RANDOM.first


def test_ranks_that_divide_something_else_change_nothing():
    ranks.run(_one_rank, 2)


def _compiled(layout):
    backend = Counting()
    eager = shard(RUN, layout)
    made = attrs.evolve(eager, transform=pure.compose(eager.transform, compiled(backend=backend, regional=True)))
    first, expected = made.trace(), eager.trace()
    graphs = backend.graphs
    again = attrs.evolve(made, seeds=(3, 4)).trace()
    pairs = zip(first, expected, strict=True)
    equal = all(same((a.prediction, a.after.cache), (b.prediction, b.after.cache)) for a, b in pairs)
    skips = [sum(not computed for entry in run for computed in entry.info.computed) for run in (first, again)]
    return equal, graphs, backend.graphs, skips, [entry.info for entry in first] == [entry.info for entry in expected]


class Counting:
    """The eager backend, with a count of the graphs it was given."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph


@pytest.mark.parametrize("layout", [Sizes(ulysses=2), pytest.param(Sizes(ring=2), marks=pytest.mark.slow)], ids=str)
def test_compiled_is_eager(layout):
    """As many graphs as on one rank: embedding, two kinds of blocks, head, fill-in."""
    for equal, first, again, skips, alike in ranks.run(_compiled, 2, layout, limit=400.0):
        assert equal and alike and all(skips) and first == again == 5


# Refusals.


def _refused(denoiser, match, layout, options):
    with pytest.raises(ValueError, match=match):
        context_parallel(make_mesh(layout), **options)(denoiser)


def borrowed(q, k, v, mask=None, whole=False):
    return attend(q, k, v, mask)


BORROWING = attrs.evolve(FLUX_DEV.first, attend=borrowed)


@pytest.mark.parametrize(
    ("denoiser", "match", "layout", "options"),
    [
        (RANDOM.first, "does not say which of its inputs belong to single tokens.*use a family", Sizes(ring=2), {}),
        (BORROWING, "log-sum-exp, which the attention .*borrowed.* does not give; use rotate='all", Sizes(ring=2), {}),
        (FLUX_DEV.first, r"rotate='alltoall'.: choose one of", Sizes(ring=2), {"rotate": "alltoall"}),
    ],
)
def test_what_cannot_be_divided_is_refused(denoiser, match, layout, options):
    ranks.run(_refused, layout.total, denoiser, match, layout, options)


def _twice():
    parallel = context_parallel(make_mesh(Sizes(ulysses=2)))
    with pytest.raises(ValueError, match="divided twice; compose context_parallel"):
        pure.compose(parallel, parallel)(FLUX_DEV.first)
    other = init_device_mesh("cpu", (2,), mesh_dim_names=("rows",))
    with pytest.raises(ValueError, match=r"the mesh has no axis 'ring', its axes are 'rows'; make it with .*make_mesh"):
        context_parallel(other)(FLUX_DEV.first)


def test_dividing_twice_or_by_another_mesh_is_refused():
    ranks.run(_twice, 2)


def _any_attention():
    """Attention that cannot be taken in parts does where all keys are there."""
    mesh = make_mesh(Sizes(ring=2, ulysses=2))
    made = context_parallel(mesh, rotate="allgather")(BORROWING)
    situation = attrs.evolve(RUN, model=attrs.evolve(FLUX_DEV, denoiser=made), transform=CACHED)
    return report(situation)


def test_any_attention_will_do_where_all_keys_are_there():
    for found in ranks.run(_any_attention, 4):
        for (prediction, _), entry in zip(found, RUN.trace(), strict=True):
            assert difference(prediction, entry.prediction) <= 1e-6


def _quick(options):
    return report(shard(RUN, Sizes(ulysses=2), **options))


def test_float8_and_overlap():
    exact, eight, late = (ranks.run(_quick, 2, options)[0] for options in ({}, {"float8": True}, {"overlap": True}))
    assert same_reports(exact, late)
    apart = difference(eight[0][0], exact[0][0])
    assert 1e-4 < apart < 0.05

"""Where cache-dit and puredit part, each does what `docs/differences.md` says."""

import itertools
import math
import re
from pathlib import Path

import attrs
import pytest
import torch

import pure
from pure.measure import relative
from pure.transforms import dbcache, scm, taylorseer
from tests.parity import differing
from tests.parity.cases import HEIGHT, PROMPTS, TEXT, WIDTH, Case

DOCUMENT = (Path(__file__).parents[2] / "docs/differences.md").read_text()
# The rows after these are tested beside what they are about, as their sections say.
ROWS = re.findall(r"^\| \*\*(.+?)\*\* \|", DOCUMENT.partition("## Models and pipelines")[0], re.MULTILINE)
FAR = 1e-4  # latents this far apart were computed in another way: rounding is below 1e-6


def row(what: str) -> None:
    """Say which row of the document a test is about."""
    assert what in ROWS


def refusal(peer, case: Case) -> str:
    """Return what cache-dit refuses a case with."""
    error = peer.reports[case.name]["error"]
    assert error is not None
    return error


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference."""
    return (one - other).abs().max().item()


def start(pipeline, transform: pure.Transform, count: int) -> pure.State:
    """Begin a run of `count` steps."""
    request = pipeline.request(PROMPTS[0], max_sequence_length=TEXT, height=HEIGHT, width=WIDTH)
    conditioning, latents = pipeline.encode(request), pipeline.noise(request, 0)
    return transform(pipeline.denoiser).init(pipeline.params, conditioning, latents, count)


def written(transform: scm, count: int) -> str | None:
    """Return the mask of a run, as text."""
    mask = transform.source.mask(count)
    return None if mask is None else "".join(map(str, mask))


def test_every_row_has_a_test() -> None:
    source = Path(__file__).read_text()
    assert [what for what in ROWS if f'row("{what}")' not in source] == []


def test_samples_of_a_batch_decide_on_their_own(ours, peer) -> None:
    row("A batch")
    together, alone = ours(differing.BATCH), [ours(case) for case in differing.ALONE]
    assert together.skipped == tuple(run.skipped[0] for run in alone)
    assert together.skipped[0] != together.skipped[1]
    assert [peer[case.name].skipped[0] for case in differing.ALONE] == [run.skipped[0] for run in alone]
    theirs = peer[differing.BATCH.name]
    assert theirs.skipped[0] not in together.skipped or theirs.skipped[0] != together.skipped[0]
    first = min(theirs.changes[0])
    one, other = (changes[first] for changes in together.changes)
    assert min(one, other) < theirs.changes[0][first] < max(one, other)


def test_the_accumulated_change_starts_anew_at_a_computed_step(ours, peer) -> None:
    row("`max_accumulated`")
    mine, theirs = ours(differing.ACCUMULATED), peer[differing.ACCUMULATED.name]
    (skipped,), limit = mine.skipped, differing.ACCUMULATED.max_accumulated or 0.0
    tripped = max(theirs.skipped[0]) + 1
    assert sum(theirs.changes[0].values()) >= limit and skipped & set(range(tripped)) == theirs.skipped[0]
    assert not [step for step in theirs.skipped[0] if step > tripped]
    assert [step for step in skipped if step > tripped]
    for last, before in itertools.pairwise(sorted(set(range(20)) - skipped, reverse=True)):
        assert sum(mine.changes[0][step] for step in range(before + 1, last - 1)) < limit


def test_a_residual_of_zero_that_stays_zero_has_not_changed(ours, peer) -> None:
    row("A front residual of zero")
    mine, theirs = ours(differing.ZEROED), peer[differing.ZEROED.name]
    assert all(torch.tensor(list(theirs.changes[0].values())).isnan()) and not theirs.skipped[0]
    assert set(mine.changes[0].values()) == {0.0} and mine.skipped[0] == frozenset(range(2, 20))
    assert (relative(0.0, 0.0), relative(1.0, 0.0)) == (0.0, math.inf)
    # The first-block cache of diffusers: not above the threshold is skipped, and NaN is not.
    assert apart(ours(differing.FIRST_BLOCK_ZEROED).latents, peer[differing.FIRST_BLOCK_ZEROED.name].latents) < 1e-5


def test_the_change_is_a_float32_number(ours, peer) -> None:
    row("Models in bfloat16")

    def rounded(changes: dict) -> bool:
        values = torch.tensor(list(changes.values()))
        return torch.equal(values, values.bfloat16().float())

    assert rounded(peer[differing.HALF.name].changes[0])
    assert not rounded(ours(differing.HALF).changes[0])


def test_guidance_branches_are_named(ours, peer) -> None:
    row("Guidance branches")
    guided = ours(differing.UNFLAGGED)
    theirs = peer[differing.UNFLAGGED.name]
    assert all(guided.skipped)
    assert not theirs.skipped[0] and max(theirs.changes[0]) == 2 * differing.UNFLAGGED.steps - 1
    plain, theirs = ours(differing.FLAGGED), peer[differing.FLAGGED.name]
    assert plain.skipped[0] and all(theirs.skipped)
    assert max(map(max, theirs.changes)) == differing.FLAGGED.steps // 2 - 1


def test_a_static_mask_starts_with_a_computed_step(pipeline, peer) -> None:
    row("A static mask that starts with 0")
    assert "must be set before" in refusal(peer, differing.STATIC_ZERO)
    with pytest.raises(ValueError, match="starts with 0, but there is nothing to reuse"):
        start(pipeline, differing.STATIC_ZERO.transform(), differing.STATIC_ZERO.steps)


def test_a_mask_has_one_entry_per_step(pipeline, peer) -> None:
    row("A mask of another length than the run")
    static, dynamic = (peer[case.name].skipped[0] for case in differing.SHORT)
    assert static == {3, 5, *range(6, 12)}
    assert dynamic and dynamic < static
    assert peer[differing.LONG.name].skipped[0] <= {2, 4, 5}
    for mask, count in (("111010", 12), ("1101001", 6)):
        with pytest.raises(ValueError, match=f"has {len(mask)} entries, but the run has {count} steps"):
            start(pipeline, scm(mask=mask, policy="static"), count)


def test_an_unknown_policy_is_refused(ours, peer) -> None:
    row("An unknown policy")
    assert peer[differing.POLICY.name].skipped[0] == ours(differing.POLICY).skipped[0]  # that is, "dynamic"
    with pytest.raises(ValueError, match="choose one of"):
        scm(mask="1101", policy="sttic")


def test_masks_of_presets_are_the_published_ones(peer) -> None:
    row("Step counts without a preset")
    for preset, theirs in peer.reports["masks"]["presets"].items():
        for count, mask in enumerate(theirs, start=1):
            transform = scm(preset=preset, policy="static")
            if mask is None:
                assert count in (1, 2, 3, 5, 7)
                assert written(transform, count) is None
                assert f"no mask '{preset}' for {count} steps" in transform.source.notes(count)[0].text
            else:
                assert written(transform, count) == mask


def test_bins_may_be_short(peer) -> None:
    row("Bins that do not cover the run")
    short, same, none = peer.reports["masks"]["bins"]
    transform = scm(compute_bins=[3, 1, 1], cache_bins=[2, 3])
    assert none is None
    assert written(transform, 10) == same == "1110010001"
    assert written(transform, 7) == short == "1110010"
    assert "cut to the run's 7" in transform.source.notes(7)[0].text
    assert written(transform, 12) == "111001000111"
    assert "the remaining 2 are computed" in transform.source.notes(12)[0].text


def test_bins_come_in_pairs(peer) -> None:
    row("One kind of bins without the other")
    assert peer.reports["masks"]["half of the bins"] == peer.reports["masks"]["presets"]["medium"][11]
    with pytest.raises(ValueError, match="needs cache_bins too"):
        scm(compute_bins=[3, 1, 1])


def test_front_and_back_do_not_overlap(ours, pipeline, peer) -> None:
    row("More front and back blocks than there are")
    plain = ours(attrs.evolve(differing.OVERLAP, threshold=1e-6)).latents  # every step is computed
    assert apart(peer[differing.WHOLE.name].latents, plain) < 1e-5
    assert apart(peer[differing.OVERLAP.name].latents, plain) > FAR
    with pytest.raises(ValueError, match="make front \\+ back fewer than 6"):
        dbcache(front=4, back=4)(pipeline.denoiser)


def test_no_front_blocks(pipeline, peer) -> None:
    row("No front block")
    assert "Fn_compute_blocks must be >= 1" in refusal(peer, differing.NO_FRONT)
    with pytest.raises(ValueError, match="no front block whose change could be compared"):
        dbcache(front=0, threshold=0.1)(pipeline.denoiser)
    assert pure.compose(dbcache(front=0, threshold=1.0))(pipeline.denoiser).plan.span == pure.Span(front=0, back=0)


def test_an_interval_of_0_is_refused_where_it_is_written(peer) -> None:
    row("`warmup_interval=0`")
    assert "must not be zero" in refusal(peer, differing.INTERVAL)
    with pytest.raises(ValueError, match=r"warmup_interval=0"):
        dbcache(warmup_interval=0)


def test_a_cache_that_can_never_skip_says_so(pipeline, peer) -> None:
    row("A cache that can never skip")
    assert not peer[differing.NEVER.name].skipped[0]
    assert "nothing will be skipped" in dbcache(warmup=8)(pipeline.denoiser).notes(6)[0].text
    (note,) = differing.NEVER.transform()(pipeline.denoiser).notes(differing.NEVER.steps)
    assert "skipped" in note.text


def test_requests_may_interleave(pipeline, ours, peer, noise) -> None:
    row("Requests that interleave")
    case = differing.INTERLEAVED
    alone = ours(case).latents
    assert apart(peer[case.name].latents, alone) > FAR
    denoiser = case.transform()(pipeline.denoiser)
    runs = []
    for i, prompt in enumerate(PROMPTS):
        request = pipeline.request(prompt, steps=case.steps, max_sequence_length=TEXT, height=HEIGHT, width=WIDTH)
        conditioning, latents, steps = pipeline.encode(request), noise[i : i + 1], pipeline.schedule(request)
        state = denoiser.init(pipeline.params, conditioning, latents, steps)
        runs.append(
            pure.unroll(denoiser, pipeline.params, state, pipeline.solver.init(latents), steps, pipeline.solver)
        )
    *_, (last, _) = zip(*runs, strict=True)
    assert torch.equal(last.latents, alone)


def test_an_abandoned_request_leaves_nothing_behind(pipeline, ours, peer) -> None:
    row("A request that breaks off")
    case = differing.INTERRUPTED
    whole = ours(case).latents
    assert apart(peer[case.name].latents, whole) > FAR
    asked = pipeline.request(PROMPTS[0], steps=case.steps, max_sequence_length=TEXT, height=HEIGHT, width=WIDTH)
    denoiser, steps = case.transform()(pipeline.denoiser), pipeline.schedule(asked)
    conditioning, latents = pipeline.encode(asked), pipeline.noise(asked, 0)

    def stop(frame: pure.Frame) -> None:
        if frame.step.index == case.steps // 2:
            raise InterruptedError("the user went away")

    request = (denoiser, pipeline.params, conditioning, latents, steps, pipeline.solver)
    with pytest.raises(InterruptedError, match="went away"):
        pure.sample(*request, observe=stop)
    assert torch.equal(pure.sample(*request).latents, whole)


def test_what_is_kept(pipeline, peer) -> None:
    row("What is kept, and for how long")
    kept = "".join(peer.reports[differing.TWICE.name]["kept"])
    assert "Bn_residual_encoder" in kept  # the text's, with no back block to read it, after the request
    for back, streams in ((0, 1), (1, 2)):
        assert len(start(pipeline, dbcache(back=back), 8).cache.history) == streams


def test_a_second_cache_is_refused(pipeline, ours, peer) -> None:
    row("A second cache on the same model")
    case = differing.TWICE
    assert peer[case.name].skipped[0] == ours(case).skipped[0]  # the first one's
    with pytest.raises(ValueError, match=r"dbcache\(threshold=0.35\) and dbcache\(threshold=1.0\) both set"):
        pure.compose(dbcache(threshold=0.35), dbcache(threshold=1.0))(pipeline.denoiser)


def test_defaults_are_those_of_sglang(peer) -> None:
    row("Defaults")
    names = ("Fn_compute_blocks", "max_warmup_steps", "residual_diff_threshold", "max_continuous_cached_steps")
    assert [peer.reports["defaults"][name] for name in names] == [8, 8, 0.08, -1]
    ours = dbcache()
    assert [ours.front, ours.warmup, ours.threshold, ours.max_continuous] == [1, 4, 0.24, 3]


def test_settings_are_not_written_to(peer) -> None:
    row("The settings object")
    assert peer.reports[differing.TWICE.name]["separate"] == [None, False]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        dbcache().threshold = 0.5  # type: ignore[misc]


def test_first_block_cache_of_diffusers_is_a_special_case(ours, peer) -> None:
    row("First-block cache")
    assert apart(ours(differing.FIRST_BLOCK).latents, peer[differing.FIRST_BLOCK.name].latents) < 1e-5


def test_taylorseer_starts_cold_and_is_not_exact_on_quadratics() -> None:
    row("TaylorSeer")
    first, second = taylorseer(order=1), taylorseer(order=2)
    assert first.weights((2, 1), 3, 0) == (1.0, 0.0)  # holds
    assert first.weights((3, 2), 4, 0) == (2.0, -1.0)
    times, target = (6, 5, 4), 8
    quadratic = sum(w * t**2 for w, t in zip(second.weights(times, target, 0), times, strict=True))
    assert quadratic == pytest.approx(62) and target**2 == 64


def test_latents_tell_predictors_apart(ours) -> None:
    """Were the skipped middle filled in wrongly, the comparison with cache-dit would see it."""
    base = Case(name="", threshold=0.4, back=1)
    variants = [base, *(attrs.evolve(base, order=order) for order in (1, 2, 3))]
    variants += [attrs.evolve(base, order=1, on="hidden"), attrs.evolve(base, order=1, streams="all")]
    latents = [ours(case).latents for case in variants]
    assert min(apart(one, other) for one, other in itertools.combinations(latents, 2)) > FAR

"""Laws 1 and 2: a cache that never skips is no cache; composition is an algebra."""

import itertools
import math
from typing import ClassVar

import attrs

import pure
from pure.decide import can_skip
from pure.experts import denoisers_of
from pure.testing.situation import KNOWN, Situation, caches, same
from pure.transforms import dbcache, fora, magcache, scm


@attrs.frozen
class Always(pure.Rule):
    """Compute, before any other rule is asked; the machinery for skipping stays in place."""

    rank: ClassVar[float] = -math.inf
    name: ClassVar[str] = "always"

    @property
    def may_skip(self) -> bool:
        """Say no."""
        return False

    def answer(self, where: pure.Where, memory: pure.Memory) -> pure.Answer:
        """Compute."""
        return pure.Answer.COMPUTE


@attrs.frozen
class always(pure.Transform):
    """Keep whatever else is composed from skipping."""

    def edit(self, denoiser: pure.Denoiser) -> pure.Denoiser:
        """Add the rule."""
        return attrs.evolve(denoiser, plan=denoiser.plan.add(Always()))


def never_skipping(situation: Situation) -> list[Situation]:
    """The same recipe, kept from skipping in three ways; the first two leave the machinery in place."""
    if not situation.known:
        return [attrs.evolve(situation, transform=pure.compose(situation.transform, always()))]
    count = situation.count

    def ones(part):
        if isinstance(part, fora):
            return attrs.evolve(part, interval=1)
        if isinstance(part, magcache):
            return attrs.evolve(part, max_skip=0)
        given = {"preset": None, "compute_bins": None, "cache_bins": None, "steps": None}
        return attrs.evolve(part, mask=(1,) * count, **given) if isinstance(part, scm) else part

    def warm(part):
        if isinstance(part, fora):
            return attrs.evolve(part, warmup=count)
        if isinstance(part, magcache):
            return attrs.evolve(part, retention=1.0)
        return attrs.evolve(part, warmup=count, warmup_interval=1) if isinstance(part, dbcache) else ones(part)

    def zero(part):
        return attrs.evolve(part, threshold=0.0) if isinstance(part, dbcache) else ones(part)

    everywhere = ones if situation.scm else warm
    # Experts have step counts of their own, which no single explicit mask can fit.
    if isinstance(situation.model.denoiser, pure.Experts) and situation.scm:
        parts = [tuple(zero(part) for part in situation.parts if not isinstance(part, scm))]
    else:
        parts = [tuple(map(change, situation.parts)) for change in (everywhere, warm, zero)]
    return [attrs.evolve(situation, transform=pure.compose(*changed)) for changed in parts]


def never_skip_is_plain(situation: Situation) -> None:
    """Law 1: threshold 0, or a mask of ones: the plain denoiser, bit for bit."""
    plain = situation.trace(situation.plain)
    for never in never_skipping(situation):
        for ours, theirs in zip(never.trace(), plain, strict=True):
            assert all(ours.info.computed), f"a step was skipped: {ours.info.reasons}"
            assert same(ours.prediction, theirs.prediction), (
                f"step {ours.step.index} is computed and differs from the step without a cache"
            )
    assert not any(can_skip(each.plan.rules) for each in denoisers_of(situation.plain).values())


def composition_is_an_algebra(situation: Situation) -> None:
    """Law 2: identity is neutral, composition associative, and cache transforms commute."""
    parts, whole = situation.parts, situation.transform
    assert pure.compose(pure.identity, whole) == pure.compose(whole, pure.identity) == pure.compose(*parts)
    for cut in range(len(parts) + 1):
        assert pure.compose(pure.compose(*parts[:cut]), pure.compose(*parts[cut:])) == pure.compose(*parts)
    assert pure.identity(situation.model.denoiser) == situation.model.denoiser
    assert whole(situation.model.denoiser) == situation.denoiser, (
        "the transform makes two denoisers that are not equal: keep what it adds in frozen records, not in closures"
    )
    if not _edits_plans_only(situation):
        return
    assert pure.compose(whole, *parts)(situation.model.denoiser) == situation.denoiser, "not idempotent"
    one_by_one = situation.model
    for part in parts:
        one_by_one = attrs.evolve(one_by_one, denoiser=part(one_by_one.denoiser))
    assert one_by_one.denoiser == situation.denoiser
    expected = situation.trace()
    for order in list(itertools.permutations(parts))[1:]:
        shuffled = pure.compose(*order)(situation.model.denoiser)
        assert shuffled == situation.denoiser
    reverse = pure.compose(*reversed(parts))(situation.model.denoiser)
    for ours, theirs in zip(situation.trace(reverse), expected, strict=True):
        assert ours.info == theirs.info, "composed in reverse it decides otherwise"
        assert same((ours.prediction, caches(ours.after)), (theirs.prediction, caches(theirs.after)))


def _edits_plans_only(situation: Situation) -> bool:
    """Whether what the laws do not know edits nothing but the plan: only then is the order of no importance."""
    others = [part for part in situation.parts if type(part) not in KNOWN]
    edited = pure.compose(*others)(situation.model.denoiser)
    pairs = zip(denoisers_of(edited).values(), denoisers_of(situation.model.denoiser).values(), strict=True)
    return all(attrs.evolve(one, plan=plain.plan) == plain for one, plain in pairs)

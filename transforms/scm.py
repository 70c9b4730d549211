"""SCM, step-computation masks: choose beforehand which steps compute.

A mask has one entry per step: 1 computes; 0 skips (policy "static") or leaves the
decision to the other rules (policy "dynamic").
"""

from collections.abc import Sequence

import attrs

from pure.checks import choice, optional, shown, whole
from pure.composition import Transform
from pure.denoiser import Denoiser
from pure.notes import Note
from pure.rules import Mask, MaskSource, resolve
from pure.step import MOST_STEPS

__all__ = ["scm"]

PRESETS = ("slow", "medium", "fast", "ultra")
POLICIES = ("dynamic", "static")

# Lengths of the runs of ones and of zeros, alternating, ones first.
BASE = {
    "slow": ((8, 3, 3, 2, 1, 1), (1, 2, 2, 2, 3)),
    "medium": ((6, 2, 2, 2, 2, 1), (1, 3, 3, 3, 3)),
    "fast": ((6, 1, 1, 1, 1, 1), (1, 3, 4, 5, 4)),
    "ultra": ((4, 1, 1, 1, 1), (2, 5, 6, 7)),
}
FEW = {
    "slow": ((4, 2, 2, 2, 1), (1, 1, 1, 1)),
    "medium": ((4, 2, 1, 1, 1), (1, 1, 2, 2)),
    "fast": ((3, 1, 1, 1, 1), (1, 2, 2, 3)),
    "ultra": ((2, 1, 1, 1, 1), (1, 2, 3, 3)),
}
NINE = {
    "slow": ((5, 2, 1), (1,)),
    "medium": ((5, 1, 1), (1, 1)),
    "fast": ((4, 1, 1), (1, 2)),
    "ultra": ((3, 1, 1), (2, 2)),
}
EIGHT = {
    "slow": ((5, 1, 1), (1,)),
    "medium": ((4, 1, 1), (1, 1)),
    "fast": ((3, 1, 1), (1, 2)),
    "ultra": ((2, 1, 1), (2, 2)),
}
SIX = ((3, 1), (2,))
FOUR = ((2, 1), (1,))
BASE_STEPS = 28
LONGEST = 2**200  # of a run of bins: longer than any run of steps, and short enough to be written out


def preset_mask(preset: str, count: int) -> tuple[int, ...] | None:
    """Return the published mask of a preset for `count` steps; None where none is published.

    >>> "".join(map(str, preset_mask("fast", 28)))
    '1111110100010000100000100001'
    """
    runs = _runs(preset, count)
    if runs is None:
        return None
    ones, zeros = _truncate(runs[0], runs[1], count)
    entries = _interleave(ones, zeros, count)
    return (*entries[:-1], 1)


def _runs(preset: str, count: int) -> tuple[Sequence[int], Sequence[int]] | None:
    if count > BASE_STEPS:
        ones, zeros = BASE[preset]
        return _stretch(ones, zeros, count)
    if count >= 16:
        return BASE[preset]
    if count > 9:
        return FEW[preset]
    return {9: NINE[preset], 8: EIGHT[preset], 6: SIX, 4: FOUR}.get(count)


def _stretch(ones: Sequence[int], zeros: Sequence[int], count: int) -> tuple[list[int], list[int]]:
    """Grow the runs in turn, each by half its share, until they cover `count` steps: earlier runs grow first."""
    grown_ones, grown_zeros = list(ones), list(zeros)

    def growth(length: int) -> int:
        return max(int(length * (count / BASE_STEPS * 0.5)), 1)

    turns: list[tuple[list[int], int, int]] = []
    for place, zero in enumerate(zeros):
        turns += [(grown_ones, place, growth(ones[place])), (grown_zeros, place, growth(zero))]
    turns.append((grown_ones, len(ones) - 1, 1))
    while sum(grown_ones) + sum(grown_zeros) < count:
        for runs, place, more in turns:
            runs[place] += more
            if sum(grown_ones) + sum(grown_zeros) >= count:
                break
    return grown_ones, grown_zeros


def _truncate(ones: Sequence[int], zeros: Sequence[int], count: int) -> tuple[list[int], list[int]]:
    """Shorten the last run of zeros and the last run of ones in turn until they cover `count` steps."""
    runs = (list(zeros), list(ones))
    turn = 0
    while sum(runs[0]) + sum(runs[1]) > count:
        shrinking = runs[turn % 2]
        turn += 1
        if shrinking:
            shrinking[-1] -= 1
            if not shrinking[-1]:
                shrinking.pop()
    return runs[1], runs[0]


def _interleave(ones: Sequence[int], zeros: Sequence[int], most: int) -> tuple[int, ...]:
    """Return runs of ones and zeros in turn, at most `most` entries: a run may be longer than memory."""
    entries: list[int] = []
    for place in range(max(len(ones), len(zeros))):
        for entry, runs in ((1, ones), (0, zeros)):
            entries += [entry] * min(runs[place] if place < len(runs) else 0, most - len(entries))
    return tuple(entries)


@attrs.frozen
class Preset:
    """A mask derived from the step count of the run."""

    name: str
    steps: int | None = None

    def mask(self, count: int) -> tuple[int, ...] | None:
        """Return the preset's mask; None for a step count without one."""
        return preset_mask(self.name, count)

    def notes(self, count: int) -> tuple[Note, ...]:
        """Say if the mask is meant for another step count, or if there is none for this one."""
        found = []
        if self.steps is not None and self.steps != count:
            found.append(
                Note(f"the mask {self.name!r} is meant for {self.steps} steps; this run of {count} has its own")
            )
        if resolve(self, count) is None:
            text = f"there is no mask {self.name!r} for {count} steps (only for 4, 6, and 8 or more)"
            found.append(Note(f"{text}; the mask is off, other rules stay on"))
        return tuple(found)


@attrs.frozen
class Explicit:
    """A mask written out."""

    entries: tuple[int, ...]

    def mask(self, count: int) -> tuple[int, ...]:
        """Return the entries.

        Raises:
            ValueError: there are not exactly `count` of them.
        """
        if len(self.entries) != count:
            shown = "".join(map(str, self.entries[:80])) + ("..." if len(self.entries) > 80 else "")
            raise ValueError(
                f"the mask {shown} has {len(self.entries)} entries, but the run has {count} "
                f"steps; give {count} entries or run {len(self.entries)} steps"
            )
        return self.entries

    def notes(self, count: int) -> tuple[Note, ...]:
        """Return none: a mask that does not fit is an error."""
        return ()


@attrs.frozen
class Bins:
    """A mask as alternating runs: compute_bins[0] ones, cache_bins[0] zeros, ..."""

    compute: tuple[int, ...]
    cache: tuple[int, ...]

    def mask(self, count: int) -> tuple[int, ...]:
        """Return the mask; bins that are too short compute the remaining steps, longer ones are cut."""
        entries = _interleave(self.compute, self.cache, count)
        return entries + (1,) * (count - len(entries))

    @property
    def cure(self) -> str:
        """What to change where it computes every step of a run."""
        return "shorten compute_bins, so that cache_bins come before the end"

    def notes(self, count: int) -> tuple[Note, ...]:
        """Say if the bins do not cover exactly `count` steps."""
        covered = sum(self.compute) + sum(self.cache)
        if covered < count:
            return (Note(f"the bins cover {covered} of {count} steps; the remaining {count - covered} are computed"),)
        if covered > count:
            return (Note(f"the bins cover {covered} steps and are cut to the run's {count}"),)
        return ()


@attrs.frozen(kw_only=True)
class scm(Transform):
    """Follow a step mask; give exactly one of `preset`, `mask`, or both bins.

    Args:
        preset: "slow", "medium", "fast" or "ultra" (about 64, 54, 39 and 29 % of 28 steps computed),
            or "none". Step counts without a published mask (1, 2, 3, 5, 7) turn the mask off,
            with a note, and leave the other rules on.
        mask: one entry per step, as a sequence of 0 and 1 or a string of them.
        compute_bins, cache_bins: lengths of the alternating runs of computed and skippable steps.
        steps: number of steps the mask is meant for; an explicit mask must have that many entries.
        policy: what a 0 means: "dynamic" leaves the decision to the other rules, "static" skips
            without asking them.

    Raises:
        ValueError: a value is not allowed; by `init`: the mask does not fit the run.

    >>> scm(mask="1101", policy="static").source.mask(4)
    (1, 1, 0, 1)

    Reference: https://github.com/vipshop/cache-dit (steps computation masking).
    """

    preset: str | None = attrs.field(default=None, validator=optional(choice(*PRESETS, "none")))
    mask: tuple[int, ...] | None = attrs.field(default=None, converter=lambda value: _entries(value))
    compute_bins: tuple[int, ...] | None = attrs.field(default=None, converter=lambda v: _bins("compute_bins", v))
    cache_bins: tuple[int, ...] | None = attrs.field(default=None, converter=lambda v: _bins("cache_bins", v))
    steps: int | None = attrs.field(default=None, validator=optional(whole(1, "the number of steps", MOST_STEPS)))
    policy: str = attrs.field(default="dynamic", validator=choice(*POLICIES))

    def __attrs_post_init__(self) -> None:
        if (self.compute_bins is None) != (self.cache_bins is None):
            given, other = ("compute_bins", "cache_bins") if self.cache_bins is None else ("cache_bins", "compute_bins")
            raise ValueError(f"scm({given}=...) needs {other} too: a mask alternates between the two")
        given = [name for name in ("preset", "mask", "compute_bins") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"scm takes one of preset, mask, or compute_bins with cache_bins; got {given or 'none'}")
        if self.steps is not None and self.mask is not None:
            self.source.mask(self.steps)

    @property
    def source(self) -> MaskSource:
        """The record the mask of a run is derived from."""
        if self.mask is not None:
            return Explicit(self.mask)
        if self.compute_bins is not None and self.cache_bins is not None:
            return Bins(self.compute_bins, self.cache_bins)
        return Preset(self.preset or "none", self.steps)

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Add the mask rule."""
        if self.preset == "none":
            return denoiser
        return attrs.evolve(denoiser, plan=denoiser.plan.add(Mask(self.source, self.policy)))


def _entries(value: object) -> tuple[int, ...] | None:
    if value is None:
        return None
    items = list(value) if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray) else []
    if not items or not all(map(_is_entry, items)):
        raise ValueError(f"scm(mask={shown(value)}): a mask is a sequence of 0 and 1, one entry per step")
    return tuple(int(item) for item in items)


def _is_entry(item: object) -> bool:
    return item in (0, 1) and not isinstance(item, bool) if isinstance(item, int) else str(item) in ("0", "1")


def _bins(name: str, value: object) -> tuple[int, ...] | None:
    if value is None:
        return None
    items = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
    whole = all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < LONGEST for item in items)
    if not items or not whole or (name == "compute_bins" and items[0] == 0):
        raise ValueError(
            f"scm({name}={shown(value)}): bins are whole numbers of at least 0, such as [8, 3, 3, 2, 2], "
            "and the first compute bin is at least 1"
        )
    return items

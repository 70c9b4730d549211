"""An independent model of the closed-form denoiser under any plan, written with numbers and no blocks.

It follows DESIGN.md and the published recursion, not the code of `pure`; rules are plain
ifs in their canonical order.
"""

from typing import Any

import attrs
import torch

import pure
from pure.experts import first_of
from pure.rules import Mask, resolve
from pure.testing import toys
from pure.testing.situation import Situation
from pure.transforms import hermite, magcache, newton

NEAR = 1e-5  # a change this close to a limit may be decided either way


def guide(guidance: Any, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Return the guided prediction of each sample, (B, ..., D), from its definition, in fp64 and then rounded."""
    made = []
    for plus, minus in zip(positive.double(), negative.double(), strict=True):
        one = (1 - guidance.scale) * minus + guidance.scale * plus
        if guidance.normalize == "token":
            one = one / one.norm(dim=-1, keepdim=True) * plus.norm(dim=-1, keepdim=True)
        if guidance.normalize == "sample" and one.norm() > guidance.cap * plus.norm():
            one = one / one.norm() * guidance.cap * plus.norm()
        made.append(one)
    return torch.stack(made).to(positive.dtype)


def is_guided(guidance: Any, step: pure.Step) -> bool:
    """Return whether guidance acts at a step: in its interval, and where there is noise enough."""
    where = step.rows(1)[0]
    inside = guidance.start <= where.index / where.count < guidance.stop
    assert step.sigma is not None
    return inside and float(step.sigma) >= guidance.lowest_sigma


@attrs.define
class Recursion:
    """TaylorSeer as published, on tensors: derivatives are updated at every computed step."""

    order: int
    first: int = -1
    last: int = -1
    ladder: list = attrs.Factory(list)

    def update(self, value: Any, time: int) -> None:
        """Take in the value of a computed step."""
        if self.first < 0:
            self.first = time
        new = [value]
        for old in self.ladder[: self.order] if time - self.first >= 3 else []:
            new.append((new[-1] - old) / (time - self.last))
        self.ladder, self.last = new, time

    def predict(self, time: int) -> Any:
        """Return the value at a later time."""
        total, factor = 0.0, 1.0
        for i, derivative in enumerate(self.ladder):
            factor = factor * (time - self.last) / i if i else 1.0
            total = total + derivative * factor
        return total


class Table(Recursion):
    """The recursion, but for the histories and targets that a table has weights for: the longest history counts."""

    def __init__(self, order: int, table: tuple) -> None:
        super().__init__(order)
        self.table, self.values = table, []

    def update(self, value: Any, time: int) -> None:
        """Take in the value of a computed step."""
        super().update(value, time)
        self.values.insert(0, (time, value))

    def predict(self, time: int) -> Any:
        """Return the value at a later time."""
        for history, target, weights in sorted(self.table, key=lambda row: -len(row[0])):
            newest = self.values[: len(history)]
            if target == time and tuple(at for at, _ in newest) == history:
                return sum(weight * value for weight, (_, value) in zip(weights, newest, strict=True))
        return super().predict(time)


class Neville(Recursion):
    """The polynomial through the last order + 1 values, by Neville's algorithm."""

    def __init__(self, order: int) -> None:
        super().__init__(order)
        self.values = []

    def update(self, value: Any, time: int) -> None:
        """Take in the value of a computed step."""
        super().update(value, time)
        self.values = [(time, value), *self.values][: self.order + 1]

    def predict(self, time: int) -> Any:
        """Return the value at a later time."""
        times, found = [at for at, _ in self.values], [value for _, value in self.values]
        for gap in range(1, len(times)):
            found = [
                ((time - times[i + gap]) * found[i] + (times[i] - time) * found[i + 1]) / (times[i] - times[i + gap])
                for i in range(len(found) - 1)
            ]
        return found[0]


class Hermitian(Recursion):
    """HiCache: TaylorSeer's differences times scaled polynomials of Hermite, by their recurrence."""

    def __init__(self, order: int, scale: float) -> None:
        super().__init__(order)
        self.scale = scale

    def predict(self, time: int) -> Any:
        """Return the value at a later time."""
        point, total = self.scale * (time - self.last), 0.0
        before, now, factor = 0.0, 1.0, 1.0
        for n, difference in enumerate(self.ladder):
            total = total + difference * factor * now
            before, now = now, 2 * point * now - 2 * n * before
            factor *= self.scale / (n + 1)
        return total


@attrs.define
class Expected:
    """One sample (or branch of one) under a plan."""

    situation: Situation
    text: float  # mean of the text that enters
    middle: dict[str, Recursion] = attrs.field(init=False)
    front_time: float = 0.0  # timestep at the last computed step
    computed: int = 0
    skipped: int = 0
    streak: int = 0
    accumulated: float = 0.0

    def __attrs_post_init__(self) -> None:
        seer = self.situation.predictor
        streams = ("image", "text") if seer and seer.streams in (None, "all") else ("image",)
        order = {name: seer.order if seer and name in streams else 0 for name in ("image", "text")}
        self.whole = {name: bool(seer and seer.on == "hidden" and name in streams) for name in order}
        table = getattr(seer, "table", ())
        if isinstance(seer, newton):
            self.middle = {name: Neville(order[name]) for name in order}
        elif isinstance(seer, hermite):
            self.middle = {name: Hermitian(order[name], seer.scale) for name in order}
        else:
            self.middle = {name: Table(order[name], table if name in streams else ()) for name in order}

    whole: dict[str, bool] = attrs.field(init=False, default=None)

    def change(self, time: float) -> float:
        """Return the relative change of the front residual, which is proportional to the timestep."""
        db = self.situation.dbcache
        assert db is not None
        change = abs(self.front_time - time) / self.front_time
        # All tokens are equal: either all exceed the importance, or none does and all count.
        return change if db.front else 0.0

    def decide(self, index: int, count: int, change: float) -> tuple[str, list[float]]:
        """Return "compute" or "skip", and the distances to the limits that were looked at."""
        db, mask = self.situation.dbcache, _mask(self.situation, count)
        if not self.computed:
            return "compute", []
        if db:
            warmup = db.warmup if mask is None else min(db.warmup, _leading_ones(mask))
            if index < warmup and index % db.warmup_interval == 0:
                return "compute", []
        if mask is not None:
            if mask[index]:
                return "compute", []
            if self.situation.static:
                return "skip", []
        if db is None:
            return "compute", []
        if db.max_cached is not None and self.skipped >= db.max_cached:
            return "compute", []
        if db.max_continuous is not None and self.streak >= db.max_continuous:
            return "compute", []
        near = []
        if db.max_accumulated is not None:
            near.append(abs(self.accumulated - db.max_accumulated))
            if self.accumulated >= db.max_accumulated:
                return "compute", near
        if db.threshold >= 1:
            return "skip", near
        near.append(abs(change - db.threshold))
        return ("skip" if change < db.threshold else "compute"), near

    def step(self, latents: torch.Tensor, time: float, index: int, skip: bool, change: float | None) -> torch.Tensor:
        """Return the prediction, given what was decided."""
        front, middle, back = _amounts(self.situation)
        image, text = latents + front * time, self.text + toys.TEXT_SHARE * front * time
        entering = {"image": image, "text": text}
        adds = {"image": middle * time, "text": toys.TEXT_SHARE * middle * time}
        out = {}
        for name, recursion in self.middle.items():
            base = 0.0 if self.whole[name] else entering[name]
            if skip:
                out[name] = base + recursion.predict(index)
            else:
                out[name] = entering[name] + adds[name]
                recursion.update(out[name] if self.whole[name] else adds[name], index)
        if skip:
            self.skipped, self.streak = self.skipped + 1, self.streak + 1
            self.accumulated += change or 0.0
        else:
            self.computed, self.streak, self.accumulated, self.front_time = self.computed + 1, 0, 0.0, time
        return out["image"] + back * time + out["text"] + toys.TEXT_SHARE * back * time


def _amounts(situation: Situation) -> tuple[float, float, float]:
    """What front, middle and back blocks add at time 1."""
    db, amounts = situation.dbcache, toys.AMOUNTS
    front, stop = (db.front, len(amounts) - db.back) if db else (0, len(amounts))
    return sum(amounts[:front]), sum(amounts[front:stop]), sum(amounts[stop:])


def _mask(situation: Situation, count: int) -> tuple[int, ...] | None:
    """The entries of the recipe's mask; presets are pinned by their own tests."""
    scm, every = situation.scm, situation.fitting
    if isinstance(every, magcache):
        return _by_sizes(every, count)
    if every is not None:
        return tuple(1 if i < every.warmup or i % every.interval == 0 else 0 for i in range(count))
    if scm is None:
        return None
    if scm.mask is not None:
        return scm.mask
    if scm.compute_bins is None:
        rules = first_of(situation.denoiser).plan.rules  # a preset: trust its table here
        return next(resolve(rule.source, count) for rule in rules if isinstance(rule, Mask))
    assert scm.cache_bins is not None
    entries = []
    for place in range(max(len(scm.compute_bins), len(scm.cache_bins))):
        entries += [1] * (scm.compute_bins + (0,) * 9)[place] + [0] * (scm.cache_bins + (0,) * 9)[place]
    return tuple((entries + [1] * count)[:count])


def _by_sizes(cache: magcache, count: int) -> tuple[int, ...]:
    """MagCache from its definition: sizes of residuals, and the sum of what the last computed one misses."""
    sizes, entries = [1.0], [1]
    for step in range(1, count):
        nearest = round(step * (len(cache.ratios) - 1) / (count - 1))
        sizes.append(sizes[-1] * cache.ratios[nearest])
        last = max(i for i in range(step) if entries[i])
        error = sum(abs(1 - sizes[i] / sizes[last]) for i in range(last + 1, step + 1))
        assert abs(error - cache.threshold) > NEAR, "choose ratios that decide"
        early = step < int(cache.retention * count + 0.5)
        entries.append(int(early or error > cache.threshold or step - last > cache.max_skip))
    return tuple(entries)


def _leading_ones(mask: tuple[int, ...]) -> int:
    return mask.index(0) if 0 in mask else len(mask)

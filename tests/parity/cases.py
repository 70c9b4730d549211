"""One run, said twice: as transforms of puredit and as a configuration of cache-dit."""

from typing import Any

import attrs

import pure
from pure.transforms import dbcache, guided, scm, taylorseer

BLOCKS = 6
HEIGHT, WIDTH, TEXT = 16, 24, 24
PROMPTS = ("a red apple on a table", "fog over a harbour")
NEGATIVE = "blurred"


@attrs.frozen(kw_only=True)
class Case:
    """A run of the tiny pipeline; the fields are those of our transforms.

    Attributes:
        name: of the test.
        preset, mask, policy: of `scm`.
        order, on, streams: of `taylorseer`; order None: no extrapolation.
        scale: of classifier-free guidance; None: no negative prompt.
        own: whether each guidance branch measures itself.
        batch: how many of `PROMPTS` run together.
        first: the first of them.
        zeroed: whether the first block adds nothing.
        dtype: of the model.
        kind: how cache-dit is run, a function of `peer.py`.
        raw: keys of cache-dit's configuration that say what ours cannot say.
    """

    name: str
    steps: int = 20
    front: int = 1
    back: int = 0
    threshold: float = 0.35
    warmup: int = 4
    interval: int = 1
    max_cached: int | None = None
    max_continuous: int | None = None
    max_accumulated: float | None = None
    importance: float = 0.0
    downsample: int = 1
    preset: str | None = None
    mask: str | None = None
    policy: str = "dynamic"
    order: int | None = None
    on: str = "residual"
    streams: str | None = None
    scale: float | None = None
    own: bool = True
    batch: int = 1
    first: int = 0
    zeroed: bool = False
    dtype: str = "float32"
    kind: str = "plain"
    raw: dict[str, Any] = attrs.field(factory=dict, hash=False)

    def transform(self) -> pure.Transform:
        """Return what a user of puredit composes."""
        parts: list[pure.Transform] = [
            dbcache(
                front=self.front,
                back=self.back,
                threshold=self.threshold,
                warmup=self.warmup,
                warmup_interval=self.interval,
                max_cached=self.max_cached,
                max_continuous=self.max_continuous,
                max_accumulated=self.max_accumulated,
                importance=self.importance,
                downsample=self.downsample,
                follow="own" if self.own else "conditional",
            )
        ]
        if self.preset is not None or self.mask is not None:
            parts.append(scm(preset=self.preset, mask=self.mask, policy=self.policy))
        if self.order is not None:
            parts.append(taylorseer(order=self.order, on=self.on, streams=self.streams))
        if self.scale is not None:
            parts.append(guided(scale=self.scale))
        return pure.compose(*parts)

    def request(self) -> dict[str, Any]:
        """Return what `peer.py` is asked to run."""
        cache = {
            "Fn_compute_blocks": self.front,
            "Bn_compute_blocks": self.back,
            "residual_diff_threshold": self.threshold,
            "max_warmup_steps": self.warmup,
            "warmup_interval": self.interval,
            "max_cached_steps": -1 if self.max_cached is None else self.max_cached,
            "max_continuous_cached_steps": -1 if self.max_continuous is None else self.max_continuous,
            "max_accumulated_residual_diff_threshold": self.max_accumulated,
            "steps_computation_mask": None if self.mask is None else [int(entry) for entry in self.mask],
            "steps_computation_policy": self.policy,
        }
        if self.scale is not None:
            cache |= {"enable_separate_cfg": True, "cfg_diff_compute_separate": self.own}
        calibrator = None
        if self.order is not None:
            calibrator = {
                "taylorseer_order": self.order,
                "calibrator_cache_type": {"residual": "residual", "hidden": "hidden_states"}[self.on],
                "enable_encoder_calibrator": self.streams == "all",
            }
        return {
            "name": self.name,
            "steps": self.steps,
            "kind": self.kind,
            "batch": self.batch,
            "first": self.first,
            "scale": self.scale,
            "preset": self.preset,
            "cache": cache | self.raw,
            "calibrator": calibrator,
            "extra": {"important_condition_threshold": self.importance, "downsample_factor": self.downsample},
            "zeroed": self.zeroed,
            "dtype": self.dtype,
        }


def named(**changes: Any) -> Case:
    """Return a case whose name is what is special about it."""
    return Case(name="-".join(f"{key}={value}" for key, value in changes.items()), **changes)


POLICIES = ("dynamic", "static")
PRESETS = ("slow", "medium", "fast", "ultra")

CASES = (
    *(named(threshold=value, warmup=warmup) for value, warmup in ((0.3, 4), (0.4, 4), (0.45, 1), (1.0, 4))),
    *(named(front=front, back=back) for front, back in ((1, 0), (2, 1), (1, 2), (3, 0))),
    named(front=4, back=2, threshold=0.4),
    *(named(warmup=warmup) for warmup in (0, 8)),
    *(named(warmup=8, interval=interval) for interval in (2, 3)),
    *(named(max_cached=limit, threshold=0.4) for limit in (1, 5)),
    *(named(max_continuous=limit, threshold=0.5) for limit in (1, 2, 3)),
    *(named(importance=value) for value in (0.2, 0.35)),
    *(named(downsample=factor) for factor in (2, 4)),
    *(named(preset=preset, policy=policy, steps=28, threshold=0.3) for preset in PRESETS for policy in POLICIES),
    *(
        named(preset=preset, policy=policy, steps=steps, threshold=0.5)
        for preset, policy, steps in (
            ("slow", "dynamic", 8),
            ("medium", "static", 8),
            ("fast", "static", 9),
            ("ultra", "dynamic", 9),
            ("medium", "dynamic", 12),
            ("ultra", "static", 12),
            ("fast", "dynamic", 20),
            ("ultra", "static", 50),
        )
    ),
    named(mask="110100101001", steps=12, policy="static"),
    named(mask="110100101000", steps=12, threshold=0.5, max_continuous=1),
    *(named(order=order, threshold=0.4) for order in (0, 1, 2, 3)),
    *(named(order=order, on="hidden", threshold=0.4) for order in (1, 2)),
    named(order=1, warmup=1, threshold=0.45),
    named(order=2, preset="ultra", policy="static", steps=28),
    named(order=1, front=2, back=2, threshold=0.4),
    named(order=2, front=1, back=1, threshold=0.4, streams="all"),
    named(order=1, front=1, back=1, threshold=0.4, streams="all", on="hidden"),
    named(order=1, front=1, back=1, threshold=0.4, on="hidden"),
    named(order=1, interval=2, warmup=8, max_continuous=2, threshold=0.4),
    named(scale=2.0, threshold=0.4),
    named(scale=2.0, threshold=0.4, own=False, max_continuous=2, order=1),
    named(batch=2, preset="fast", policy="static", order=1),
)

"""Which cache a run uses: flags, file and environment to one transform, through `pure.configs`."""

from collections.abc import Mapping
from typing import Any

import attrs

import pure
from pure.cli.errors import Misuse
from pure.configs import ConfigError, Effective, Facts, build, configure
from pure.rules import Threshold, find

__all__ = ["Caching", "choose", "recipe", "settle", "threshold_of"]

FLAGS = {
    "enabled": "enable_cache_dit",
    "attention_backend": "attention_backend",
    "parallelism_config.ulysses_size": "ulysses_degree",
    "parallelism_config.ring_size": "ring_degree",
    "parallelism_config.tp_size": "tp_size",
}


@attrs.frozen(kw_only=True)
class Caching:
    """The cache of a run.

    Attributes:
        transform: what is done to the denoiser; `pure.identity` without a cache.
        secondary: what is done to the second expert, where there is one.
        effective: every setting and where it comes from.
    """

    transform: pure.Transform
    secondary: pure.Transform
    effective: Effective

    @classmethod
    def of(cls, effective: Effective) -> "Caching":
        """Return the cache of an effective configuration.

        Raises:
            ConfigError: it asks for what cannot be done here; lists all of it.
        """
        return cls(transform=build(effective), secondary=build(effective, "secondary"), effective=effective)

    @property
    def asked(self) -> bool:
        """Whether a cache was asked for."""
        return self.effective.enabled

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Every setting of the cache with its origin, for reports."""
        values = attrs.asdict(self.effective.cache, recurse=False)
        origins = self.effective.origins
        return {name: {"value": value, "origin": origins[f"cache_config.{name}"]} for name, value in values.items()}


def choose(values: Mapping[str, Any], environ: Mapping[str, str], facts: Facts) -> Caching:
    """Return the cache that flags, file and environment ask for.

    Raises:
        Misuse: a setting is wrong, contradicts another, or is not available; lists all of them.
    """
    try:
        return Caching.of(settle(values, environ, facts))
    except ConfigError as error:
        raise Misuse(str(error)) from error


def settle(values: Mapping[str, Any], environ: Mapping[str, str], facts: Facts) -> Effective:
    """Merge all sources.

    Raises:
        ConfigError: a setting is wrong or contradicts another; lists what is wrong in all sources.
    """
    spelling = {path: "--" + name.replace("_", "-") for path, name in FLAGS.items()}
    params = values["cache_dit_params"]
    return configure(
        params=params,
        # With parameters of its own a request is on; the flag says otherwise as part of the request.
        enable=None if params is None else values["enable_cache_dit"],
        flags={path: values.get(name) for path, name in FLAGS.items()},
        spelling={**spelling, "cache_dit_params": "--cache-dit-params"},
        file=values["cache_dit_config"],
        lenient=values["lenient_config"],
        environ=environ,
        facts=facts,
    )


def threshold_of(denoiser: pure.Denoiser | pure.Experts) -> float | None:
    """Return the threshold that the denoiser's plan, or that of the first expert, measures against."""
    if isinstance(denoiser, pure.Experts):
        denoiser = next(iter(denoiser.denoisers.values()))
    rule = find(denoiser.plan.rules, Threshold)
    return rule.value if isinstance(rule, Threshold) else None


SHOWN = ("front", "threshold", "warmup", "max_continuous", "order", "policy")


def recipe(transform: pure.Transform) -> str:
    """Return a transform as one would type it, without what is left at its default.

    >>> from pure.transforms import dbcache, taylorseer
    >>> recipe(pure.compose(dbcache(threshold=0.12), taylorseer()))
    'dbcache(front=1, threshold=0.12, warmup=4, max_continuous=3) + taylorseer(order=1)'
    """
    parts = transform.transforms if isinstance(transform, pure.Composed) else (transform,)
    return " + ".join(f"{type(part).__name__}({', '.join(_arguments(part))})" for part in parts) or "no cache"


def _arguments(part: pure.Transform) -> list[str]:
    fields = attrs.fields(type(part))
    values = [(field, getattr(part, field.name)) for field in fields if field.init]
    return [f"{f.name}={value!r}" for f, value in values if f.name in SHOWN or value != f.default]

"""The cache of a run: its transform, and where its settings come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

import pure
from pure.composition import single_transforms
from pure.configs import Effective, Facts, build, configure
from pure.engine.errors import Misuse
from pure.experts import first_of
from pure.notes import Note
from pure.rules import Threshold, find

if TYPE_CHECKING:
    from pure.experts import Transforms
    from pure.models.pipeline import AnyDenoiser


@attrs.frozen(kw_only=True)
class Caching:
    """The cache of a run.

    Attributes:
        transform: of the denoiser; `pure.identity` without a cache.
        secondary: of the second expert, where there is one.
        effective: every setting and where it comes from.
    """

    transform: pure.Transform
    secondary: pure.Transform
    effective: Effective

    @classmethod
    def of(cls, effective: Effective) -> Caching:
        """Return the cache of an effective configuration.

        Raises:
            ConfigError: it sets what cannot be done here; lists all of it.
        """
        return cls(transform=build(effective), secondary=build(effective, "secondary"), effective=effective)

    @property
    def enabled(self) -> bool:
        """Whether there is a cache."""
        return self.effective.enabled

    @property
    def notes(self) -> tuple[Note, ...]:
        """Settings without effect, and other notes on the configuration."""
        return tuple(Note(text, "note") for text in self.effective.notes)

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Every setting of the cache with its origin, for reports."""
        values = attrs.asdict(self.effective.cache, recurse=False)
        origins = self.effective.origins
        return {name: {"value": value, "origin": origins[f"cache_config.{name}"]} for name, value in values.items()}


OVERRIDE = "attention_backend_override"
"""The field of a request that chooses the kernel of attention."""


@attrs.frozen(kw_only=True)
class Sources:
    """What flags and a file set; a request and the environment set the rest.

    Attributes:
        flags: values by path, as `pure.configs.read_flags` takes them.
        spelling: the flag that each comes from.
        file: of `--cache-dit-config`.
        lenient: whether unknown keys in it are notes.
    """

    flags: Mapping[str, Any] = attrs.field(factory=dict)
    spelling: Mapping[str, str] = attrs.field(factory=dict)
    file: str | None = None
    lenient: bool = False

    def settle(
        self,
        environ: Mapping[str, str],
        facts: Facts,
        params: Any = None,
        enable: bool | None = None,
        attention: str | None = None,
    ) -> Effective:
        """Merge all sources: request > flag > file > environment > default.

        Args:
            environ: the environment variables.
            facts: what is known of the run.
            params: `cache_dit_params` of the request.
            enable: `enable_cache_dit` of the request.
            attention: `attention_backend_override` of the request.

        Raises:
            ConfigError: lists everything that is wrong in any of them.
        """
        sources = attrs.asdict(self)
        if attention is not None:
            sources["flags"] = {**self.flags, "attention_backend": attention}
            sources["spelling"] = {**self.spelling, "attention_backend": OVERRIDE}
        return configure(params=params, enable=enable, environ=environ, facts=facts, **sources)


def check_teacache(effective: Effective, wanted: bool | None, spelled: str) -> None:
    """Refuse to run TeaCache where it is switched off.

    Args:
        effective: the settings that count.
        wanted: False switches it off.
        spelled: what did so, such as "--enable-teacache false".

    Raises:
        Misuse: a source chooses it.
    """
    if wanted is not False or not effective.enabled:
        return
    for section in ("",) if effective.facts.experts == 1 else ("", "secondary."):
        cache, origin = effective.secondary if section else effective.cache, f"{section}cache_config.cache_type"
        if cache.cache_type == "TeaCache":
            where = f"cache_type: TeaCache ({effective.origins[origin]})"
            raise Misuse(f"{spelled} contradicts {where}; give only one of the two", field="enable_teacache")


def threshold_of(denoiser: pure.Denoiser | pure.Experts) -> float | None:
    """Return the threshold that the denoiser's plan, or that of the first expert, measures against."""
    rule = find(first_of(denoiser).plan.rules, Threshold)
    return rule.value if isinstance(rule, Threshold) else None


LONGEST = 120
SHOWN = ("front", "threshold", "warmup", "max_continuous", "order", "policy")


def recipe(transform: pure.Transform) -> str:
    """Return a transform as Python code, without what is left at its default.

    >>> from pure.transforms import dbcache, taylorseer
    >>> recipe(pure.compose(dbcache(threshold=0.12), taylorseer()))
    'dbcache(front=1, threshold=0.12, warmup=4, max_continuous=3) + taylorseer(order=1)'
    """
    parts = [f"{type(part).__name__}({', '.join(_arguments(part))})" for part in single_transforms(transform)]
    return " + ".join(parts) or "no cache"


def _arguments(part: pure.Transform) -> list[str]:
    fields = attrs.fields(type(part))
    values = [(field, getattr(part, field.name)) for field in fields if field.init]
    shown = [(f, value) for f, value in values if value != f.default or (f.name in SHOWN and value is not None)]
    return [f"{f.name}={_short(f.name, value)}" for f, value in shown]


def _short(name: str, value: object) -> str:
    """Return a value as Python code; a mask as text, a table of weights by its number of rows."""
    if name == "mask" and isinstance(value, tuple):
        return repr("".join(map(str, value)))
    text = repr(value)
    return text if len(text) <= LONGEST or not isinstance(value, tuple) else f"<{len(value)} rows>"


def transforms_of(caching: Caching, denoiser: AnyDenoiser) -> Transforms:
    """Return the cache of the denoiser, or of every expert."""
    if not isinstance(denoiser, pure.Experts):
        return caching.transform
    first, *others = denoiser.denoisers
    return {first: caching.transform, **dict.fromkeys(others, caching.secondary)}

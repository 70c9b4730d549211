"""The settings of a run, merged from all sources."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from pure.configs.report import Problem
from pure.configs.schema import CacheConfig, ParallelismConfig, QuantizeConfig
from pure.configs.support import Facts
from pure.configs.tuned import TunedFor


@attrs.frozen(kw_only=True)
class Effective:
    """The configuration that counts, and where every value of it comes from.

    Attributes:
        enabled: whether there is a cache at all.
        cache: for the only or first expert.
        secondary: for the second expert.
        parallelism: None if no source sets it and the run has one process; sizes are numbers.
        attention_backend: a name, or None.
        quantize: None if no source sets it.
        tuned: what a tuned plan was made for; None if no source sets it.
        origins: source and place by path, as in `Layer.settings`; complete.
        notes: printed for the user before work starts.
        refusals: what is well-formed but cannot be done here; `build` raises them.
        facts: what was known.
    """

    enabled: bool
    cache: CacheConfig
    secondary: CacheConfig
    parallelism: ParallelismConfig | None
    attention_backend: str | None
    quantize: QuantizeConfig | None
    tuned: TunedFor | None
    origins: Mapping[str, str]
    notes: tuple[str, ...]
    refusals: tuple[Problem, ...]
    facts: Facts

"""Which source wins: request > flag > file > environment > model default > library default.

This file is the one place that says so. Within a source, settings of the second
expert win over settings of both. The mask, given by a preset, a list or bins, is one value, and so is the attention
backend, given at the top level or in parallelism_config: the first source that sets any of it sets all of it.
"""

from collections.abc import Mapping, Set
from typing import Any

import attrs

from pure.checks import check_argument
from pure.configs.consistency import contradictions
from pure.configs.effective import Effective
from pure.configs.layer import KINDS, SECOND, Layer, Setting, Source, unknown
from pure.configs.report import ConfigError
from pure.configs.schema import METHODS, SECTIONS, SGLANG, CacheConfig
from pure.configs.support import Facts, observations

__all__ = ["Facts", "read_flags", "read_model_defaults", "resolve"]

MASK = ("cache_config.steps_computation_mask", "cache_config.scm_compute_bins", "cache_config.scm_cache_bins")
BACKEND = ("attention_backend", "parallelism_config.attention_backend")
ONE_VALUE = (MASK, BACKEND)
EMPTY = Layer(name="none")


def read_flags(values: Mapping[str, Any], spelling: Mapping[str, str] | None = None) -> Layer:
    """Make a layer of command-line flags.

    Args:
        values: by path: `enabled`, `attention_backend`, `cache_config.Fn_compute_blocks`,
            `parallelism_config.tp_size`, `secondary.cache_config....`; None: not given.
        spelling: the flag that each path comes from, for reports.

    Raises:
        ConfigError: lists everything that is wrong.
    """
    check_argument(values, Mapping, "flags are a mapping by path, such as {'cache_config.Fn_compute_blocks': 1}")
    spelling = spelling or {}
    return _values("flag", values, {path: f"flag {spelling.get(path, path)}" for path in values})


def read_model_defaults(values: Mapping[str, Any], model: str) -> Layer:
    """Make a layer of what a model declares as its defaults; like `read_flags`."""
    check_argument(values, Mapping, "defaults are a mapping by path, such as {'cache_config.Fn_compute_blocks': 1}")
    return _values("model default", values, dict.fromkeys(values, f"model default of {model}"))


def _values(name: str, values: Mapping[str, Any], places: Mapping[str, str]) -> Layer:
    source = Source()
    for path, value in values.items():
        bare = str(path).removeprefix(SECOND)
        if bare not in KINDS or (bare != path and not bare.startswith("cache_config.")):
            source.problems.append(unknown(places[path], path, path, KINDS))
        elif value is not None:
            source.take(path, value, places[path])
    return source.layer(name)


def resolve(
    *,
    request: Layer = EMPTY,
    flags: Layer = EMPTY,
    file: Layer = EMPTY,
    environment: Layer = EMPTY,
    model: Layer = EMPTY,
    facts: Facts = Facts(),  # noqa: B008 - frozen
) -> Effective:
    """Merge all sources into the configuration that counts.

    Raises:
        ConfigError: the sources contradict each other; lists every contradiction with its origins.
        TypeError: a source is no layer.
    """
    layers = (request, flags, file, environment, model)
    for layer in layers:
        check_argument(layer, Layer, "a source is a layer, as load_config, read_environment and their like return it")
    check_argument(facts, Facts, "facts are those of Facts(...)")
    primary = merge([layer.settings for layer in layers])
    secondary = merge([settings for layer in layers for settings in (_second(layer.settings), layer.settings)])
    given = primary | {SECOND + path: setting for path, setting in secondary.items() if path.startswith("cache_")}
    said = {name for name in ("parallelism_config", "quantize_config") if _says(name, given)}
    said |= {"parallelism_config"} if facts.processes > 1 else set()
    settings = _with_defaults(given, said, peer="cache-dit" if "enabled" in file.settings else "SGLang")
    first = {path: s for path, s in settings.items() if s.value is not None and not path.startswith(SECOND)}
    second = first | _second(settings)
    second = {path: setting for path, setting in second.items() if setting.value is not None}
    problems = contradictions(first) + contradictions(second)
    if problems:
        raise ConfigError(problems)
    sizes, notes, refusals = observations(first, second, facts)
    settings |= sizes
    backend = settings.get("attention_backend") or settings.get("parallelism_config.attention_backend")
    return Effective(
        enabled=settings["enabled"].value,
        cache=_made("cache_config", settings),
        secondary=_made(f"{SECOND}cache_config", settings),
        parallelism=_made("parallelism_config", settings) if "parallelism_config" in said else None,
        attention_backend=backend.value if backend is not None else None,
        quantize=_made("quantize_config", settings) if "quantize_config" in said else None,
        tuned=settings["tuned"].value if "tuned" in settings else None,
        origins={path: setting.origin for path, setting in settings.items()},
        notes=tuple(dict.fromkeys([note for layer in layers for note in layer.notes] + notes)),
        refusals=tuple(refusals),
        facts=facts,
    )


def merge(sources: list[Mapping[str, Setting]]) -> dict[str, Setting]:
    """Return the first value of every path; of paths that are one value, those of the first source with one of them."""
    merged: dict[str, Setting] = {}
    for source in sources:
        settled = {path for group in ONE_VALUE if any(path in merged for path in group) for path in group}
        for path, setting in source.items():
            if not path.startswith(SECOND) and path not in settled:
                merged.setdefault(path, setting)
    return merged


def _second(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return those of the second expert, by their paths in its own configuration."""
    return {path.removeprefix(SECOND): s for path, s in settings.items() if path.startswith(SECOND)}


def _says(section: str, settings: Mapping[str, Setting]) -> bool:
    return any(path.startswith(f"{section}.") for path in settings)


def _with_defaults(given: Mapping[str, Setting], said: Set[str], peer: str) -> dict[str, Setting]:
    """Add the library's defaults of the cache and the sections of `said`; `peer` names whose they are."""
    settings = {"enabled": Setting(value=False, place="library default"), **given}
    for section in ("cache_config", f"{SECOND}cache_config", "parallelism_config", "quantize_config"):
        cls = SECTIONS[section.removeprefix(SECOND)]
        if cls is not CacheConfig and section not in said:
            continue
        for name, value in attrs.asdict(cls(), recurse=False).items():
            bare = f"{section.removeprefix(SECOND)}.{name}"
            value = SGLANG.get(bare, value) if peer == "SGLang" else value
            place = f"library default ({peer})" if bare in SGLANG else "library default"
            if name == "Fn_compute_blocks" and _method(given, section) in METHODS:
                value, place = 0, "library default"  # nothing is measured on them
            settings.setdefault(f"{section}.{name}", Setting(value=value, place=place))
    return settings


def _method(given: Mapping[str, Setting], section: str) -> Any:
    chosen = given.get(f"{section}.cache_type")
    return None if chosen is None else chosen.value


def _made(section: str, settings: Mapping[str, Setting]) -> Any:
    cls = SECTIONS[section.removeprefix(SECOND)]
    return cls(**{field.name: settings[f"{section}.{field.name}"].value for field in attrs.fields(cls)})

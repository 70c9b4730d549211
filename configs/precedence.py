"""Which source wins: request > flag > file > environment > model default > library default.

This file is the one place that says so. Within a source, settings of the second
expert win over settings of both. The mask, given by a preset, a list or bins, is one value, and so is the attention
backend, given at the top level or in parallelism_config: the first source that sets any of it sets all of it. What is
written for another value, such as the options of a method, counts with that value only.
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import attrs

from pure.checks import check_argument
from pure.configs.consistency import contradictions
from pure.configs.effective import Effective
from pure.configs.layer import KINDS, SECOND, Layer, Setting, Settings, Source, unknown
from pure.configs.report import ConfigError, order
from pure.configs.schema import METHODS, SECTIONS, SGLANG, CacheConfig
from pure.configs.support import Facts, observations

__all__ = ["Facts", "read_flags", "read_model_defaults", "resolve"]

MASK = ("cache_config.steps_computation_mask", "cache_config.scm_compute_bins", "cache_config.scm_cache_bins")
BACKEND = ("attention_backend", "parallelism_config.attention_backend")
ONE_VALUE = (MASK, BACKEND)
METHOD = ("cache_config.cache_type",)
WRITTEN_FOR = {
    "cache_config.cache_options": METHOD,
    "cache_config.calibrated_weights": MASK,
    "cache_config.num_inference_steps": MASK,
    "tuned": MASK,
}
"""Settings that are written for the value of another one, which a stronger source may replace."""
WEIGHTS = "cache_config.calibrated_weights"
CALIBRATOR = "cache_config.calibrator_type"
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
    primary, replaced = merge([layer.settings for layer in layers])
    own = [settings for layer in layers for settings in (_second(layer.settings), layer.settings)]
    secondary, others = merge(own)
    given = primary | {SECOND + path: setting for path, setting in secondary.items() if path.startswith("cache_")}
    said = {name for name in ("parallelism_config", "quantize_config") if _says(name, given)}
    said |= {"parallelism_config"} if facts.processes > 1 else set()
    settings = _with_defaults(given, said, peer="cache-dit" if "enabled" in file.settings else "SGLang")
    first = {path: s for path, s in settings.items() if s.value is not None and not path.startswith(SECOND)}
    second = first | _second(settings)
    second = {path: setting for path, setting in second.items() if setting.value is not None}
    problems = contradictions(first)
    problems += [attrs.evolve(one, path=SECOND + one.path) for one in contradictions(second) if one not in problems]
    if problems:
        raise ConfigError(problems)
    sizes, notes, refusals = observations(first, second, facts)
    if settings["enabled"].value:
        # What the second expert does not take over from the first one's settings counts for the first.
        own = [] if facts.experts == 1 else [(place, note) for place, note in others if place % 2 == 0]
        notes += [note for _, note in replaced + own]
        notes += _refit(first, layers) + ([] if facts.experts == 1 else _refit(second, layers, second=True))
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
        notes=tuple(sorted(dict.fromkeys([note for layer in layers for note in layer.notes] + notes), key=order)),
        refusals=tuple(refusals),
        facts=facts,
    )


def merge(sources: Sequence[Settings]) -> tuple[dict[str, Setting], list[tuple[int, str]]]:
    """Return the first value of every path, and of those that are left out the place of the source, and why.

    Of paths that are one value, those of the first source with one of them count; of settings that are written for
    another one, the first that are written for the value that counts.
    """
    merged: dict[str, Setting] = {}
    notes: list[tuple[int, str]] = []
    for place, source in enumerate(sources):
        settled = {path for group in ONE_VALUE if any(path in merged for path in group) for path in group}
        for path, setting in source.items():
            if path.startswith(SECOND) or path in settled or path in merged:
                continue
            if note := _replaced(path, setting, sources, place):
                notes.append((place, note))
            else:
                merged[path] = setting
    return merged, notes


def _replaced(path: str, setting: Setting, sources: Sequence[Settings], place: int) -> str:
    """Say why a setting of the source at a place does not count: a stronger source replaces what it is written for."""
    if path == CALIBRATOR:
        switch = f"cache_config.enable_{setting.value}"
        off = next((source[switch] for source in sources[:place] if switch in source), None)
        if off is None or off.value:
            return ""
        return f"{setting.place}: calibrator_type has no effect: enable_{setting.value} is false ({off.place})"
    group = WRITTEN_FOR.get(path, ())
    theirs, ours = _of(group, sources[place:]), _of(group, sources)
    if not theirs or theirs == ours:
        return ""
    what = f"cache_type: {theirs[0].value}" if group is METHOD else "another mask"
    now = f"the cache_type is {ours[0].value}" if group is METHOD else "the mask is that of"
    key = path.rpartition(".")[2]
    where = f"{ours[0].place}" if group is MASK else f"({ours[0].place})"
    return f"{setting.place}: {key} has no effect: it was written for {what} ({theirs[0].place}), and {now} {where}"


def _refit(settings: Settings, layers: Sequence[Layer], second: bool = False) -> list[str]:
    """Say which settings of a tuned plan a stronger source has changed, for one expert."""
    plan = next((settings[key] for key in ("tuned", WEIGHTS) if key in settings and settings[key].given), None)
    if plan is None:
        return []
    source = next(layer.settings for layer in layers if layer.name == plan.source)
    made, found = {**source, **(_second(source) if second else {})}, []
    for path, then in made.items():
        now, key = settings.get(path), path.removeprefix("cache_config.")
        if key != path and now is not None and now != then:
            text = f"{now.place}: the plan was made with {key}: {then.value} ({then.place}), not {now.value}"
            found.append(f"{text}; its steps and weights were fitted to that: leave {key} out, or tune a plan for it")
    return found


def _of(group: Sequence[str], sources: Sequence[Settings]) -> list[Setting]:
    """Return what is set of a group of paths by the first source that sets any of them."""
    return next((found for source in sources if (found := [source[each] for each in group if each in source])), [])


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

"""One request's own parameters: `cache_dit_params` and `enable_cache_dit`.

The library, the command line (`--cache-dit-params`) and the server take the same object.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from pure.configs.consistency import contradictions
from pure.configs.environment import KNOBS, METHOD_KEYS, SHARED
from pure.configs.kinds import Choice, show
from pure.configs.layer import KINDS, SECOND, Layer, Setting, Source, unknown
from pure.configs.positions import MapNode, parse_json, plain
from pure.configs.report import SYNONYMS, Problem
from pure.configs.schema import PRESETS

__all__ = ["REQUEST_KEYS", "read_request"]

SECONDARY_KEYS = {key: f"cache_config.{key}" for key in KNOBS.values()}
REQUEST_KEYS = {
    **SECONDARY_KEYS,
    **{key: f"cache_config.{key}" for key in METHOD_KEYS},
    **{name.lower(): f"cache_config.{key}" for name, key in SHARED.items()},
}
"""The path that each key of `cache_dit_params` sets; `secondary` nests the knobs once more."""

NAME = "cache_dit_params"


def read_request(params: Mapping[str, Any] | str | None = None, enable: bool | None = None, place: str = NAME) -> Layer:
    """Read the parameters of one request.

    Args:
        params: `cache_dit_params`, as a mapping or as JSON; giving any turns the cache on.
        enable: `enable_cache_dit`; None leaves it to the other sources.
        place: what the report calls the object; such as the flag it came with.

    Raises:
        ConfigError: lists everything that is wrong, JSON with line and column.

    >>> sorted(read_request({"Fn_compute_blocks": 2}).settings)
    ['cache_config.Fn_compute_blocks', 'enabled']
    """
    reader = _Parameters(place)
    if isinstance(params, str):
        params = reader.json(params)
    if params is not None:
        reader.mapping(params, NAME, "", {**REQUEST_KEYS, "secondary": ""})
    if enable is not None:
        reader.take("enabled", enable, "enable_cache_dit", "enable_cache_dit")
    elif reader.settings:
        reader.settings["enabled"] = Setting(value=True, place=place)
    wrong = contradictions(reader.settings)
    reader.problems += [attrs.evolve(one, path=one.path.replace("cache_config", NAME)) for one in wrong]
    return reader.layer("request")


def _elsewhere(key: object) -> str:
    """Say where a key that a request does not set, or not for one expert, belongs."""
    if key in REQUEST_KEYS:
        return "a request sets it for both experts: write it outside secondary"
    of_file = f"cache_config.{key}" in KINDS and key not in SYNONYMS
    return "a request does not set it: write it in cache_config of a file (--cache-dit-config)" if of_file else ""


class _Parameters(Source):
    """Reads the object."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place
        self.places: dict[str, str] = {}

    def json(self, text: str) -> Any:
        """Parse JSON; notes the place of every key."""
        root, problems = parse_json(text, self.place)
        self.problems += problems
        if root is None:
            if not problems:
                self.problems.append(self._not_a_mapping(NAME, text))
            return None
        if isinstance(root, MapNode):
            for entry in root.entries:
                self.places[str(entry.key)] = entry.node.place
                if isinstance(entry.node, MapNode):
                    self.places |= {f"{entry.key}.{inner.key}": inner.node.place for inner in entry.node.entries}
        return plain(root)

    def mapping(self, value: Any, shown: str, prefix: str, keys: Mapping[str, str]) -> None:
        """Read the object, or its `secondary`."""
        if not isinstance(value, Mapping):
            self.problems.append(self._not_a_mapping(shown, value))
            return
        for key, entry in value.items():
            path = f"{shown}.{key}"
            place = self.places.get(path.removeprefix(f"{NAME}."), self.place)
            if key not in keys:
                self.problems.append(unknown(place, path, key, keys, _elsewhere(key)))
            elif entry is None:
                continue
            elif key == "secondary":
                self.mapping(entry, f"{shown}.secondary", SECOND, SECONDARY_KEYS)
            else:
                preset = keys[key] == "cache_config.steps_computation_mask"
                self.take(prefix + keys[key], entry, place, path, Choice(PRESETS) if preset else None)

    def _not_a_mapping(self, shown: str, value: object) -> Problem:
        return Problem(place=self.place, path=shown, found=show(value), allowed="a mapping of parameters")

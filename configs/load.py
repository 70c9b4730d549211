"""Configuration files: YAML and JSON, by path or by the name of a packaged one."""

import json
import os
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import yaml

from pure.checks import check_argument, cut, nearest, shown
from pure.configs.consistency import contradictions
from pure.configs.layer import Layer, Setting, Source, instead_of, unknown
from pure.configs.positions import Leaf, MapNode, Node, Pair, again, parse_json, parse_yaml, plain
from pure.configs.reading import read_text
from pure.configs.report import ConfigError, Problem
from pure.configs.schema import SECTIONS, key_of
from pure.configs.tuned import TunedFor

__all__ = ["dump", "load_config", "load_text", "names"]

SECOND = "secondary"
TOP = (*SECTIONS, "attention_backend", SECOND, "tuned")
MISSPELLED = ("enable_sperate_cfg",)


def names() -> list[str]:
    """Return the names of the packaged files: those of the users' page.

    >>> "cache.yaml" in names()
    True
    """
    return sorted(file.name for file in resources.files("pure.configs").iterdir() if file.name.endswith(".yaml"))


def load_config(source: str | Path, lenient: bool = False, named: Mapping[str, Path] = MappingProxyType({})) -> Layer:
    """Load a file, or the packaged file of that name if there is no such file.

    Args:
        source: path of a YAML or JSON (`.json`) file, or one of `names()`.
        lenient: turn unknown keys into notes.
        named: further files by name, such as the plans of a checkpoint.

    Raises:
        ConfigError: lists everything that is wrong, with file:line:column.
        TypeError: this is no path.
    """
    check_argument(source, (str, Path), "a configuration is loaded from a path or a name")
    path = Path(source) if os.path.exists(source) else named.get(str(source), Path(source))
    packaged = str(source) if str(source) in names() else f"{source}.yaml"
    try:
        if not path.exists() and packaged in names():
            text = (resources.files("pure.configs") / packaged).read_text(encoding="utf-8")
            layer = load_text(text, packaged, lenient=lenient)
            return attrs.evolve(layer, notes=(f"{packaged}: the file packaged with puredit", *layer.notes))
        return load_text(read_text(path), str(path), lenient=lenient)
    except FileNotFoundError:
        # Without the ending, which any two names have in common.
        known = {name.removesuffix(".yaml"): name for name in names()} | {name: name for name in named}
        near = nearest(path.stem, known)
        found, hint = "no such file", f"did you mean {known[near]}?" if near else ""
    except UnicodeDecodeError as error:
        found, hint = f"byte {error.start}, which is not UTF-8", "save the file as UTF-8"
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        found, hint = str(getattr(error, "strerror", None) or error), ""
    plans = f"one of the plans {', '.join(named)}, " if named else ""
    allowed = f"a readable YAML or JSON file, {plans}or one of {', '.join(names())}"
    place = cut(str(source)) or "the name of the file, which is empty"
    raise ConfigError([Problem(place=place, path="", found=found, allowed=allowed, hint=hint)])


def load_text(text: str, name: str = "configuration", lenient: bool = False) -> Layer:
    """Load a document.

    Args:
        text: YAML, or JSON if `name` ends in `.json`.
        name: what the report calls the document.
        lenient: turn unknown keys into notes.

    Raises:
        ConfigError: lists everything that is wrong, with name:line:column.
        TypeError: this is no text.

    >>> load_text("cache_config: {Fn_compute_blocks: 1}").settings["cache_config.Fn_compute_blocks"].value
    1
    """
    check_argument(text, str, "a document is text; a file is read by load_config(path)")
    root, problems = (parse_json if name.lower().endswith(".json") else parse_yaml)(text, name)
    document = _Document(lenient)
    if root is not None:
        document.walk(root)
    elif not problems:
        problems = [_document(name, "an empty document")]
    problems = problems + document.problems
    if not problems and not document.settings and root is not None:
        problems = [_document(root.place, "a document that sets nothing")]
    document.problems = problems + contradictions(document.settings)
    return document.layer("file")


def _document(place: str, found: str) -> Problem:
    return Problem(
        place=place,
        path="",
        found=found,
        allowed=f"a mapping with at least one of {', '.join(TOP)}, or the keys of cache_config alone",
        hint="without a configuration leave the option out",
    )


class _Document(Source):
    """Walks a document."""

    def __init__(self, lenient: bool) -> None:
        super().__init__()
        self.lenient = lenient

    def walk(self, root: Node) -> None:
        """Read the sections, or the legacy flat form."""
        if not isinstance(root, MapNode):
            what = "nothing" if isinstance(root, Leaf) and root.value is None else f"{plain(root)!r:.60}"
            self.problems.append(_document(root.place, what))
            return
        cache_keys = _known("cache_config")
        if not any(entry.key in TOP for entry in root.entries) and any(e.key in cache_keys for e in root.entries):
            self._section("cache_config", root, root.place, flat=True)
            return
        for entry in root.entries:
            if entry.key in SECTIONS:
                self._section(entry.key, entry.node, entry.place)
            elif entry.key in ("attention_backend", "tuned"):
                if (value := plain(entry.node)) is not None:
                    self.take(entry.key, value, entry.node.place)
            elif entry.key == SECOND:
                self._second(entry)
            else:
                self._unknown(entry, "", TOP, _elsewhere(entry.key, ""))

    def _second(self, entry: Pair) -> None:
        """Read the `cache_config` of the second expert."""
        node = entry.node
        if not isinstance(node, MapNode) or [inner.key for inner in node.entries] != ["cache_config"]:
            allowed = "a mapping with cache_config and nothing else: the cache of the second expert"
            found = f"{plain(node)!r:.60}"
            self.problems.append(Problem(place=node.place, path=SECOND, found=found, allowed=allowed, hint=""))
            return
        own = _Document(self.lenient)
        own._section("cache_config", node.entries[0].node, node.entries[0].place)
        own.settings.pop("enabled", None)
        self.problems += [attrs.evolve(one, path=f"{SECOND}.{one.path}") for one in own.problems]
        self.notes += own.notes
        self.settings |= {f"{SECOND}.{path}": setting for path, setting in own.settings.items()}

    def _section(self, name: str, node: Node, place: str, flat: bool = False) -> None:
        if not isinstance(node, MapNode) or all(plain(entry.node) is None for entry in node.entries):
            empty = isinstance(node, MapNode) or (isinstance(node, Leaf) and node.value is None)
            found = "an empty section" if empty else f"{plain(node)!r:.60}"
            hint = "set a key or remove the section" if empty else ""
            allowed = "a mapping that sets at least one key"
            self.problems.append(Problem(place=node.place, path=name, found=found, allowed=allowed, hint=hint))
            return
        given: dict[str, str] = {}  # the place of every key
        known = _known(name)
        for entry in node.entries:
            key = known.get(entry.key) if isinstance(entry.key, str) else None
            if key is None:
                self._unknown(entry, name, known, _elsewhere(entry.key, name))
            elif key in given:
                self.problems.append(again(entry.place, f"{name}.{entry.key}", f"another name of {key}", given[key]))
            else:
                given[key] = entry.node.place
                if (value := plain(entry.node)) is not None:  # a null is unset
                    self.take(f"{name}.{key}", value, entry.node.place)
                if entry.key in MISSPELLED:
                    self.notes.append(f"{entry.place}: {entry.key} is read as {key}, which is how it is spelled")
        if name == "cache_config":
            self.settings["enabled"] = Setting(value=True, place=f"{place} {name}" if not flat else place)

    def _unknown(self, entry: Pair, within: str, known: Iterable[str], hint: str) -> None:
        path = f"{within}.{entry.key}" if within else str(entry.key)
        problem = unknown(entry.place, path, entry.key, known, hint)
        if self.lenient:
            hint = f"; {problem.hint}" if problem.hint else ""
            self.notes.append(f"{entry.place}: {cut(path)} is unknown and has no effect{hint}")
        else:
            self.problems.append(problem)


def _known(name: str) -> dict[str, str]:
    """Return the keys of a section and their other names, each with the key it stands for."""
    fields = attrs.fields(SECTIONS[name])
    aliases = {alias: field.name for field in fields for alias in key_of(field).aliases}
    return {field.name: field.name for field in fields} | aliases


def _elsewhere(key: Any, name: str) -> str:
    other = next((section for section in SECTIONS if section != name and key in _known(section)), "")
    if (instead := instead_of(key)) and name != "cache_config":
        return f"write {instead} in cache_config"
    if key in TOP:
        return f"{key} is a section of its own: write it at the left margin"
    return f"it belongs in {other}" if other else ""


def dump(layer: Layer, format: str = "yaml") -> str:
    """Write what a file said as a document again: `load_text(dump(layer)) == layer`.

    Args:
        layer: what `load_config` returned.
        format: "yaml" or "json".

    Raises:
        TypeError: this is no layer.
        ValueError: there is no such format.
    """
    check_argument(layer, Layer, "dump takes what load_config returned")
    if format not in ("yaml", "json"):
        raise ValueError(f"dump(format={shown(format)}): choose 'yaml' or 'json'")
    document: dict[str, Any] = {}
    for path, setting in layer.settings.items():
        section, _, key = path.rpartition(".")
        value = setting.value.plain() if isinstance(setting.value, TunedFor) else setting.value
        if section.startswith(f"{SECOND}."):
            document.setdefault(SECOND, {}).setdefault(section.removeprefix(f"{SECOND}."), {})[key] = value
        elif section:
            document.setdefault(section, {})[key] = value
        elif path != "enabled":
            document[path] = value
    return json.dumps(document, indent=2) if format == "json" else yaml.safe_dump(document, sort_keys=False)

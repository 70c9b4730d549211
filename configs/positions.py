"""YAML and JSON documents as trees that know the line and column of everything.

Both parsers are strict: whatever the document says twice, or in a way that is read in two ways,
is a problem with a place.
"""

import json
from typing import Any

import attrs
import yaml

from pure.configs import numerals
from pure.configs.report import ConfigError, Problem

__all__ = ["Leaf", "ListNode", "MapNode", "Node", "Pair", "parse_json", "parse_yaml", "plain"]

TWICE = "the key for the second time"
LARGEST = 20_000  # nodes; a configuration has dozens, an alias bomb millions


@attrs.frozen
class Leaf:
    """A scalar."""

    value: Any
    place: str


@attrs.frozen
class ListNode:
    """A list."""

    items: tuple["Node", ...]
    place: str


@attrs.frozen
class Pair:
    """One `key: value` of a mapping."""

    key: Any
    place: str
    node: "Node"


@attrs.frozen
class MapNode:
    """A mapping; keys are unique."""

    entries: tuple[Pair, ...]
    place: str


Node = Leaf | ListNode | MapNode
"""What a tree is made of."""


def plain(node: Node) -> Any:
    """Return a tree as dicts, lists and scalars."""
    if isinstance(node, MapNode):
        return {entry.key: plain(entry.node) for entry in node.entries}
    return [plain(item) for item in node.items] if isinstance(node, ListNode) else node.value


def _syntax(place: str, found: str, language: str, hint: str = "") -> Problem:
    return Problem(place=place, path="", found=found, allowed=f"a {language} document", hint=hint)


DEEPEST = 100
"""Values within each other in a file."""


def _at(name: str, mark: Any) -> str:
    return f"{name}:{mark.line + 1}:{mark.column + 1}"


# ------------------------------------------------------------------------------ YAML


def parse_yaml(text: str, name: str) -> tuple[Node | None, list[Problem]]:
    """Parse YAML 1.1 as PyYAML's safe loader does.

    Returns:
        The tree, None if the document is empty or cannot be read, and all problems.
    """
    try:
        return _compose(text, name)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = f"an error: {' '.join(filter(None, (error.context, error.problem)))}"
        problem = _syntax(_at(name, mark) if mark else name, what, "YAML", _cure(what))
    if tabs := _tabs(text, name):
        node, problems = parse_yaml(text.replace("\t", " "), name)  # for the other problems
        return node, tabs + (problems if node is not None else [])
    return None, [problem]


def _compose(text: str, name: str) -> tuple[Node | None, list[Problem]]:
    try:
        root = yaml.compose(text, Loader=_Loader)
        tree = _Yaml(name)
        return (None if root is None else tree.convert(root, (), "")), tree.problems
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        character = error.character if isinstance(error.character, int) else ord(str(error.character)[:1] or " ")
        return None, [_syntax(f"{name}:{line}:{column}", f"the character U+{character:04X}", "YAML")]
    except RecursionError:
        return None, [_syntax(name, "values nested too deeply", "YAML")]
    except ConfigError as error:
        return None, list(error.problems)


def _cure(what: str) -> str:
    if "single document" in what:
        return "keep one document per file, without a second ---"
    if "mapping values" in what:
        return "put a text with a colon in it in quotes"
    return "replace the tab by spaces" if r"'\t'" in what else ""


def _tabs(text: str, name: str) -> list[Problem]:
    """Report tabs in the indentation: YAML does not allow them."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        indent = line[: len(line) - len(line.lstrip(" \t"))]
        if "\t" in indent and line.strip() and not line.lstrip().startswith("#"):
            place = f"{name}:{number}:{indent.index(chr(9)) + 1}"
            found.append(_syntax(place, "a tab in the indentation", "YAML", "indent with spaces"))
    return found


class _Loader(yaml.SafeLoader):
    """Refuses what is nested deeper than any configuration, however deep Python may recurse."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise RecursionError
        found = super().compose_node(parent, index)
        self.depth -= 1
        return found


class _Yaml:
    """Conversion of PyYAML's nodes; collects problems."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[Problem] = []
        self.count = 0
        self.scalars = yaml.constructor.SafeConstructor()

    def convert(self, node: yaml.Node, above: tuple[int, ...], path: str) -> Node:
        """Convert one node; `above` are the nodes it lies in, `path` the keys that lead to it."""
        place = _at(self.name, node.start_mark)
        self.count += 1
        if self.count > LARGEST or id(node) in above:
            what = "an alias of a value that contains it" if id(node) in above else f"more than {LARGEST} values"
            raise ConfigError([_syntax(place, what, "YAML")])
        inside = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            return MapNode(self._entries(node, inside, path), place)
        if isinstance(node, yaml.SequenceNode):
            return ListNode(tuple(self.convert(item, inside, path) for item in node.value), place)
        return Leaf(self._scalar(node, place), place)

    def _entries(self, node: yaml.MappingNode, above: tuple[int, ...], path: str) -> tuple[Pair, ...]:
        entries: dict[tuple[str, str], Pair] = {}
        for key_node, value_node in node.value:
            place = _at(self.name, key_node.start_mark)
            key = key_node.value if key_node.tag.endswith(":merge") else plain(self.convert(key_node, above, path))
            entry = Pair(key if isinstance(key, str | int | float | None) else str(key), place, Leaf(None, place))
            first = entries.get((type(key).__name__, str(key)))
            inner = f"{path}.{entry.key}" if path else str(entry.key)
            if first is not None:
                self.problems.append(again(place, inner, TWICE, _line(first)))
                continue
            entry = attrs.evolve(entry, node=self.convert(value_node, above, inner))
            entries[type(key).__name__, str(key)] = entry
        return tuple(entries.values())

    def _scalar(self, node: yaml.Node, place: str) -> Any:
        try:
            value = self.scalars.construct_object(node, deep=True)
            if isinstance(value, int | float) and not isinstance(value, bool) and not numerals.typed(node.value, value):
                hint = f"write {value} if that is meant, or put it in quotes if it is text"
                self.problems.append(_syntax(place, f"{node.value}, which YAML reads as {value}", "YAML", hint))
            return value
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            what = getattr(error, "problem", None) or f"{node.value!r}, which is no value"
            self.problems.append(_syntax(place, str(what), "YAML", "put it in quotes if it is text"))
            return None


def again(place: str, path: str, found: str, first: str) -> Problem:
    """Return the problem of a key that is there already, at `first`."""
    hint = f"it is at {first} already; remove one of the two"
    return Problem(place=place, path=path, found=found, allowed="every key once", hint=hint)


def _line(first: Pair) -> str:
    return ":".join(first.place.rsplit(":", 2)[1:])


# ------------------------------------------------------------------------------ JSON


def parse_json(text: str, name: str) -> tuple[Node | None, list[Problem]]:
    """Parse JSON.

    Returns:
        The tree, None if the document is empty or cannot be read, and all problems.
    """
    if not text.strip():
        return None, []
    try:
        json.loads(text)
        tree = _Json(text, name)
        node, _ = tree.convert(tree.skip(0), "")
        return node, tree.problems
    except json.JSONDecodeError as error:
        return None, [_syntax(f"{name}:{error.lineno}:{error.colno}", f"an error: {error.msg}", "JSON")]
    except RecursionError:
        return None, [_syntax(name, "values nested too deeply", "JSON")]
    except ValueError:  # a number of more digits than Python converts
        return None, [_syntax(name, "a number of more than 4300 digits", "JSON")]


class _Json:
    """A second pass over a document that is known to be JSON, for the places."""

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name = text, name
        self.decoder = json.JSONDecoder()
        self.problems: list[Problem] = []

    def skip(self, at: int) -> int:
        """Return the index of the next character that is no white space."""
        while at < len(self.text) and self.text[at] in " \t\r\n":
            at += 1
        return at

    def place(self, at: int) -> str:
        """Return file:line:column of an index."""
        return f"{self.name}:{self.text.count(chr(10), 0, at) + 1}:{at - self.text.rfind(chr(10), 0, at)}"

    def convert(self, at: int, path: str) -> tuple[Node, int]:
        """Return the value that starts at an index, and the index behind it; `path` leads to it."""
        if self.text[at] == "{":
            return self._map(at, path)
        if self.text[at] == "[":
            return self._list(at, path)
        value, end = self.decoder.raw_decode(self.text, at)
        return Leaf(value, self.place(at)), end

    def _list(self, start: int, path: str) -> tuple[Node, int]:
        items = []
        at = self.skip(start + 1)
        while self.text[at] != "]":
            item, at = self.convert(at, path)
            items.append(item)
            at = self.skip(at)
            at = self.skip(at + 1) if self.text[at] == "," else at
        return ListNode(tuple(items), self.place(start)), at + 1

    def _map(self, start: int, path: str) -> tuple[Node, int]:
        entries: dict[str, Pair] = {}
        at = self.skip(start + 1)
        while self.text[at] != "}":
            place = self.place(at)
            key, at = self.decoder.raw_decode(self.text, at)
            inner = f"{path}.{key}" if path else key
            node, at = self.convert(self.skip(self.skip(at) + 1), inner)
            if key in entries:
                self.problems.append(again(place, inner, TWICE, _line(entries[key])))
            else:
                entries[key] = Pair(key, place, node)
            at = self.skip(at)
            at = self.skip(at + 1) if self.text[at] == "," else at
        return MapNode(tuple(entries.values()), self.place(start)), at + 1

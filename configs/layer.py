"""A layer: what one source says, every value checked and with its place; and the check of sections."""

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import cattrs

from pure.configs.kinds import Kind, Wrong, show
from pure.configs.report import Problem, nearest
from pure.configs.schema import BACKEND, SECTIONS, converter, key_of

__all__ = ["Layer", "Setting"]


@attrs.frozen(kw_only=True)
class Setting:
    """A value and where it comes from; equality looks at the value only."""

    value: Any
    place: str = attrs.field(eq=False)
    source: str = attrs.field(default="", eq=False)  # name of the layer; empty: the library's default

    @property
    def given(self) -> bool:
        """Whether a source says it."""
        return bool(self.source)

    @property
    def origin(self) -> str:
        """Layer and place."""
        return self.place if self.place.startswith(self.source) else f"{self.source} {self.place}"


@attrs.frozen(kw_only=True)
class Layer:
    """What one source of configuration says; equality looks at the values only.

    Attributes:
        name: "request", "flag", "file", "environment" or "model default".
        settings: by path: `enabled`, `cache_config.Fn_compute_blocks`, `attention_backend`, ...;
            `secondary.cache_config....` for the second expert.
        notes: what a person should be told, one line each.
    """

    name: str = attrs.field(eq=False)
    settings: Mapping[str, Setting] = attrs.field(factory=dict)
    notes: tuple[str, ...] = attrs.field(default=(), eq=False)

    def stamped(self) -> "Layer":
        """Return the layer with its name in every setting."""
        settings = {path: attrs.evolve(s, source=self.name) for path, s in self.settings.items()}
        return attrs.evolve(self, settings=settings)


@attrs.frozen
class Given:
    """One key as a source gives it: its name, its value, and the place of the value."""

    key: str
    value: Any
    place: str


def paths() -> dict[str, Kind]:
    """Return the kind of every path."""
    found: dict[str, Kind] = {"attention_backend": BACKEND.kind}
    for section, cls in SECTIONS.items():
        found |= {f"{section}.{field.name}": key_of(field).kind for field in attrs.fields(cls)}
    return found


def parse(path: str, shown: str, given: Given, kind: Kind | None = None) -> tuple[dict[str, Setting], list[Problem]]:
    """Check one value; `shown` is the path as the source spells it."""
    kind = kind or paths()[path]
    try:
        return {path: Setting(value=kind.parse(given.value), place=given.place)}, []
    except Wrong as error:
        return {}, [_wrong(shown, given, kind, str(error))]


def section(name: str, given: Iterable[Given]) -> tuple[dict[str, Setting], list[Problem]]:
    """Structure the known keys of one section; a null is unset.

    Returns:
        The settings by path, and a problem for every value that is not allowed.
    """
    by_key = {item.key: item for item in given if item.value is not None}
    cls = SECTIONS[name]
    wrong: dict[str, str] = {}
    values = {key: item.value for key, item in by_key.items()}
    try:
        made = converter.structure(values, cls)
    except cattrs.ClassValidationError as errors:
        wrong = {note.name: str(error) for error, note in errors.group_exceptions()[0]}
        made = converter.structure({key: value for key, value in values.items() if key not in wrong}, cls)
    kinds = {field.name: key_of(field).kind for field in attrs.fields(cls)}
    settings = {
        f"{name}.{key}": Setting(value=getattr(made, key), place=item.place)
        for key, item in by_key.items()
        if key not in wrong
    }
    return settings, [_wrong(f"{name}.{key}", by_key[key], kinds[key], wrong[key]) for key in by_key if key in wrong]


def _wrong(path: str, given: Given, kind: Kind, hint: str) -> Problem:
    return Problem(place=given.place, path=path, found=show(given.value), allowed=kind.allowed, hint=hint)


def unknown(place: str, path: str, key: object, known: Iterable[str], hint: str = "") -> Problem:
    """Return the problem of a key that does not exist."""
    known = sorted(known)
    return Problem(
        place=place,
        path=path,
        found="an unknown key",
        allowed=", ".join(known)
        if len(known) <= 20
        else f"{len(known)} keys, which `puredit config --reference` lists",
        hint=hint or nearest(key, known),
    )

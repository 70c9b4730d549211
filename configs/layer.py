"""A layer: what one source says, every value checked and with its place."""

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from pure.configs.kinds import Bool, ValueKind, Wrong, show
from pure.configs.report import ConfigError, Problem, did_you_mean
from pure.configs.schema import BACKEND, METHODS, SECTIONS, TUNED, key_of

__all__ = ["KINDS", "SECOND", "Layer", "Setting", "Settings", "Source", "instead_of", "unknown"]

SECOND = "secondary."
"""What the paths of the second expert's own settings start with."""
KINDS: Mapping[str, ValueKind] = {
    "enabled": Bool(),
    "attention_backend": BACKEND.kind,
    "tuned": TUNED.kind,
    **{f"{name}.{field.name}": key_of(field).kind for name, cls in SECTIONS.items() for field in attrs.fields(cls)},
}
"""What is allowed, by path."""


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
        named = not self.source or self.place.startswith(f"{self.source} ")
        return self.place if named else f"{self.source} {self.place}"


Settings = Mapping[str, Setting]
"""Values with their places, by path."""


@attrs.frozen(kw_only=True)
class Layer:
    """What one source of configuration says; equality looks at the values only.

    Attributes:
        name: "request", "flag", "file", "environment" or "model default".
        settings: by path: `enabled`, `cache_config.Fn_compute_blocks`, `attention_backend`, ...;
            `secondary.cache_config....` for the second expert.
        notes: printed for the user, one line each.
    """

    name: str = attrs.field(eq=False)
    settings: Mapping[str, Setting] = attrs.field(factory=dict)
    notes: tuple[str, ...] = attrs.field(default=(), eq=False)


class Source:
    """One source of configuration while it is read: collects allowed values, problems with the others, and notes."""

    def __init__(self) -> None:
        self.settings: dict[str, Setting] = {}
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    def take(self, path: str, value: Any, place: str, shown: str = "", kind: ValueKind | None = None) -> None:
        """Check one value.

        Args:
            path: the setting, with `secondary.` in front for the second expert.
            value: as the source gives it.
            place: where it is.
            shown: the path as the source spells it.
            kind: what is allowed, where the source allows less than the key.
        """
        kind = kind or KINDS[path.removeprefix(SECOND)]
        try:
            self.settings[path] = Setting(value=kind.parse(value), place=place)
        except Wrong as error:
            found, hint = error.found or show(value), str(error)
            problem = Problem(place=place, path=shown or path, found=found, allowed=kind.allowed, hint=hint)
            self.problems.append(problem)

    def layer(self, name: str) -> Layer:
        """Return what was read.

        Raises:
            ConfigError: lists all problems.
        """
        if self.problems:
            raise ConfigError(self.problems)
        settings = {path: attrs.evolve(setting, source=name) for path, setting in self.settings.items()}
        return Layer(name=name, settings=settings, notes=tuple(self.notes))


INSTEAD = {
    **{name.lower(): f"cache_type: {name}" for name in ("DBCache", "DBPrune", *METHODS)},
    **{name: f"calibrator_type: {name}" for name in ("newton", "hermite", "adams")},
}
"""What to write for a method or calibrator that has no key of its own, by its name in small letters."""


SWITCHES = ("enable", "enabled", "enable_cache", "enable_cache_dit")


def instead_of(key: object) -> str:
    """Return what sets what a key that does not exist is guessed to set; empty: nobody knows.

    >>> instead_of("enable_teacache")
    'cache_type: TeaCache'
    """
    return INSTEAD.get(str(key).lower().removeprefix("enable_"), "")


def unknown(place: str, path: str, key: object, known: Iterable[str], hint: str = "") -> Problem:
    """Return the problem of a key that does not exist."""
    known = sorted(known)
    lists = f"{len(known)} keys, which `puredit config --reference` lists"
    allowed = ", ".join(known) if len(known) <= 24 else lists
    if str(key).lower() in SWITCHES:
        hint = hint or "leave it out: settings switch the cache on, and --enable-cache-dit false switches it off"
    hint = hint or (f"write {instead}" if (instead := instead_of(key)) else did_you_mean(key, known))
    return Problem(place=place, path=path, found="an unknown key", allowed=allowed, hint=hint)

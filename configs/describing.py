"""The table of all keys, and the table of what counts: both generated from the schema."""

from collections.abc import Iterable
from typing import Any

import attrs

from pure.checks import check_argument
from pure.configs.effective import Effective
from pure.configs.environment import VARIABLES
from pure.configs.precedence import SECOND
from pure.configs.request import REQUEST_KEYS
from pure.configs.schema import BACKEND, SECTIONS, SGLANG, Key, key_of

__all__ = ["Reference", "Row", "describe", "reference", "reference_table"]

_Factory: Any = attrs.Factory  # a class, which attrs' stubs declare as a function

HEADINGS = ("key", "default", "range", "unit", "meaning and interaction", "environment", "request")


@attrs.frozen(kw_only=True)
class Reference:
    """What there is to know of one key; all as text.

    Attributes:
        section: `cache_config`, `parallelism_config`, `quantize_config`, or empty for `attention_backend`.
        key: its name.
        default: cache-dit's default, and SGLang's where the environment starts from another one.
        range: the values that are allowed.
        unit: of a number.
        meaning: what it does, and with what it interacts.
        variable: environment variable that sets it, or empty.
        request: key of `cache_dit_params` that sets it, or empty.
    """

    section: str
    key: str
    default: str
    range: str
    unit: str
    meaning: str
    variable: str
    request: str


@attrs.frozen(kw_only=True)
class Row:
    """One effective value: its path, the value as YAML writes it, and its origin."""

    key: str
    value: str
    origin: str


def reference() -> list[Reference]:
    """Return every key of every section."""
    fields = [(section, field) for section, cls in SECTIONS.items() for field in attrs.fields(cls)]
    rows = [_reference(section, field.name, field.default, key_of(field)) for section, field in fields]
    return [*rows, _reference("", "attention_backend", None, BACKEND)]


def _reference(section: str, name: str, default: Any, key: Key) -> Reference:
    path = f"{section}.{name}" if section else name
    default = default.factory() if isinstance(default, _Factory) else default
    shown = write(default) + (
        f" ({write(SGLANG[path])} without a file)" if SGLANG.get(path, default) != default else ""
    )
    aliases = f" Also: {', '.join(key.aliases)}." if key.aliases else ""
    return Reference(
        section=section,
        key=name,
        default=shown,
        range=key.kind.allowed,
        unit=key.unit,
        meaning=key.help + aliases,
        variable=next((variable for variable, target in VARIABLES.items() if target == path), ""),
        request=next((name for name, target in REQUEST_KEYS.items() if target == path), ""),
    )


def reference_table() -> str:
    """Return the table of all keys as Markdown, one table per section."""
    lines: list[str] = []
    for section in (*SECTIONS, ""):
        lines += ["", f"### {section or 'attention_backend'}", "", _line(HEADINGS), _line(["---"] * len(HEADINGS))]
        for row in reference():
            if row.section == section:
                code = [f"`{text}`" if text else "" for text in (row.key, row.default, row.variable, row.request)]
                lines.append(_line([*code[:2], row.range, row.unit, row.meaning, *code[2:]]))
    return "\n".join(lines[1:]) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def describe(effective: Effective) -> list[Row]:
    """Return every effective value with its origin.

    The second expert's values, under `secondary.`, are listed where they differ from the
    first one's or come from elsewhere.

    Raises:
        TypeError: this is no effective configuration.
    """
    check_argument(effective, Effective, "describe takes what configure(...) or resolve(...) returned")
    origins = effective.origins
    rows = [Row(key="enabled", value=write(effective.enabled), origin=origins["enabled"])]
    sections = {
        "cache_config": effective.cache,
        f"{SECOND}cache_config": effective.secondary,
        "parallelism_config": effective.parallelism,
        "quantize_config": effective.quantize,
    }
    for section, config in sections.items():
        if config is None:
            continue
        for name, value in attrs.asdict(config, recurse=False).items():
            path = f"{section}.{name}"
            bare = path.removeprefix(SECOND)
            if bare == path or value != getattr(effective.cache, name) or origins[path] != origins[bare]:
                rows.append(Row(key=path, value=write(value), origin=origins[path]))
    if effective.attention_backend is not None:
        at = origins.get("attention_backend") or origins["parallelism_config.attention_backend"]
        return [*rows, Row(key="attention_backend", value=effective.attention_backend, origin=at)]
    return [*rows, Row(key="attention_backend", value="native", origin="library default")]


def write(value: Any) -> str:
    """Write a value on one line, as YAML does.

    >>> write(None), write(True), write((1, 0)), write("auto")
    ('null', 'true', '[1, 0]', 'auto')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(write, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {write(entry)}" for key, entry in value.items()) + "}"
    return str(value)

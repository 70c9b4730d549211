"""What users may type does not change unnoticed: every flag of every command, and what is guessed and accepted.

`python -m tests.cli.test_interface` writes the files anew; a change of them belongs into the change log.
"""

from pathlib import Path
from typing import Any

import click
import pytest

from pure.cli.commands import COMMANDS
from pure.cli.spelling import ELSEWHERE
from pure.cli.values import Value
from pure.engine.unsupported import FIELDS, FLAGS

FOLDER = Path(__file__).parent


def kind(param: Any) -> str:
    """What a flag takes."""
    if isinstance(param.type, Value):
        return f"{param.type.name}: {param.type.kind.allowed}"
    if isinstance(param.type, click.Choice):
        return "|".join(param.type.choices)
    return "nothing" if param.is_flag else f"{param.metavar or 'TEXT'} ({param.type.name})"


def flags() -> str:
    lines = []
    for command in COMMANDS:
        lines.append(f"\n{command.name}: {command.get_short_help_str(200)}")
        for param in command.params:
            assert isinstance(param, click.Option)
            several = ", several" if param.multiple else ""
            known = isinstance(param.default, str | int | float) and not (param.is_flag and not param.default)
            default = f"; {'shown ' if param.show_default else ''}default {param.default!r}" if known else ""
            names = f"{' '.join(param.opts)} -> {param.name} [{getattr(param, 'group', '')}]"
            lines.append(f"  {names} {kind(param)}{several}{default}")
    return "\n".join(lines).lstrip() + "\n"


def words() -> str:
    guessed = [f"{typed} means {meant}" for typed, meant in ELSEWHERE.items()]
    refused = [
        f"{where} {name} accepts {', '.join(map(repr, option.nothing)) or 'nothing'}; {option}"
        for where, options in (("flag", FLAGS), ("field", FIELDS))
        for name, option in options.items()
    ]
    return "\n".join([*guessed, *refused]) + "\n"


FILES = {"flags.txt": flags, "words.txt": words}


@pytest.mark.parametrize("name", FILES)
def test_what_may_be_typed_is_what_the_file_says(name: str) -> None:
    assert FILES[name]().splitlines() == (FOLDER / name).read_text().splitlines()


if __name__ == "__main__":
    for name, write in FILES.items():
        (FOLDER / name).write_text(write())

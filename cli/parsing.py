"""The grammar of the flags: several values, optional booleans, nearest names, a file of defaults.

Click knows neither `--prompt A B` nor a boolean that may be bare, so the words are put into
the form `--flag=value` before click reads them.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from pure.checks import cut, nearest
from pure.cli.spelling import ELSEWHERE, unknown
from pure.cli.values import Json, Value
from pure.configs import kinds
from pure.engine.errors import Misuse
from pure.engine.reading import read_given

__all__ = ["CommandContext", "Flag", "FlagCommand", "read_defaults", "rewrite"]

FROM_FILE = click.core.ParameterSource.DEFAULT_MAP
NARROWEST, WIDEST = 30, 110  # columns of the help text
NARROW = 70  # columns; below, help puts what a flag does under its name
PATHS = {"FILE": "file", "FILE ...": "file", "PATH": "file", "FOLDER": "dir"}
"""What a shell completes, by the word that stands for the value in the help text."""
SHORT = {"-h", "-V", *(word for word in ELSEWHERE if len(word) == 2)}
PACKAGED = Path(__file__).resolve().parent.parent / "configs"


class Formatter(click.HelpFormatter):
    """As wide as the terminal allows, however narrow; click's own is never below 50 columns."""

    def __init__(self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None) -> None:
        columns = min(shutil.get_terminal_size().columns, max_width or WIDEST) - 2
        super().__init__(indent_increment, width or max(columns, NARROWEST), max_width)


class CommandContext(click.Context):
    """What a command is called with; its help is written by `Formatter`."""

    formatter_class = Formatter


class Flag(click.Option):
    """An option of ours: it belongs to a `group` of the help text; `multiple` ones take several values at once."""

    def __init__(self, *args: Any, group: str = "Other", **options: Any) -> None:
        self.group = group
        super().__init__(*args, **options)

    @property
    def boolean(self) -> bool:
        """Whether a bare flag means true."""
        return isinstance(self.type, Value) and isinstance(self.type.kind, kinds.Bool)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return what a shell may complete: paths, the packaged files of cache settings, choices."""
        found = super().shell_complete(ctx, incomplete)
        if self.name == "cache_dit_config":
            names = sorted(path.name for path in PACKAGED.glob("*.yaml"))
            found += [CompletionItem(name) for name in names if name.startswith(incomplete)]
        kind = PATHS.get(str(self.metavar))
        return [*found, CompletionItem(incomplete, type=kind)] if kind else found


class FlagCommand(click.Command):
    """A command whose flags follow our grammar, whose help is grouped and ends with `examples`."""

    context_class = CommandContext

    def __init__(self, *args: Any, examples: Sequence[str] = (), **options: Any) -> None:
        self.examples = examples
        super().__init__(*args, **options)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Rewrite the words, read the file of defaults, then let click parse."""
        flags = {name: param for param in self.get_params(ctx) for name in (*param.opts, *param.secondary_opts)}
        if ctx.resilient_parsing:  # a shell completes: half a command is no mistake
            return super().parse_args(ctx, [])
        words = rewrite(args, flags)
        files = [word.partition("=")[2] for word in words if word.startswith("--config=")]
        if files and "--config" in flags:
            ctx.default_map = read_defaults(Path(files[-1]), flags)
        try:
            left = super().parse_args(ctx, words)
            _check_text(ctx.params, flags)
            return left
        except click.BadParameter as error:
            if error.param is not None and ctx.get_parameter_source(str(error.param.name)) is FROM_FILE:
                raise click.BadParameter(f"{error.message} ({files[-1]})", ctx, error.param) from error
            raise

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, each in a line that can be copied."""
        if self.examples:
            formatter.write("\nExamples:\n" + "".join(f"  {example}\n" for example in self.examples))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags group by group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(param, "group", "Other"), []).append(record)
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records, col_max=34 if formatter.width >= NARROW else 2)


def _check_text(values: Mapping[str, Any], flags: Mapping[str, click.Parameter]) -> None:
    """Refuse a NUL in a text, which a file of flags can hold: no file is called so."""
    for name, param in flags.items():
        value = values.get(str(param.name))
        if any(isinstance(each, str) and "\0" in each for each in (value if isinstance(value, tuple) else (value,))):
            raise Misuse(f"{name} holds the character NUL; leave it out")


def rewrite(words: Sequence[str], flags: Mapping[str, click.Parameter]) -> list[str]:
    """Return the words in the form `--flag=value`, one per value.

    Raises:
        Misuse: a flag is unknown or lacks its value, or a word belongs to no flag.
    """
    rewritten: list[str] = []
    pending, problems = list(words), []
    last = ""
    while pending:
        word = pending.pop(0)
        name, equals, value = word.partition("=")
        flag = flags.get(name)
        if flag is None and word.startswith("-") and word != "-":
            problems.append(unknown(name, flags))
            last = ""
            if not equals:
                _take(pending, True)
            continue
        if flag is None:
            raise Misuse(_stray(word, last))
        last = name
        if isinstance(flag, click.Option) and flag.is_flag:
            if equals:
                raise Misuse(f"{name} takes no value, got {value!r}")
            rewritten.append(name)
            continue
        values = [value] if equals else _take(pending, getattr(flag, "multiple", False))
        if not values and getattr(flag, "boolean", False):
            values = ["true"]
        if not values:
            hint = f"; if {pending[0]!r} is the value, write {name}={pending[0]}" if pending else ""
            raise Misuse(f"{name} needs a value{hint}")
        rewritten += [f"{name}={value}" for value in values]
    if problems:
        raise Misuse("\n".join(dict.fromkeys(problems)))
    return rewritten


def _take(pending: list[str], several: bool) -> list[str]:
    """Take the values that follow a flag off the front of `pending`."""
    values: list[str] = []
    while pending and not _is_flag(pending[0]) and (several or not values):
        values.append(pending.pop(0))
    return values


def _is_flag(word: str) -> bool:
    if word in SHORT:  # not "-x" or "-1", which may be a value
        return True
    return len(word) > 2 and word.startswith("--") and not any(letter.isspace() for letter in word.partition("=")[0])


def _stray(word: str, last: str) -> str:
    where = f" after {last}" if last else ""
    return f'unexpected word {word!r}{where}; a value with spaces goes in quotes: --prompt "a red apple"'


def read_defaults(path: Path, flags: Mapping[str, click.Parameter]) -> dict[str, Any]:
    """Read a flat .json or .yaml file whose keys are the flags' names with underscores.

    Raises:
        Misuse: the file cannot be read, or holds a key that is no flag.
    """
    loaded = _load(path)
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise Misuse(f"{path} holds {type(loaded).__name__}; it should map flag names to values, like seed: 42")
    names = {flag.lstrip("-").replace("-", "_"): param for flag, param in flags.items() if param.name != "help"}
    found: dict[str, Any] = {}
    for key, value in loaded.items():
        param = names.get(key)
        if param is None or param.name in ("config", None):
            guess = nearest(str(key).replace("-", "_"), set(names) - {"config"})
            hint = f"did you mean {guess!r}?" if guess else "--help lists the flags"
            raise Misuse(f"{path}: there is no setting {key!r}; {hint}")
        if value is not None:
            found[str(param.name)] = _value(path, key, value, param)
    return found


def _value(path: Path, key: str, value: Any, param: click.Parameter) -> Any:
    """Return a value from a file as click takes it from there."""
    if isinstance(param.type, Json) or param.name == "cache_dit_params":
        return value
    several = getattr(param, "multiple", False)
    values = value if several and isinstance(value, list) else [value]
    for entry in values:
        if not isinstance(entry, str | int | float):
            raise Misuse(f"{path}: {key} holds {entry!r:.80}; write a text in quotes, a number, true or false")
        if isinstance(param.type, click.types.StringParamType) and not isinstance(entry, str):
            raise Misuse(f"{path}: {key} holds {kinds.show(entry)}; if it is text, put it in quotes")
    return values if several else value


def _load(path: Path) -> Any:
    from pure.configs.positions import parse_json, parse_yaml, plain

    shown = cut(str(path))
    if path.suffix not in (".json", ".yaml", ".yml"):
        raise Misuse(f"--config {shown}: a file ending in .json, .yaml or .yml is wanted")
    text = read_given(path, "--config")
    root, problems = (parse_json if path.suffix == ".json" else parse_yaml)(text, str(path))
    if problems:
        raise Misuse(f"--config {shown} cannot be understood:\n" + "\n".join(f"  {problem}" for problem in problems))
    return None if root is None else plain(root)

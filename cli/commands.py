"""The sub-commands with their flags and help texts; what a command does is imported when it runs.

Help, completion and mistakes in a command's words come from here, and import neither torch nor the core.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import click

from pure.cli.export_options import EXPORT_FLAGS
from pure.cli.interruption import raise_from_now_on
from pure.cli.options import FLAGS, flag, group
from pure.cli.parsing import Flag, FlagCommand
from pure.cli.serve_options import SERVE_FLAGS, ServeCommand
from pure.cli.tune_options import TUNE_FLAGS

__all__ = ["COMMANDS"]


def _command(
    name: str,
    flags: Sequence[Flag],
    short_help: str,
    help: str,
    *examples: str,
    cls: type[FlagCommand] = FlagCommand,
    load: Callable[[], Callable[[dict[str, Any]], None]] | None = None,
) -> click.Command:
    """Return a command that calls what `load` returns, or `execute` of the module of its name, with all its values."""

    def callback(**values: Any) -> None:
        execute = load() if load else importlib.import_module(f"pure.cli.{name}").execute
        raise_from_now_on()
        execute(values)

    return cls(name, callback=callback, params=[*flags], short_help=short_help, help=help, examples=examples)


def _generate() -> Callable[[dict[str, Any]], None]:
    from pure.cli import generate
    from pure.cli.command import make_command

    return lambda values: generate.execute(make_command(values))


generate = _command(
    "generate",
    FLAGS,
    "Make images or videos from prompts.",
    "Make images or videos from prompts.",
    'puredit generate --prompt "a red apple on a blue background"',
    'puredit generate --prompt "a cat" "a dog" --seed 1 2 --cache-dit-config cache.yaml',
    load=_generate,
)
serve = _command(
    "serve",
    SERVE_FLAGS,
    "Serve a model over HTTP.",
    "Serve a model over HTTP, with OpenAI's routes for images and videos.",
    "puredit serve path/to/a/checkpoint --port 30000",
    "puredit serve --cache-dit-config cache.yaml --batching-max-size 4",
    cls=ServeCommand,
)
tune = _command(
    "tune",
    TUNE_FLAGS,
    "Find which steps to compute, for a budget.",
    "Find which steps to compute, and the weights of the others, for a budget of steps, time or quality.",
    "puredit tune --budget 11 --output plan.yaml",
    "puredit tune --model-path path/to/a/checkpoint --budget 2x 3x --refine swaps --fit 8 --held-out 4",
)
export = _command(
    "export",
    EXPORT_FLAGS,
    "Compile one step of a run for programs without puredit.",
    "Compile one step of a run ahead of time, for programs that have torch and not puredit.",
    'puredit export --steps 28 --cache-dit-config cache.yaml --prompt "a red apple" --output run.pt2',
    'puredit export --steps 28 --prompt "a green pear" --start pear.safetensors --only-start --output run.pt2',
)
SHOWN = group(
    "What to show",
    flag("--reference", None, "Every key of a cache configuration."),
    flag(
        "--show",
        None,
        "The effective configuration of a generate command with these flags, with the origin of every value.",
    ),
)
config = _command(
    "config",
    (*SHOWN, *FLAGS),
    "Show what can be configured, or the effective configuration.",
    "Show what can be configured, or the effective configuration of a command.",
    "puredit config --reference",
    "puredit config --show --cache-dit-config cache.yaml",
)
DESCRIBED = group(
    "What to show",
    flag("--model-path", "FOLDER", "Describe this checkpoint."),
    flag("--json as_json", None, "As JSON."),
)
models = _command(
    "models",
    DESCRIBED,
    "List the supported models, or describe a checkpoint.",
    "List families, pipeline classes and what they can do.",
    "puredit models",
    "puredit models --model-path path/to/a/checkpoint",
)
COMMANDS: tuple[click.Command, ...] = (generate, serve, tune, export, config, models)
"""All sub-commands."""

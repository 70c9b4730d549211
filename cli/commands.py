"""The sub-commands with their flags and help texts; what a command does is imported when it runs.

Help, completion and mistakes in a command's words come from here, and import neither torch nor the core.
"""

from __future__ import annotations

from typing import Any

import click

from pure.cli.export_options import EXPORT_FLAGS
from pure.cli.options import FLAGS, apply_flags
from pure.cli.parsing import Flag, FlagCommand
from pure.cli.serve_options import SERVE_FLAGS, ServeCommand
from pure.cli.tune_options import TUNE_FLAGS

__all__ = ["COMMANDS", "config", "export", "generate", "models", "serve", "tune"]


@click.command(
    cls=FlagCommand,
    short_help="Make images or videos from prompts.",
    examples=(
        'puredit generate --prompt "a red apple on a blue background"',
        'puredit generate --prompt "a cat" "a dog" --seed 1 2 --cache-dit-config cache.yaml',
    ),
)
@apply_flags(FLAGS)
def generate(**values: Any) -> None:
    """Make images or videos from prompts."""
    from pure.cli import generate as command
    from pure.cli.command import make_command

    command.execute(make_command(values))


@click.command(
    cls=ServeCommand,
    short_help="Serve a model over HTTP.",
    examples=(
        "puredit serve path/to/a/checkpoint --port 30000",
        "puredit serve --cache-dit-config cache.yaml --batching-max-size 4",
    ),
)
@apply_flags(SERVE_FLAGS)
def serve(**values: Any) -> None:
    """Serve a model over HTTP, with OpenAI's routes for images and videos."""
    from pure.cli.serve import execute

    execute(values)


@click.command(
    cls=FlagCommand,
    short_help="Show what can be configured, or the effective configuration.",
    examples=("puredit config --reference", "puredit config --show --cache-dit-config cache.yaml"),
)
@click.option("--reference", cls=Flag, group="What to show", is_flag=True, help="Every key of a cache configuration.")
@click.option(
    "--show",
    cls=Flag,
    group="What to show",
    is_flag=True,
    help="The effective configuration of a generate command with these flags, with the origin of every value.",
)
@apply_flags(FLAGS)
@click.pass_context
def config(ctx: click.Context, reference: bool, show: bool, **values: Any) -> None:
    """Show what can be configured, or the effective configuration of a command."""
    from pure.cli.config import execute

    execute(ctx, reference, show, values)


@click.command(
    cls=FlagCommand,
    short_help="List the supported models, or describe a checkpoint.",
    examples=("puredit models", "puredit models --model-path path/to/a/checkpoint"),
)
@click.option("--model-path", cls=Flag, group="What to show", metavar="FOLDER", help="Describe this checkpoint.")
@click.option("--json", "as_json", cls=Flag, group="What to show", is_flag=True, help="As JSON.")
def models(model_path: str | None, as_json: bool) -> None:
    """List families, pipeline classes and what they can do."""
    from pure.cli.models import execute

    execute(model_path, as_json)


@click.command(
    cls=FlagCommand,
    short_help="Find which steps to compute, for a budget.",
    examples=(
        "puredit tune --budget 11 --output plan.yaml",
        "puredit tune --model-path path/to/a/checkpoint --budget 2x 3x --refine swaps --fit 8 --held-out 4",
    ),
)
@apply_flags(TUNE_FLAGS)
def tune(**values: Any) -> None:
    """Find which steps to compute, and the weights of the others, for a budget of steps, time or quality."""
    from pure.cli.tune import execute

    execute(values)


@click.command(
    cls=FlagCommand,
    short_help="Compile one step of a run for programs without puredit.",
    examples=(
        'puredit export --steps 28 --cache-dit-config cache.yaml --prompt "a red apple" --output run.pt2',
        'puredit export --steps 28 --prompt "a green pear" --start pear.safetensors --only-start --output run.pt2',
    ),
)
@apply_flags(EXPORT_FLAGS)
def export(**values: Any) -> None:
    """Compile one step of a run ahead of time, for programs that have torch and not puredit."""
    from pure.cli.export import execute

    execute(values)


COMMANDS: tuple[click.Command, ...] = (generate, serve, tune, export, config, models)
"""All sub-commands."""

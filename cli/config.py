"""`puredit config`: what can be configured, and what counts for a command."""

import os
from typing import Any

import click
import rich.text

from pure.cli.cache_flags import planned, settle
from pure.cli.command import checkpoint_of, facts_of
from pure.cli.screen import console
from pure.cli.tables import print_table
from pure.configs import Effective, Facts, build, describe, reference_table
from pure.engine.errors import Misuse
from pure.notes import Note

__all__ = ["execute"]

HEAD = ("setting", "value", "origin")
SOURCES: dict[click.core.ParameterSource | None, str] = {
    click.core.ParameterSource.COMMANDLINE: "flag {flag}",
    click.core.ParameterSource.DEFAULT_MAP: "file {file}",
    click.core.ParameterSource.ENVIRONMENT: "environment",
}


def execute(values: dict[str, Any]) -> None:
    """Print the reference, or the effective configuration, with exit code 2 if `generate` would refuse it.

    Raises:
        Misuse: neither or both are chosen.
        ConfigError: a setting is wrong.
    """
    reference, show = values.pop("reference"), values.pop("show")
    if reference == show:
        raise Misuse("say what to show: puredit config --reference, or puredit config --show with flags of generate")
    if reference:
        click.echo(reference_table())
        return
    checkpoint = checkpoint_of(values)
    facts, values = facts_of(values, checkpoint, os.environ), planned(values, checkpoint)
    effective = settle(values, os.environ, facts)
    screen = console()
    rows = [(row.key, row.value, row.origin) for row in describe(effective)]
    rows.sort(key=lambda row: row[2].startswith("library default"))  # settings from a source come first
    print_table(screen, HEAD, rows, "cache, parallelism, quantisation")
    print_table(screen, HEAD, _flags(values, facts.steps), "flags")
    for note in effective.notes:
        screen.print(rich.text.Text(f"note: {note}"), soft_wrap=True)
    for note in _of_plan(effective, facts):
        screen.print(rich.text.Text(f"{note.kind}: {note.text}"), soft_wrap=True)
    for problem in effective.refusals:
        screen.print(rich.text.Text(f"refused: {problem}"), soft_wrap=True)
    if effective.refusals:  # as the command would end that is given these flags
        click.get_current_context().exit(click.UsageError.exit_code)


def _of_plan(effective: Effective, facts: Facts) -> tuple[Note, ...]:
    """Return what a run with the effective cache will not do, where its steps are known: not those of two experts."""
    if effective.refusals or facts.denoiser is None or facts.steps is None or facts.experts != 1:
        return ()
    return build(effective)(facts.denoiser).notes(facts.steps)


def _flags(values: dict[str, Any], steps: int | None) -> list[tuple[str, str, str]]:
    """Return name, value and origin of every flag that has a value."""
    ctx, rows = click.get_current_context(), []
    for name, value in {**values, "num_inference_steps": steps}.items():
        source = SOURCES.get(ctx.get_parameter_source(name))
        if value in (None, ()) or (source is None and name == "no_save_output"):
            continue
        words = {"flag": "--" + name.replace("_", "-"), "file": values["config"]}
        origin = source.format(**words) if source else "model default" if name == "num_inference_steps" else "default"
        rows.append((name, " ".join(map(str, value)) if isinstance(value, tuple) else str(value), origin))
    return sorted(rows, key=lambda row: (row[2] in ("default", "model default"), row[0]))

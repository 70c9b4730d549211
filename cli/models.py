"""`puredit models`: what is supported, from the registry that the loader uses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs
import click
import rich.text

import pure
from pure.cli.screen import console
from pure.cli.tables import print_table
from pure.engine.checkpoint import look
from pure.links import document

if TYPE_CHECKING:
    from pure.models.family import Description, Family, PipelineKind

__all__ = ["execute"]

COLUMNS = ("cache", "context parallel", "tensor parallel")


def execute(values: dict[str, Any]) -> None:
    """Print the families, or what a checkpoint is.

    Raises:
        Misuse: the checkpoint is not there, or not supported.
    """
    model_path = values["model_path"]
    found: Any = rows() if model_path is None else described(look(model_path).found)
    if values["as_json"]:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    screen = console()
    if model_path is not None:
        print_table(screen, ("", ""), [(name, str(value)) for name, value in found.items()])
        return
    names = ("pipeline", "family", "task", "guidance", *COLUMNS)
    lines = [tuple(str(row[name]).replace("classifier-free", "CFG") for name in names) for row in found]
    print_table(screen, ("pipeline", "family", "task", "guidance", "cache", "CP", "TP"), lines)
    screen.print(
        rich.text.Text("CFG: classifier-free guidance; CP, TP: context and tensor parallelism."), soft_wrap=True
    )
    screen.print(
        rich.text.Text(f"Every other diffusers transformer: see pure.accelerate, {document('accelerate.md')}"),
        soft_wrap=True,
    )


def rows() -> list[dict[str, Any]]:
    """Return a row for every kind of pipeline."""
    from pure.models.registry import families

    return [
        {
            **_names(family, kind),
            "experts": len(kind.transformers),
            **capabilities(family.denoiser({})),
            "checkpoints": list(kind.checkpoints),
        }
        for family in families()
        for kind in family.kinds
    ]


def _names(family: Family, kind: PipelineKind) -> dict[str, str]:
    return {
        "family": family.name,
        "pipeline": kind.pipeline,
        "transformer": family.transformer,
        "task": kind.task,
        "guidance": ", ".join(kind.guidance),
    }


def capabilities(denoiser: pure.Denoiser) -> dict[str, str]:
    """Return which transforms a denoiser supports, from its own fields.

    >>> from pure.models.flux import flux
    >>> capabilities(flux({}))
    {'cache': 'yes', 'context parallel': 'yes', 'tensor parallel': 'yes'}
    """
    can = (True, denoiser.per_token is not None, denoiser.sharding is not None)
    return {name: "yes" if yes else "no" for name, yes in zip(COLUMNS, can, strict=True)}


def described(found: Description) -> dict[str, Any]:
    """Return what a checkpoint's files say of it."""
    denoiser = next(iter(found.denoisers.values()))
    defaults = {name: value for name, value in attrs.asdict(found.defaults).items() if value is not None}
    return {
        **_names(found.family, found.kind),
        "experts": len(found.transformers),
        "blocks": len(denoiser.blocks),
        "solver": type(found.solver).__name__,
        **capabilities(denoiser),
        **{f"default {name.replace('_', ' ')}": value for name, value in defaults.items()},
    }

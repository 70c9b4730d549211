"""`puredit export`: from a checkpoint and settings to a package of one step that torch alone runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pure.cli.cache_flags import planned, settle
from pure.cli.command import checkpoint_of, order_of
from pure.cli.prompts import check_text
from pure.cli.screen import screen as make_screen
from pure.engine.caching import Caching
from pure.engine.engine import open_engine
from pure.engine.errors import Misuse
from pure.engine.export import ExportFiles, check_start, prepare, write, write_start
from pure.engine.writing import check_files

__all__ = ["execute"]


def execute(values: Mapping[str, Any]) -> None:
    """Export a step, or write the start of another prompt.

    Raises:
        Misuse: a flag, the checkpoint or the settings are wrong, or the run cannot be exported.
        ConfigError: a setting of the cache is wrong.
        Failure: a file cannot be written.
    """
    files = _files(values)
    check_text(values["prompt"])
    checkpoint = checkpoint_of(values)
    checkpoint.check_pixels(values["height"], values["width"], values["num_frames"])
    order = order_of(values, checkpoint)
    facts = checkpoint.facts(values["num_inference_steps"])
    effective = settle(planned(values, checkpoint), os.environ, facts)
    caching = Caching.of(effective)
    screen = make_screen(values["log_level"] in ("warning", "error"))
    engine = open_engine(checkpoint, effective, screen.note, screen.waiting)
    recipe = engine.recipe(order, caching)
    for note in recipe.notes:
        screen.note(note.text, note.kind)
    found = prepare(engine, recipe, values["prompt"], values["seed"])
    if values["only_start"]:
        check_start(found, files)
        screen.line(str(write_start(found, files)))
        return
    with screen.waiting("compiling the step ..."):
        made = write(found, files)
    for path in made:
        screen.line(str(path))


def _files(values: Mapping[str, Any]) -> ExportFiles:
    """Return where everything goes.

    Raises:
        Misuse: there is no name, or one has another ending.
        Failure: a file cannot be written there.
    """
    if values["output"] is None:
        raise Misuse("give --output FILE.pt2, the file of the package")
    output = Path(values["output"])
    if output.suffix != ".pt2":
        raise Misuse(f"--output {output}: a package is a .pt2 file; let the name end in .pt2")
    beside = values["weights"] == "beside"
    if values["weights_file"] is not None and not beside:
        raise Misuse(
            f"--weights-file {values['weights_file']} is for weights outside the package; add --weights beside"
        )
    weights = Path(values["weights_file"] or output.with_name(f"{output.stem}-weights.safetensors"))
    start = Path(values["start"] or output.with_name(f"{output.stem}-start.safetensors"))
    decoder = output.with_name(f"{output.stem}-decoder.pt2") if values["decoder"] else None
    files = ExportFiles(package=output, weights=weights if beside else None, start=start, decoder=decoder)
    named = {"--weights-file": files.weights, "--start": files.start}
    for flag, path in named.items():
        if path is not None and path.suffix != ".safetensors":
            raise Misuse(f"{flag} {path}: let the name end in .safetensors")
    every = {"--output": output, **named, "--decoder": decoder}
    every |= {"the JSON of --output": files.layout, "the inputs of --output": files.inputs}
    check_files(every)
    return files

"""`puredit generate`: prompts to image and video files."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

import pure
from pure.cli.comparing import compare
from pure.cli.engine import Engine, load
from pure.cli.job import Job
from pure.cli.naming import Output, beside
from pure.cli.perf import report, write_report
from pure.cli.plotting import write_plot
from pure.cli.progress import Progress
from pure.cli.results import Made
from pure.cli.screen import Screen, blank
from pure.cli.screen import screen as make_screen
from pure.cli.summary import never_skipped, summary
from pure.cli.tables import print_table
from pure.engine.caching import recipe, threshold_of
from pure.engine.errors import Interrupted, Misuse
from pure.engine.make import make, take_part, warm_up
from pure.engine.ranks import spread
from pure.engine.result import Result
from pure.engine.saving import save_frames, save_image, save_video

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from pure.models.pipeline import Model

__all__ = ["execute"]

PLAIN = "without-cache"


def execute(job: Job) -> None:
    """Do a job, in as many processes as it asks for."""
    if job.parallel.sizes.total == 1:
        perform(job)
    else:
        spread(job, perform, follow, os.environ)


def perform(job: Job, mesh: DeviceMesh | None = None) -> None:
    """Load, make and save every image, then write table, plots and report; with a mesh as rank 0 of it.

    What is finished is on the disk and is listed, whatever stops the rest.
    """
    screen = make_screen(job.quiet)
    began, when = time.perf_counter(), datetime.now()
    for note in (*job.caching.effective.notes, *job.notes):
        screen.note(note)
    made: list[Made] = []
    files: list[str] = []
    engine: Engine | None = None
    try:
        engine = load(job, screen, mesh)
        _warm(job, engine)
        for number, output in enumerate(job.outputs):
            made.append(_make(job, engine, output, _title(job, number), screen))
            files += _plot(job, engine, made[-1], number)
        if job.perf is not None:
            seconds = time.perf_counter() - began
            write_report(job.perf, report(made, settings(job, engine), seconds, when))
            files.append(f"report: {job.perf}")
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted after {len(made)} of {len(job.outputs)} images") from None
    finally:
        _tell(job, engine, made, files, screen)


def follow(job: Job, mesh: DeviceMesh) -> None:
    """Take part in every image without showing or saving anything: what the ranks after 0 do."""
    engine = load(job, blank(), mesh)
    _warm(job, engine)
    for output in job.outputs:
        for denoiser in (engine.cached, engine.plain) if job.compare else (engine.cached,):
            try:
                take_part(engine.pipeline, denoiser, engine.request(output.prompt), output.seed)
            except ValueError as error:
                raise Misuse(str(error)) from error


def _warm(job: Job, engine: Engine) -> None:
    """Take some untimed steps where that is asked for, and one of each kind before a comparison."""
    count = job.warmup or (1 if job.compare else 0)
    if not count:
        return
    requests = [engine.sized(height, width) for height, width in job.warmup_sizes] or [engine.template]
    for request in requests:
        request = attrs.evolve(request, prompts=(job.outputs[0].prompt,))
        for denoiser in (engine.cached, engine.plain) if job.compare else (engine.cached,):
            warm_up(engine.pipeline, denoiser, request, count)


def _title(job: Job, number: int) -> str:
    word = "video" if job.fps else "image"
    return f"{word} {number + 1} of {len(job.outputs)}" if len(job.outputs) > 1 else word


def _make(job: Job, engine: Engine, output: Output, title: str, screen: Screen) -> Made:
    """Make one image, and where a comparison is asked for the one without a cache; save them as they come."""
    result = _run(job, engine, engine.cached, output, title, screen)
    _save(job, output.path, result, screen)
    if not job.compare:
        return Made(output=output, result=result)
    plain = _run(job, engine, engine.plain, output, "without cache", screen)
    _save(job, beside(output.path, PLAIN) if output.path else None, plain, screen)
    comparison = compare(plain.frames, result.frames, plain.seconds, result.seconds)
    return Made(output=output, result=result, plain=plain, comparison=comparison)


def _run(job: Job, engine: Engine, denoiser: Model, output: Output, title: str, screen: Screen) -> Result:
    with Progress(screen.notes, title, job.steps, screen.quiet) as progress:

        def observe(frame: pure.Frame) -> None:
            progress.update(frame.info)

        try:
            return make(engine.pipeline, denoiser, engine.request(output.prompt), output.seed, observe)
        except ValueError as error:
            raise Misuse(str(error)) from error


def _save(job: Job, path: Path | None, result: Result, screen: Screen) -> None:
    if path is None:
        return
    if job.fps is None:
        save_image(path, result.pixels)
    else:
        save_video(path, result.frames, job.fps)
    screen.line(str(path))
    if job.save_frames:
        folder = path.with_name(f"{path.stem}-frames")
        save_frames(folder, result.frames)
        screen.line(f"{folder}/")


def _plot(job: Job, engine: Engine, made: Made, number: int) -> list[str]:
    """Draw one image's plot if plots are asked for; say where it is."""
    if job.plot is None:
        return []
    path = job.plot if number == 0 else beside(job.plot, str(number + 1))
    write_plot(path, made, threshold_of(engine.cached), recipe(job.caching.transform))
    return [f"plot: {path}"]


def settings(job: Job, engine: Engine) -> dict[str, Any]:
    """Return the effective configuration, for the report."""
    request = attrs.asdict(engine.template, filter=lambda field, _: field.name not in ("prompts", "images"))
    return {
        **{name: value for name, value in job.flags.items() if value not in (None, ())},
        **request,
        "model_path": job.model or "embedded",
        "family": job.found.family.name,
        "pipeline": job.found.kind.pipeline,
        "device": str(engine.pipeline.device),
        "dtype": str(engine.pipeline.dtype),
        "processes": job.parallel.sizes.total,
        "parallel": attrs.asdict(job.parallel),
        "cache": recipe(job.caching.transform),
        "cache_settings": job.caching.settings,
    }


def _tell(job: Job, engine: Engine | None, made: Sequence[Made], files: Sequence[str], screen: Screen) -> None:
    """Print the table of what was finished, and warn of a cache that never skipped."""
    if not made:
        return
    if not job.quiet:
        print_table(screen.out, ("", ""), summary(made, threshold_of(engine.cached) if engine else None))
        for line in files:
            screen.line(line)
    if job.caching.asked and never_skipped(made):
        screen.note(
            f"a cache was asked for and no step was skipped: {recipe(job.caching.transform)}; raise the threshold, "
            "lower the warm-up, or run more steps",
            "warning",
        )

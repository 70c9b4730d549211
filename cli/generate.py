"""`puredit generate`: prompts to image and video files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from pure.cli.comparing import Made, compare
from pure.cli.engine import Engine, load
from pure.cli.job import Job
from pure.cli.naming import Output, beside
from pure.cli.perf import report, write_report
from pure.cli.plotting import write_plot
from pure.cli.progress import Progress
from pure.cli.screen import Screen, blank
from pure.cli.screen import screen as make_screen
from pure.cli.summary import never_skipped, summary
from pure.cli.tables import print_table
from pure.engine.caching import recipe, threshold_of
from pure.engine.errors import Failure, Interrupted, Misuse
from pure.engine.make import Denoised, batch_size, denoise, results, take_part, warm_up
from pure.engine.ranks import spread
from pure.engine.result import Result
from pure.engine.saving import save_frames, save_image, save_video
from pure.models import NotFiniteError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from pure.models.pipeline import Model

__all__ = ["execute"]

PLAIN = "without-cache"
T = TypeVar("T")
Outputs = tuple[Output, ...]


def execute(job: Job) -> None:
    """Do a job, in as many processes as it asks for."""
    if job.parallel.sizes.total == 1:
        perform(job)
    else:
        spread(job, job.parallel.sizes, job.found, perform, follow, os.environ)


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
    failed: list[str] = []
    engine: Engine | None = None
    try:
        engine = load(job, screen, mesh)
        _warm(job, engine)
        for group in _groups(job, engine):
            for found in _make(job, engine, group, screen):
                if isinstance(found, NotFiniteError):
                    failed.append(str(found))
                    continue
                made.append(found)
                files += _plot(job, engine, found, len(made) - 1)
        if job.perf is not None and made:
            seconds = time.perf_counter() - began
            write_report(job.perf, report(made, settings(job, engine), seconds, when))
            files.append(f"report: {job.perf}")
        if failed:
            raise Failure("\n".join(failed))
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted after {len(made)} of {len(job.outputs)} images") from None
    finally:
        _tell(job, engine, made, files, screen, advise=not (failed or (engine and engine.told)))


def follow(job: Job, mesh: DeviceMesh) -> None:
    """Take part in every batch without showing or saving anything: what the ranks after 0 do."""
    engine = load(job, blank(), mesh)
    _warm(job, engine)
    for group in _groups(job, engine):
        for denoiser in (engine.cached, engine.plain) if job.compare else (engine.cached,):

            def share(some: Outputs, denoiser: Model = denoiser) -> None:
                take_part(engine.pipeline, denoiser, engine.batch(some), [output.seed for output in some])

            _fitting(group, share)


def _groups(job: Job, engine: Engine) -> list[Outputs]:
    """Return the outputs in batches, in order."""
    size = job.batch or batch_size(engine.pipeline, engine.template)
    return [job.outputs[start : start + size] for start in range(0, len(job.outputs), size)]


def _fitting(group: Outputs, act: Callable[[Outputs], T]) -> list[T]:
    """Do something with a batch; where its prompts do not fit into one, with each output alone.

    Raises:
        Misuse: it cannot be done with an output alone either.
    """
    try:
        return [act(group)]
    except ValueError as error:
        if len(group) == 1:
            raise Misuse(str(error)) from error
    return [done for output in group for done in _fitting((output,), act)]


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


def _title(job: Job, group: Outputs) -> str:
    word, count = "video" if job.fps else "image", len(job.outputs)
    if count == 1:
        return word
    first, last = job.outputs.index(group[0]) + 1, job.outputs.index(group[-1]) + 1
    return f"{word} {first} of {count}" if first == last else f"{word}s {first} to {last} of {count}"


def _make(job: Job, engine: Engine, group: Outputs, screen: Screen) -> Iterator[Made | NotFiniteError]:
    """Make a batch, and where a comparison is asked for the one without a cache; save each as it comes."""
    cached = _run(job, engine, engine.cached, group, _title(job, group), screen)
    if not job.compare:
        for output, result in zip(group, cached, strict=True):
            yield _kept(job, output, output.path, result, screen)
        return
    before = [_kept(job, output, output.path, result, screen) for output, result in zip(group, cached, strict=True)]
    plain = _run(job, engine, engine.plain, group, "without cache", screen)
    for output, found, result in zip(group, before, plain, strict=True):
        path = beside(output.path, PLAIN) if output.path else None
        other = _kept(job, output, path, result, screen)
        if isinstance(found, NotFiniteError) or isinstance(other, NotFiniteError):
            yield found if isinstance(found, NotFiniteError) else other
            continue
        one, two = found.result, other.result
        comparison = compare(two.frames, one.frames, two.seconds, one.seconds)
        yield attrs.evolve(found, plain=two, comparison=comparison)


def _kept(
    job: Job, output: Output, path: Path | None, result: Result | NotFiniteError, screen: Screen
) -> Made | NotFiniteError:
    """Save a result, if there is one."""
    if isinstance(result, NotFiniteError):
        return result
    _save(job, path, result, screen)
    return Made(output=output, result=result)


def _run(
    job: Job, engine: Engine, denoiser: Model, group: Outputs, title: str, screen: Screen
) -> Iterator[Result | NotFiniteError]:
    def run(some: Outputs) -> Denoised:
        with Progress(screen.notes, title if some == group else _title(job, some), job.steps, screen.quiet) as progress:
            seeds = [output.seed for output in some]
            return denoise(
                engine.pipeline, denoiser, engine.batch(some), seeds, lambda frame: progress.update(frame.info)
            )

    for done in _fitting(group, run):
        yield from results(engine.pipeline, done)


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


def _tell(
    job: Job, engine: Engine | None, made: Sequence[Made], files: Sequence[str], screen: Screen, advise: bool
) -> None:
    """Print the table of what was finished, and warn of a cache that never skipped, if `advise`."""
    if not made:
        return
    if not job.quiet:
        print_table(screen.out, ("", ""), summary(made, threshold_of(engine.cached) if engine else None))
        for line in files:
            screen.line(line)
    if advise and job.caching.asked and never_skipped(made):
        screen.note(
            f"a cache was asked for and no step was skipped: {recipe(job.caching.transform)}; raise the threshold, "
            "lower the warm-up, or run more steps",
            "warning",
        )

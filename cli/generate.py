"""`puredit generate`: prompts to image and video files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from pure.cli.command import Command
from pure.cli.dealing import Dealer
from pure.cli.made import Made
from pure.cli.naming import beside
from pure.cli.perf import report, write_report
from pure.cli.plotting import write_plot
from pure.cli.screen import Screen, blank
from pure.cli.screen import screen as make_screen
from pure.cli.summary import never_skipped, summary
from pure.cli.tables import print_table
from pure.engine.caching import recipe as written
from pure.engine.caching import threshold_of
from pure.engine.comparing import compare
from pure.engine.denoising import batch_size
from pure.engine.engine import Engine, Recipe, open_engine
from pure.engine.errors import Failure, Interrupted, Misuse
from pure.engine.maker import Hand, make_hands, take_orders
from pure.engine.ranks import spread
from pure.engine.result import Result
from pure.engine.sample import Sample
from pure.engine.saving import eight_bits, save
from pure.engine.video import write_frames
from pure.engine.weights import ComponentWeights
from pure.models import NotFiniteError
from pure.models.progress import Progress

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["execute"]

PLAIN = "without-cache"
T = TypeVar("T")


def execute(command: Command) -> None:
    """Carry a command out, in as many processes as it sets."""
    if command.parallel.sizes.total == 1:
        perform(command)
    else:
        sizes, found = command.parallel.sizes, command.checkpoint.found
        limits: Any = {"hosts": command.hosts, "timeout": command.flags["dist_timeout"]}
        spread(command, sizes, found, perform, follow, os.environ, **limits)


def perform(command: Command, mesh: DeviceMesh | None = None) -> None:
    """Load, make and save every image, then write table, plots and report; with a mesh as rank 0 of it.

    What is finished is on the disk and is listed, whatever stops the rest.
    """
    screen = make_screen(command.quiet)
    began, when = time.perf_counter(), datetime.now()
    for note in command.notes:
        screen.note(note.text)
    made: list[Made] = []
    files: list[str] = []
    failed: list[str] = []
    engine: Engine | None = None
    recipe: Recipe | None = None
    try:
        engine, recipe = load(command, screen, mesh)
        hands = make_hands(engine, mesh)
        for found in _produced(command, engine, recipe, hands, screen):
            if isinstance(found, NotFiniteError):
                failed.append(str(found))
                continue
            made.append(found)
            files += _plot(command, recipe, found, len(made) - 1)
        for hand in hands:
            hand.dismiss()
        if command.perf is not None and made:
            seconds = time.perf_counter() - began
            write_report(command.perf, report(made, settings(command, engine, recipe), seconds, when))
            files.append(f"report: {command.perf}")
        if failed:
            raise Failure("\n".join(failed))
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted after {len(made)} of {len(command.samples)} images") from None
    finally:
        held = engine.weights if engine else ()
        _tell(command, recipe, made, files, screen, not (failed or (recipe and recipe.idle)), held)


def load(command: Command, screen: Screen, mesh: DeviceMesh | None = None) -> tuple[Engine, Recipe]:
    """Load the checkpoint and check the order against it; with a mesh this process's share of it.

    Raises:
        Misuse: checkpoint, sizes or settings do not fit together.
    """
    effective = command.caching.effective
    engine = open_engine(command.checkpoint, effective, screen.note, screen.waiting, command.parallel, mesh)
    recipe = engine.recipe(command.order, command.caching)
    try:
        notes = engine.pipeline.notes(recipe.batch(command.samples))
    except (ValueError, TypeError) as error:
        raise Misuse(str(error)) from error
    known = {note.text for note in command.notes}
    for text, kind in dict.fromkeys((note.text, note.kind) for note in (*notes, *recipe.notes)):
        if text not in known:
            screen.note(text, kind)
    return engine, recipe


def follow(command: Command, mesh: DeviceMesh) -> None:
    """Take part in every batch without showing or saving anything: what the ranks after 0 do."""
    engine, _ = load(command, blank(), mesh)
    take_orders(engine, mesh)


def _compared(command: Command, recipe: Recipe) -> tuple[Recipe, ...]:
    """Return the recipe, and for a comparison the one without the cache."""
    return (recipe, recipe.uncached) if command.compare else (recipe,)


def _groups(command: Command, engine: Engine, recipe: Recipe) -> list[tuple[Sample, ...]]:
    """Return the samples in batches, in order."""
    size = command.batch or batch_size(engine.pipeline, recipe.request)
    return [command.samples[start : start + size] for start in range(0, len(command.samples), size)]


def _fitting(group: tuple[Sample, ...], act: Callable[[tuple[Sample, ...]], T]) -> Iterator[T]:
    """Do something with a batch; where its prompts do not fit into one, with each sample alone.

    Raises:
        Misuse: it cannot be done with a sample alone either.
    """
    try:
        done = act(group)
    except ValueError as error:
        if len(group) == 1:
            raise Misuse(str(error)) from error
        for sample in group:
            yield from _fitting((sample,), act)
    else:
        yield done


def _warming(command: Command, engine: Engine, recipe: Recipe) -> Callable[[Hand], None]:
    """Return what takes untimed steps where a warm-up is set, or with and without the cache before a comparison.

    Raises:
        Misuse: a size is not possible.
    """
    count = command.warmup or (1 if command.compare else 0)
    # All sizes are checked before any work, also where nothing is warmed up.
    sized = [engine.resized(recipe, height, width) for height, width in command.warmup_sizes] or [recipe]
    recipes = [one for size in sized for one in _compared(command, size)] if count else []

    def warm(hand: Hand) -> None:
        for each in recipes:
            hand.warm_up(f"{each.request.height} x {each.request.width}", each, command.samples[0].prompt, count)

    return warm


def _title(command: Command, group: tuple[Sample, ...]) -> str:
    word, count = "video" if command.checkpoint.video else "image", len(command.samples)
    if count == 1:
        return word
    first, last = command.samples.index(group[0]) + 1, command.samples.index(group[-1]) + 1
    return f"{word} {first} of {count}" if first == last else f"{word}s {first} to {last} of {count}"


def _produced(
    command: Command, engine: Engine, recipe: Recipe, hands: Sequence[Hand], screen: Screen
) -> Iterator[Made | NotFiniteError]:
    """Make all batches, and for a comparison those without a cache; save each result as it comes.

    Whatever stops the rest, what other processes have finished is saved.
    """
    remarks = {None: recipe, **({PLAIN: recipe.uncached} if command.compare else {})}

    def runs(hand: Hand, group: tuple[Sample, ...]) -> Iterator[Iterator[Result | NotFiniteError]]:
        quiet = blank() if hand.remote else screen
        return (_run(command, hand, one, group, remark, quiet) for remark, one in remarks.items())

    dealer = Dealer(hands, _groups(command, engine, recipe), _warming(command, engine, recipe), runs)
    try:
        for found in dealer:
            yield from _make(command, found, screen)
    except BaseException:
        for found in dealer.left():
            yield from _make(command, found, screen)
        raise


def _make(
    command: Command, runs: Iterable[Iterable[Result | NotFiniteError]], screen: Screen
) -> Iterator[Made | NotFiniteError]:
    """List the files of a batch, and for a comparison those without a cache."""
    if not command.compare:
        for found in next(iter(runs)):
            if isinstance(found, NotFiniteError):
                yield found
            else:
                _list(command, found, screen)
                yield Made(result=found)
        return
    cached, plain = runs
    before = list(cached)
    for found in before:
        if not isinstance(found, NotFiniteError):
            _list(command, found, screen)
    for one, other in zip(before, plain, strict=True):
        if not isinstance(other, NotFiniteError):
            _list(command, other, screen, PLAIN)
        if isinstance(one, NotFiniteError):
            yield one
        elif isinstance(other, NotFiniteError):
            yield other
        else:
            comparison = compare(other.frames, one.frames, other.seconds, one.seconds)
            yield Made(result=one, plain=other, comparison=comparison)


def _run(
    command: Command, hand: Hand, recipe: Recipe, group: tuple[Sample, ...], remark: str | None, screen: Screen
) -> Iterator[Result | NotFiniteError]:
    """Make a batch and write the files of each result as it comes; `remark` is added to their names."""

    def run(some: tuple[Sample, ...]) -> tuple[Sample, ...]:
        shown = "without cache" if remark and some == group else _title(command, some)
        with Progress(screen.notes, shown, command.steps, screen.quiet) as progress:
            hand.denoise("", recipe, some, lambda frame: progress.update(frame.info))
        return some

    for done in _fitting(group, run):
        for row, sample in enumerate(done):
            try:
                found = hand.finish(sample, row, share=len(done))
            except NotFiniteError as error:
                yield error
                continue
            path, frames = _paths(command, sample, remark)
            if path is not None:
                save(path, found.frames, recipe.fps)
            if frames is not None:
                write_frames(frames, eight_bits(found.frames))
            yield found


def _paths(command: Command, sample: Sample, remark: str | None) -> tuple[Path | None, Path | None]:
    """Return the file of a result and the folder of its frames, where there are such."""
    if sample.path is None:
        return None, None
    path = beside(sample.path, remark) if remark else sample.path
    return path, path.with_name(f"{path.stem}-frames") if command.save_frames else None


def _list(command: Command, result: Result, screen: Screen, remark: str | None = None) -> None:
    """Print where a result is."""
    path, frames = _paths(command, result.sample, remark)
    if path is not None:
        screen.line(str(path))
    if frames is not None:
        screen.line(f"{frames}/")


def _plot(command: Command, recipe: Recipe, made: Made, number: int) -> list[str]:
    """Draw one image's plot if plots are set; say where it is."""
    if command.plot is None:
        return []
    path = command.plot if number == 0 else beside(command.plot, str(number + 1))
    write_plot(path, made, threshold_of(recipe.denoiser), written(command.caching.transform))
    return [f"plot: {path}"]


def settings(command: Command, engine: Engine, recipe: Recipe) -> dict[str, Any]:
    """Return the effective configuration, for the report."""
    hidden = ("prompts", "images", "memo")
    request = attrs.asdict(recipe.request, filter=lambda field, _: field.name not in hidden)
    found = command.checkpoint.found
    return {
        **{name: value for name, value in command.flags.items() if value not in (None, ())},
        **request,
        "model_path": command.checkpoint.path or "embedded",
        "family": found.family.name,
        "pipeline": found.kind.pipeline,
        "device": str(engine.pipeline.device),
        "dtype": str(engine.pipeline.dtype),
        "processes": command.parallel.sizes.total,
        "parallel": attrs.asdict(command.parallel),
        "weights": {each.name: {"bytes": each.held, "of": each.loaded} for each in engine.weights},
        "attention_backend": command.caching.effective.attention_backend or "native",
        "cache": written(command.caching.transform),
        "cache_settings": command.caching.settings,
    }


def _tell(
    command: Command,
    recipe: Recipe | None,
    made: Sequence[Made],
    files: Sequence[str],
    screen: Screen,
    advise: bool,
    weights: Sequence[ComponentWeights] = (),
) -> None:
    """Print the table of what was finished, and warn of a cache that never skipped, if `advise`."""
    if not made:
        return
    if not command.quiet:
        print_table(screen.out, ("", ""), summary(made, threshold_of(recipe.denoiser) if recipe else None, weights))
        for line in files:
            screen.line(line)
    if advise and command.caching.enabled and never_skipped(made):
        screen.note(
            f"a cache is set and no step was skipped: {written(command.caching.transform)}; raise the "
            "threshold, lower the warm-up, or run more steps",
            "warning",
        )

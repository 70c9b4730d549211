"""`puredit tune`: from a checkpoint and a budget to the file of a plan."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rich.status

from pure.cli.command import checkpoint_of, order_of, plot_path
from pure.cli.naming import beside
from pure.cli.plotting import write_curve
from pure.cli.screen import Screen
from pure.cli.screen import screen as make_screen
from pure.cli.tables import print_table
from pure.engine.errors import Interrupted, Misuse
from pure.engine.extras import require
from pure.engine.tuning import TunedPlan, Tuning, tune
from pure.engine.writing import check_file, check_folder
from pure.models import CheckpointError

__all__ = ["execute"]

EVERY = 20.0
"""Seconds between two lines of progress where there is no terminal."""


def execute(values: Mapping[str, Any]) -> None:
    """Tune, write the plans, and print how near each comes.

    Raises:
        Misuse: a flag or the checkpoint is wrong, or no plan keeps to the budget.
        Failure: a file cannot be written.
    """
    if not values["budget"]:
        raise Misuse(
            "give --budget: computed steps such as 11, a time ratio such as 2.5x, or a least PSNR such as 50dB"
        )
    output, plot = Path(values["output"]), plot_path(values["plot"])
    if output.suffix.lower() not in (".yaml", ".yml"):
        raise Misuse(f"--output {output}: a plan is YAML; let the name end in .yaml")
    if plot is not None:
        require("plot", "--plot")
        check_file(plot, "--plot")
    check_file(output, "--output")
    recording = Path(values["recording"] or output.with_suffix(".recording"))
    check_folder(recording, "--recording")
    checkpoint = checkpoint_of(values)
    if checkpoint.video:
        require("video", f"a {checkpoint.name} makes videos, and that")
    checkpoint.check_pixels(values["height"], values["width"], values["num_frames"])
    order = order_of(values, checkpoint)
    screen = make_screen(values["log_level"] in ("warning", "error"))
    for note in order.notes:
        screen.note(note.text, note.kind)
    pipeline = checkpoint.load(screen.waiting)
    prompts = values["prompts"] or ("emoji" if values["model_path"] is None else None)
    try:
        with _Watch(screen) as watch:
            tuning = tune(
                pipeline,
                prompts,
                budget=values["budget"],
                refine=values["refine"],
                fit=values["fit"],
                held_out=values["held_out"],
                front=values["front"] or (0,),
                back=values["back"] or (0,),
                depth=values["depth"],
                recording=recording,
                observe=watch.see,
                negative_prompt=order.negative_prompt,
                **order.options,
            )
    except (ValueError, TypeError, CheckpointError) as error:
        raise Misuse(str(error)) from error
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; what was recorded is in {recording}, and is not recorded again") from None
    _tell(tuning, output, plot, screen)


class _Watch:
    """Shows what is done: a line that changes on a terminal, elsewhere a line now and then."""

    def __init__(self, screen: Screen) -> None:
        self.screen, self.began, self.last = screen, time.monotonic(), time.monotonic()
        self.live: rich.status.Status | None = None

    def __enter__(self) -> _Watch:
        if self.screen.notes.is_terminal and not self.screen.quiet:
            self.live = self.screen.notes.status("recording ...")
            self.live.start()
        return self

    def see(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        text = f"{what} {done} of {total}, {now - self.began:.0f} s"
        if self.live is not None:
            self.live.update(text)
        elif now - self.last > EVERY and not self.screen.quiet:
            self.last = now
            self.screen.note(text)

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()


def _tell(tuning: Tuning, output: Path, plot: Path | None, screen: Screen) -> None:
    """Write the plans and print the table."""
    for plan in tuning.plans:
        path = output if len(tuning.plans) == 1 else beside(output, str(plan.made_for.computed))
        plan.save(path)
        screen.line(f"plan: {path}")
    if plot is not None:
        write_curve(plot, tuning.plans, tuning.curve)
        screen.line(f"plot: {plot}")
    if not screen.quiet:
        rows = [_row(plan, "refined") for plan in tuning.plans] + [_row(plan, "") for plan in tuning.curve]
        rows.sort(key=lambda row: (-int(row[0]), row[-1]))
        title = f"PSNR against no cache on {tuning.plan.made_for.prompts} held-out prompts, in dB"
        print_table(screen.out, ("computed", "of", "speed", "mean", "worst tenth", ""), rows, title)
        screen.note(f"tuned in {tuning.seconds:.0f} s")


def _row(plan: TunedPlan, remark: str) -> tuple[str, ...]:
    made = plan.made_for
    speed = "" if plan.ratio is None else f"{plan.ratio:.2f}x"
    return str(made.computed), str(made.steps), speed, f"{made.psnr:.1f}", f"{made.worst_psnr:.1f}", remark

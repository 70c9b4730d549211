"""What a command makes, with stand-ins for the engine: each number goes where it belongs."""

import io
import os
import threading
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import attrs
import numpy as np
import pytest
import rich.console

from pure.cli import generate
from pure.cli.dealing import Dealer
from pure.cli.made import Made
from pure.cli.screen import Screen
from pure.distributed import Sizes
from pure.engine.errors import Failure, Misuse
from pure.engine.result import Result
from pure.engine.sample import Sample
from pure.engine.weights import ComponentWeights
from pure.models import NotFiniteError
from pure.notes import Note

WHEN = datetime(2026, 11, 23)

# ------------------------------------------------------------------------------ making


def sample(number: int) -> Sample:
    return Sample(prompt=f"prompt {number}", seed=number, path=Path(f"{number}.png"))


SAMPLES = tuple(map(sample, range(5)))
NOWHERE = rich.console.Console(file=io.StringIO())
QUIET = Screen(NOWHERE, NOWHERE, quiet=True)


def given(**fields: Any) -> Any:
    usual = {"samples": SAMPLES, "compare": False, "save_frames": False, "plot": None, "steps": 2, "quiet": True}
    rest = {"checkpoint": SimpleNamespace(video=False), "warmup": 0, "warmup_sizes": (), "batch": 2}
    return SimpleNamespace(**{**usual, **rest, **fields})


@pytest.mark.parametrize(
    ("group", "title"),
    [(SAMPLES[:1], "image 1 of 5"), (SAMPLES[2:3], "image 3 of 5"), (SAMPLES[4:], "image 5 of 5"),
     (SAMPLES[1:3], "images 2 to 3 of 5"), (SAMPLES[3:], "images 4 to 5 of 5"), (SAMPLES, "images 1 to 5 of 5")],
)  # fmt: skip
def test_a_batch_is_called_by_its_numbers(group, title):
    assert generate._title(given(), group) == title
    assert generate._title(given(samples=group[:1]), group[:1]) == "image"
    assert generate._title(given(checkpoint=SimpleNamespace(video=True)), group) == title.replace("image", "video")


def test_every_result_of_a_batch_has_its_share_and_its_file(monkeypatch):
    saved: list[Any] = []
    monkeypatch.setattr(generate, "save", lambda path, frames, fps: saved.append((str(path), frames, fps)))
    monkeypatch.setattr(generate, "write_frames", lambda folder, frames: saved.append((str(folder), frames)))
    monkeypatch.setattr(generate, "eight_bits", lambda frames: frames)
    asked: list[Any] = []

    def finish(sample: Sample, row: int, share: int) -> Any:
        asked.append((sample.seed, row, share))
        if row == 1:
            raise NotFiniteError({1: "not finite"})
        return SimpleNamespace(frames=f"frames {sample.seed}")

    hand: Any = SimpleNamespace(denoise=Mock(), finish=finish)
    recipe: Any = SimpleNamespace(fps=8)
    found = list(generate._run(given(save_frames=True), hand, recipe, SAMPLES[:3], "plain", QUIET))
    assert asked == [(0, 0, 3), (1, 1, 3), (2, 2, 3)] and isinstance(found[1], NotFiniteError)
    assert saved == [("0-plain.png", "frames 0", 8), ("0-plain-frames", "frames 0"),
                     ("2-plain.png", "frames 2", 8), ("2-plain-frames", "frames 2")]  # fmt: skip
    hand.denoise.assert_called_once()
    assert hand.denoise.call_args.args[:3] == ("", recipe, SAMPLES[:3])


def test_a_comparison_lists_both_files_and_compares_only_what_both_made():
    out = io.StringIO()
    screen = Screen(rich.console.Console(file=out, width=100), NOWHERE, quiet=True)
    frames = np.zeros((1, 8, 8, 3), np.float32)
    wrong = NotFiniteError({0: "not finite"})
    cached, plain = (
        [Result(sample=each, frames=frames, infos=(), step_seconds=(seconds,)) for each in SAMPLES[:3]]
        for seconds in (1.0, 2.0)
    )
    found = list(generate._make(given(compare=True), iter([[*cached[:2], wrong], [plain[0], wrong, plain[2]]]), screen))
    assert out.getvalue().split() == ["0.png", "1.png", "0-without-cache.png", "2-without-cache.png"]
    assert found[1:] == [wrong, wrong] and isinstance(found[0], Made)
    assert (found[0].result, found[0].plain) == (cached[0], plain[0])
    assert found[0].comparison is not None and found[0].comparison.ratio == 2.0


def test_results_of_others_are_finished_when_something_stops(monkeypatch):
    """And what another process makes is not shown step by step."""
    shown: list[Any] = []

    class Stopped:
        def __init__(self, hands: Any, groups: Any, prepare: Any, make: Any) -> None:
            self.runs = [list(make(SimpleNamespace(remote=remote), groups[0])) for remote in (False, True)]

        def __iter__(self) -> Any:
            yield [["first"]]
            raise KeyboardInterrupt

        def left(self) -> Any:
            return [[["second"]], [["third"]]]

    monkeypatch.setattr(generate, "Dealer", Stopped)
    monkeypatch.setattr(generate, "_groups", lambda *_: [SAMPLES[:2]])
    monkeypatch.setattr(
        generate, "_run", lambda command, hand, one, group, remark, screen: shown.append((one, remark, screen.quiet))
    )
    monkeypatch.setattr(generate, "_make", lambda command, found, screen: [found])
    monkeypatch.setattr(generate, "blank", lambda: QUIET)
    recipe: Any = SimpleNamespace(uncached="plain")
    engine: Any = None
    found = generate._produced(given(compare=True), engine, recipe, [], attrs.evolve(QUIET, quiet=False))
    seen = []
    with pytest.raises(KeyboardInterrupt):
        for each in found:
            seen.append(each)
    assert seen == [[["first"]], [["second"]], [["third"]]]
    assert shown == [
        (recipe, None, False),
        ("plain", "without-cache", False),
        (recipe, None, True),
        ("plain", "without-cache", True),
    ]


def test_an_error_of_a_batch_is_raised_in_its_turn():
    def make(hand: Any, batch: int) -> Any:
        if batch == 1:
            raise ValueError("the second")
        return [[batch]]

    dealer = Dealer(["only"], [0, 1, 2], lambda hand: None, make)  # type: ignore[list-item]
    dealer._made[1] = dealer._all("other", 1)  # type: ignore[arg-type]
    dealer._made[2] = [[2]]
    dealer._taken = 0
    found = iter(dealer)
    assert next(found) == [[0]]
    with pytest.raises(ValueError, match="the second"):
        next(found)
    assert [list(each) for each in dealer.left()] == [[[2]]]


def test_warm_ups_of_other_sizes_are_other_recipes():
    keys: list[str] = []
    hand: Any = SimpleNamespace(warm_up=lambda key, *_: keys.append(key))
    engine: Any = SimpleNamespace(
        resized=lambda recipe, height, width: SimpleNamespace(request=SimpleNamespace(height=height, width=width))
    )
    recipe: Any = None
    generate._warming(given(warmup=1, warmup_sizes=((8, 16), (16, 8))), engine, recipe)(hand)
    assert keys == ["8 x 16", "16 x 8"]


def test_every_picture_has_a_plot_of_its_own(monkeypatch):
    drawn: list[Any] = []
    monkeypatch.setattr(
        generate, "write_plot", lambda path, made, threshold, recipe: drawn.append((str(path), made, threshold))
    )
    monkeypatch.setattr(generate, "threshold_of", lambda denoiser: 0.25)
    monkeypatch.setattr(generate, "written", lambda transform: "a cache")
    one = given(plot=Path("p/a.png"), caching=SimpleNamespace(transform=None), notes=(), perf=None)
    monkeypatch.setattr(generate, "load", lambda *_: (None, SimpleNamespace(idle=(), denoiser=None)))
    hands = [Mock(), Mock()]
    monkeypatch.setattr(generate, "make_hands", lambda *_: hands)
    monkeypatch.setattr(generate, "_produced", lambda *_: iter(["one", NotFiniteError({0: "two"}), "three"]))
    told: list[Any] = []
    monkeypatch.setattr(generate, "_tell", lambda *arguments: told.append(arguments[3]))
    with pytest.raises(Failure, match="two"):
        generate.perform(one)
    assert drawn == [("p/a.png", "one", 0.25), ("p/a-2.png", "three", 0.25)]
    assert told == [["plot: p/a.png", "plot: p/a-2.png"]]
    assert [hand.dismiss.call_count for hand in hands] == [1, 1], "other processes are let go"


def test_the_settings_of_a_report_are_those_of_the_run(monkeypatch):
    monkeypatch.setattr(generate, "written", lambda transform: "a cache")
    fields = {"prompts": ("a",), "images": (), "memo": {}, "guidance_scale": 3.5, "height": 32, "steps": 2}
    asked = attrs.make_class("Asked", list(fields))(**fields)
    found = SimpleNamespace(family=SimpleNamespace(name="flux"), kind=SimpleNamespace(pipeline="FluxPipeline"))
    parallel = attrs.make_class("P", ["sizes"])(Sizes(tp=2))
    caching = SimpleNamespace(transform=None, settings={"Fn": 1}, effective=SimpleNamespace(attention_backend=None))
    one = given(flags={"seed": (1,), "plot": None, "height": 64, "image_path": ()}, parallel=parallel, caching=caching,
                checkpoint=SimpleNamespace(found=found, path=None))  # fmt: skip
    weights = (ComponentWeights("transformer", 4, 8), ComponentWeights("vae", 2, 2))
    engine: Any = SimpleNamespace(pipeline=SimpleNamespace(device="cuda:0", dtype="torch.bfloat16"), weights=weights)
    recipe: Any = SimpleNamespace(request=asked)
    assert generate.settings(one, engine, recipe) == {
        "seed": (1,), "guidance_scale": 3.5, "height": 32, "steps": 2, "model_path": "embedded", "family": "flux",
        "pipeline": "FluxPipeline", "device": "cuda:0", "dtype": "torch.bfloat16", "processes": 2,
        "parallel": attrs.asdict(parallel), "attention_backend": "native", "cache": "a cache",
        "weights": {"transformer": {"bytes": 4, "of": 8}, "vae": {"bytes": 2, "of": 2}}, "cache_settings": {"Fn": 1},
    }  # fmt: skip


@pytest.mark.parametrize(("hands", "batches"), [(1, 3), (2, 0), (2, 5), (3, 2), (4, 9)])
def test_every_batch_is_dealt_once_and_in_order(hands, batches):
    """Each hand prepares once, before its first batch."""
    did: list[Any] = []

    def make(hand: Any, batch: int) -> Any:
        did.append((hand, batch))
        return [[(batch, run)] for run in range(2)]

    dealer = Dealer(list(range(hands)), list(range(batches)), lambda hand: did.append((hand, "prepare")), make)  # type: ignore[arg-type]
    found = [[list(run) for run in each] for each in dealer]
    assert found == [[[(batch, run)] for run in range(2)] for batch in range(batches)]
    assert sorted(batch for _, batch in did if batch != "prepare") == list(range(batches))
    for hand in range(hands):
        own = [what for each, what in did if each == hand]
        assert own.count("prepare") == (hand == 0 or len(own) > 1) and own[:1] in ([], ["prepare"])
    assert list(dealer.left()) == []


@pytest.mark.parametrize("where", ["prepare", "make"])
def test_an_error_of_another_hand_is_raised_in_its_turn_and_ends_that_hand(where):
    taken, made = threading.Event(), []

    def prepare(hand: Any) -> None:
        if hand == "first":
            assert taken.wait(10)
        elif where == "prepare":
            taken.set()
            raise ValueError("no room")

    def make(hand: Any, batch: int) -> Any:
        made.append((hand, batch))
        if hand == "second":
            taken.set()
            raise ValueError("no room")
        return [[batch]]

    dealer = Dealer(["first", "second"], [0, 1, 2], prepare, make)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="no room"):
        list(dealer)
    assert [batch for hand, batch in made if hand == "second"] == [0] * (where == "make")


@pytest.mark.parametrize("total", [1, 4])
def test_a_command_runs_in_as_many_processes_as_it_sets(monkeypatch, total):
    calls: list[Any] = []
    monkeypatch.setattr(generate, "perform", lambda command: calls.append(command))
    monkeypatch.setattr(generate, "spread", lambda *each, **limits: calls.append((each, limits)))
    one = given(
        parallel=SimpleNamespace(sizes=Sizes(tp=total)), checkpoint=SimpleNamespace(found="found"), hosts="hosts",
        flags={"dist_timeout": 7.0},
    )  # fmt: skip
    generate.execute(one)
    if total == 1:
        assert calls == [one]
        return
    ((each, limits),) = calls
    assert each == (one, Sizes(tp=4), "found", generate.perform, generate.follow, os.environ)
    assert limits == {"hosts": "hosts", "timeout": 7.0}


def test_notes_of_the_model_are_told_once_with_their_kind(monkeypatch):
    told: list[Any] = []
    screen: Any = SimpleNamespace(note=lambda *each: told.append(each), waiting="waiting")
    opened: list[Any] = []
    notes = [Note("new"), Note("new"), Note("known"), Note("by the way", "note")]
    engine = SimpleNamespace(
        pipeline=SimpleNamespace(notes=lambda batch: notes[: len(batch)]),
        recipe=lambda order, caching: SimpleNamespace(batch=lambda samples: samples, notes=(Note("new"), notes[3])),
    )
    monkeypatch.setattr(generate, "open_engine", lambda *each: opened.append(each) or engine)
    caching = SimpleNamespace(effective="effective")
    one = given(notes=(Note("known"),), caching=caching, order="order", parallel="shares", checkpoint="checkpoint")
    assert generate.load(one, screen, None)[0] is engine
    assert told == [("new", "warning"), ("by the way", "note")]
    assert opened == [("checkpoint", "effective", screen.note, "waiting", "shares", None)]
    engine.pipeline.notes = Mock(side_effect=ValueError("no such prompt"))
    with pytest.raises(Misuse, match="no such prompt"):
        generate.load(one, screen, None)

"""What a command makes, tells and ends with, with stand-ins for the engine: each number goes where it belongs."""

import errno
import io
import json
import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import attrs
import numpy as np
import pytest
import rich.console

from pure import Decision, Info
from pure.cli import generate, main, models, perf, serve
from pure.cli.dealing import Dealer
from pure.cli.made import Made
from pure.cli.memory import SETTINGS, keep_memory
from pure.cli.screen import Screen
from pure.cli.summary import summary
from pure.distributed import Sizes
from pure.distributed.hosts import Hosts
from pure.engine.comparing import Comparison
from pure.engine.errors import Failure
from pure.engine.result import Result
from pure.engine.sample import Sample
from pure.engine.weights import Weights
from pure.models import NotFiniteError
from pure.models.flux import flux

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
    monkeypatch.setattr(generate, "save_frames", lambda folder, frames: saved.append((str(folder), frames)))
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
    monkeypatch.setattr(generate, "make_hands", lambda *_: ())
    monkeypatch.setattr(generate, "_produced", lambda *_: iter(["one", NotFiniteError({0: "two"}), "three"]))
    told: list[Any] = []
    monkeypatch.setattr(generate, "_tell", lambda *arguments: told.append(arguments[3]))
    with pytest.raises(Failure, match="two"):
        generate.perform(one)
    assert drawn == [("p/a.png", "one", 0.25), ("p/a-2.png", "three", 0.25)]
    assert told == [["plot: p/a.png", "plot: p/a-2.png"]]


def test_the_settings_of_a_report_are_those_of_the_run(monkeypatch):
    monkeypatch.setattr(generate, "written", lambda transform: "a cache")
    fields = {"prompts": ("a",), "images": (), "memo": {}, "guidance_scale": 3.5, "height": 32, "steps": 2}
    asked = attrs.make_class("Asked", list(fields))(**fields)
    found = SimpleNamespace(family=SimpleNamespace(name="flux"), kind=SimpleNamespace(pipeline="FluxPipeline"))
    parallel = attrs.make_class("P", ["sizes"])(Sizes(tp=2))
    caching = SimpleNamespace(transform=None, settings={"Fn": 1}, effective=SimpleNamespace(attention_backend=None))
    one = given(flags={"seed": (1,), "plot": None, "height": 64, "image_path": ()}, parallel=parallel, caching=caching,
                checkpoint=SimpleNamespace(found=found, path=None))  # fmt: skip
    weights = (Weights("transformer", 4, 8), Weights("vae", 2, 2))
    engine: Any = SimpleNamespace(pipeline=SimpleNamespace(device="cuda:0", dtype="torch.bfloat16"), weights=weights)
    recipe: Any = SimpleNamespace(request=asked)
    assert generate.settings(one, engine, recipe) == {
        "seed": (1,), "guidance_scale": 3.5, "height": 32, "steps": 2, "model_path": "embedded", "family": "flux",
        "pipeline": "FluxPipeline", "device": "cuda:0", "dtype": "torch.bfloat16", "processes": 2,
        "parallel": attrs.asdict(parallel), "attention_backend": "native", "cache": "a cache",
        "weights": {"transformer": {"bytes": 4, "of": 8}, "vae": {"bytes": 2, "of": 2}}, "cache_settings": {"Fn": 1},
    }  # fmt: skip


# ------------------------------------------------------------------------------ what is told


def result(seconds: float, change: float = 0.1) -> Result:
    infos = (Info((Decision(0, True, "first step", None, 6),)), Info((Decision(1, False, "threshold", change, 1),)))
    made = {"frames": np.zeros((1, 8, 8, 3)), "infos": infos, "step_seconds": (seconds,)}
    return Result(sample=Sample(prompt="\u00e9 cat", seed=7, number=3), **made)


def made(psnr: float) -> Made:
    found = Comparison(psnr=psnr, ssim=psnr / 100, ratio=2.0)
    return Made(result=result(1.0), plain=result(3.0), comparison=found)


def test_a_comparison_is_of_all_images():
    rows = dict(summary([made(50.0), made(40.0)], None, [Weights("a", 1_000_000, 1_000_000), Weights("b", 0, 500_000)]))
    assert (rows["PSNR"], rows["SSIM"]) == ("50.00 dB, 40.00 dB", "0.5000, 0.4000")
    assert (rows["seconds without cache"], rows["time ratio"]) == ("6.00 denoising", "3.00x")
    assert (rows["steps computed"], rows["steps skipped"]) == ("2 of 4 (first step 2)", "2 of 4 (threshold 2)")
    assert rows["weights of process 0"] == "a 1.0 MB, b 0.0 of 0.5 MB; 1.0 of 1.5 MB"
    assert "weights of process 0" not in dict(summary([made(50.0)], None, [Weights("a", 1, 1)]))
    assert "threshold" not in rows["measured change"]


def test_a_report_is_written_as_it_is_read(tmp_path):
    content = perf.report([made(float("inf"))], {"model_path": "m"}, 1.5, WHEN)
    perf.write_report(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text()
    assert "\u00e9 cat" in text and text.endswith("}\n")
    read = json.loads(text)
    first = read["images"][0]
    assert (first["prompt"], first["seed"], first["path"]) == ("\u00e9 cat", 7, None)
    assert (first["duration_ms"], first["without_cache"]["duration_ms"]) == (1000, 3000)
    assert (read["timestamp"], read["tag"], read["total_duration_ms"]) == ("2026-11-23T00:00:00", "cli_generate", 1500)
    assert read["meta"] == {"prompt": ["\u00e9 cat"], "model": "m"} and first["comparison"]["psnr"] is None


def test_a_checkpoint_is_described_with_its_experts_and_defaults():
    defaults = attrs.make_class("D", ["steps", "guidance_scale", "fps"])(28, 0.0, None)
    kind = SimpleNamespace(pipeline="FluxPipeline", task="text-to-image", guidance=("embedded", "none"))
    family = SimpleNamespace(name="flux", transformer="FluxTransformer2DModel")
    one = flux({})
    found: Any = SimpleNamespace(
        family=family, kind=kind, transformers=("a", "b"), denoisers={"": one}, solver=3, defaults=defaults
    )
    assert models.described(found) == {
        "family": "flux", "pipeline": "FluxPipeline", "transformer": "FluxTransformer2DModel", "task": "text-to-image",
        "guidance": "embedded, none", "experts": 2, "blocks": len(one.blocks), "solver": "int", "cache": "yes",
        "context parallel": "yes", "tensor parallel": "yes", "default steps": 28, "default guidance scale": 0.0,
    }  # fmt: skip
    assert models.capabilities(attrs.evolve(one, sharding=None))["tensor parallel"] == "no"
    assert models.capabilities(attrs.evolve(one, per_token=None))["context parallel"] == "no"


def test_json_of_models_is_written_as_it_is_read(monkeypatch, capsys):
    monkeypatch.setattr(models, "rows", lambda: [{"pipeline": "\u00e9"}])
    models.execute({"model_path": None, "as_json": True})
    assert "\u00e9" in capsys.readouterr().out


# ------------------------------------------------------------------------------ the process


def test_a_program_ends_with_the_code_of_its_command(monkeypatch):
    set_up: list[Any] = []
    monkeypatch.setattr(main, "run", lambda words: set_up.append(words) or 3)
    monkeypatch.setattr(main.signal, "signal", lambda *each: set_up.append(each))
    monkeypatch.setattr(main, "quiet_imports", lambda: set_up.append("quiet"))
    monkeypatch.setattr(main, "keep_memory", lambda environ: set_up.append(environ is os.environ))
    monkeypatch.setattr(sys, "argv", ["puredit", "models", "--json"])
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    with pytest.raises(SystemExit) as ended:
        main.main()
    opened = (sys.stdout, sys.stderr)
    assert ended.value.code == 3 and [stream.write("x") for stream in opened] == [1, 1]
    for stream in opened:
        stream.close()
    assert set_up == [(signal.SIGTERM, signal.default_int_handler), "quiet", True, ["models", "--json"]]


def test_a_full_disk_is_that_of_a_file_where_one_is_named(monkeypatch, capsys):
    for error, said in (
        (OSError(errno.ENOSPC, "No space left", "a.bin"), "OSError: [Errno 28] No space left: 'a.bin'; --debug"),
        (OSError(errno.ENOSPC, "No space left"), "cannot write to standard output: No space left; files that were"),
    ):
        monkeypatch.setattr(main.puredit, "main", Mock(side_effect=error))
        assert main.run(["models"]) == 1 and f"error: {said}" in capsys.readouterr().err


@pytest.mark.parametrize("name", SETTINGS)
def test_memory_is_left_as_the_environment_sets_it(name):
    assert keep_memory({name: "1"}) is False


def test_several_processes_of_a_server_have_its_limits(monkeypatch):
    calls: list[Any] = []
    monkeypatch.setattr(serve, "spread", lambda *arguments: calls.append(arguments))
    checkpoint: Any = SimpleNamespace(found="found")
    rest: Any = dict.fromkeys(("sources", "caching", "facts", "files", "taken"))
    limits = {"http_graceful_shutdown_timeout": 2.0, "dist_timeout": 7.0}
    one = serve.Serving(values=limits, checkpoint=checkpoint, **rest)
    hosts = Hosts(count=2, index=1, address=("a", 1))
    before = signal.getsignal(signal.SIGTERM)
    serve._spread(one, Sizes(tp=2), hosts)
    ((serving, sizes, found, lead, follow, environ, patience, passed, timeout),) = calls
    assert (serving, sizes, found, environ, passed) == (one, Sizes(tp=2), "found", os.environ, hosts)
    assert (lead, follow, patience, timeout) == (serve.lead, serve.follow, 17.0, 7.0)
    assert signal.getsignal(signal.SIGTERM) is before

"""What a command tells and ends with, with stand-ins for the engine: tables, reports, notes and exit codes."""

import errno
import io
import json
import os
import signal
import sys
from datetime import datetime
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import attrs
import numpy as np
import pytest
import rich.console

from pure import Decision, Info
from pure.cli import generate, main, models, perf, serve
from pure.cli.made import Made
from pure.cli.memory import SETTINGS, keep_memory
from pure.cli.screen import Screen
from pure.cli.summary import summary
from pure.distributed import Sizes
from pure.distributed.hosts import Hosts
from pure.engine.comparing import Comparison
from pure.engine.result import Result
from pure.engine.sample import Sample
from pure.engine.weights import ComponentWeights
from pure.models.flux import flux
from tests.cli.test_cli_making import NOWHERE, SAMPLES, given

WHEN = datetime(2026, 11, 23)

# ------------------------------------------------------------------------------ what is told


def result(seconds: float, change: float = 0.1) -> Result:
    infos = (Info((Decision(0, True, "first step", None, 6),)), Info((Decision(1, False, "threshold", change, 1),)))
    made: dict[str, Any] = {"frames": np.zeros((1, 8, 8, 3)), "infos": infos, "step_seconds": (seconds,)}
    return Result(sample=Sample(prompt="\u00e9 cat", seed=7, number=3), **made)


def made(psnr: float) -> Made:
    found = Comparison(psnr=psnr, ssim=psnr / 100, ratio=2.0)
    return Made(result=result(1.0), plain=result(3.0), comparison=found)


def test_a_comparison_is_of_all_images():
    rows = dict(
        summary(
            [made(50.0), made(40.0)],
            None,
            [ComponentWeights("a", 1_000_000, 1_000_000), ComponentWeights("b", 0, 500_000)],
        )
    )
    assert (rows["PSNR"], rows["SSIM"]) == ("50.00 dB, 40.00 dB", "0.5000, 0.4000")
    assert (rows["seconds without cache"], rows["time ratio"]) == ("6.00 denoising", "3.00x")
    assert (rows["steps computed"], rows["steps skipped"]) == ("2 of 4 (first step 2)", "2 of 4 (threshold 2)")
    assert rows["weights of process 0"] == "a 1.0 MB, b 0.0 of 0.5 MB; 1.0 of 1.5 MB"
    assert "weights of process 0" not in dict(summary([made(50.0)], None, [ComponentWeights("a", 1, 1)]))
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


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize(
    ("advise", "enabled", "skipped"),
    [(True, True, False), (True, True, True), (True, False, False), (False, True, False)],
)
def test_what_is_told_at_the_end(monkeypatch, quiet, advise, enabled, skipped):
    out, notes = io.StringIO(), io.StringIO()
    wide = [rich.console.Console(file=each, width=100) for each in (out, notes)]
    screen = Screen(wide[0], wide[1], quiet)
    monkeypatch.setattr(generate, "written", lambda transform: "a cache")
    monkeypatch.setattr(generate, "never_skipped", lambda made: not skipped)
    monkeypatch.setattr(generate, "threshold_of", lambda denoiser: 0.25)
    one = given(quiet=quiet, caching=SimpleNamespace(enabled=enabled, transform=None))
    recipe: Any = SimpleNamespace(denoiser=None)
    generate._tell(one, recipe, [], ["plot: a.png"], screen, advise)
    assert out.getvalue() == notes.getvalue() == "", "there is nothing to tell"
    weights = [ComponentWeights("transformer", 1_000_000, 2_000_000)]
    generate._tell(one, recipe, [Made(result=result(1.0))], ["plot: a.png"], screen, advise, weights)
    table = out.getvalue()
    assert ("threshold 0.25" in table, "transformer 1.0 of 2.0 MB" in table) == (not quiet, not quiet)
    assert table.endswith("plot: a.png\n" if not quiet else "")
    said = advise and enabled and not skipped
    assert notes.getvalue().startswith(
        "warning: a cache is set and no step was skipped: a cache; raise" if said else ""
    )
    assert bool(notes.getvalue()) == said


def test_files_are_listed_where_there_are_some(capsys):
    screen = Screen(rich.console.Console(), NOWHERE)
    for frames, remark in ((False, None), (True, "plain")):
        generate._list(given(save_frames=frames), SimpleNamespace(sample=SAMPLES[1]), screen, remark)  # type: ignore[arg-type]
    generate._list(given(), SimpleNamespace(sample=Sample(prompt="a", seed=1)), screen)  # type: ignore[arg-type]
    assert capsys.readouterr().out.split() == ["1.png", "1-plain.png", "1-plain-frames/"]


# ------------------------------------------------------------------------------ the process


def test_a_program_ends_with_the_code_of_its_command(monkeypatch):
    set_up: list[Any] = []
    monkeypatch.setattr(main, "run", lambda words: set_up.append(words) or 3)
    monkeypatch.setattr(main, "leave_at_once", lambda: set_up.append("interrupted"))
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
    assert set_up == ["interrupted", "quiet", True, ["models", "--json"]]


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

"""The examples run, as they stand and by the commands that they name, on tiny pipelines of the real classes."""

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pure.cli.main import run as main
from pure.models import Generation, embedded, load_pipeline
from pure.transforms import Quantization, dbcache, quantize
from tests.structure.source import ROOT
from tests.support import chat_pipelines, qwen_image_pipelines, wan_pipelines
from tests.support.forked import begin

EXAMPLES = ROOT / "examples"
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Run:
    """Run an example in an empty folder; return what it prints."""

    def call(name: str, *arguments: str) -> str:
        # As in a process of its own: after other shapes dynamo would compile for any shape, in ten times the time.
        torch.compiler.reset()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return call


def size(path: str) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def skips(row: str) -> bool:
    """Whether a row of marks shows steps that were computed and steps that were not."""
    return bool(re.fullmatch("[.#]+", row)) and len(set(row)) == 2


def test_noise_is_optimised_until_the_picture_has_the_colour(run: Run) -> None:
    printed = run("optimise_noise.py", "--steps", "4", "--rounds", "6")
    errors = [float(line.rsplit(" ", 1)[1]) for line in printed.splitlines() if "error" in line]
    assert errors[-1] < 0.9 * errors[0]
    assert size("noise.png") == (64, 64)


def test_a_predictor_learns_to_beat_taylorseer(run: Run) -> None:
    printed = run("optimise_predictor.py", "--rounds", "8")
    before, after = (float(part.split()[-1]) for part in printed.splitlines()[-1].split(",")[-2:])
    assert after < before


def test_flux(run: Run) -> None:
    printed = run("flux.py", "--steps", "12", "--backend", "eager").splitlines()
    assert re.match(r"every step: .* s; first time: .* s; then: .* s$", printed[0])
    assert skips(printed[1].split()[-1])
    assert size("flux.png") == (64, 64)


def test_qwen_image_with_guidance(run: Run, tmp_path: Path) -> None:
    kind, changes, _ = qwen_image_pipelines.KINDS["text-to-image"]
    qwen_image_pipelines.save(tmp_path / "checkpoint", kind, **changes)
    arguments = "--model-path checkpoint --size 32 --steps 12 --backend eager".split()
    rows = dict(line.strip().split(": ") for line in run("qwen_image.py", *arguments).splitlines()[1:3])
    assert rows["conditional"] == rows["unconditional"] and skips(rows["conditional"])
    assert size("qwen_image.png") == (32, 32)


def test_wan_with_two_experts(run: Run, tmp_path: Path) -> None:
    wan_pipelines.pipeline("t2v-2.2").save_pretrained(tmp_path / "checkpoint")
    sizes = "--height 32 --width 64 --frames 5 --steps 28 --backend eager".split()
    rows = dict(
        line.strip().split(": ") for line in run("wan.py", "--model-path", "checkpoint", *sizes).splitlines()[1:3]
    )
    assert set(rows) == {"high", "low"} and sum(map(len, rows.values())) == 28
    assert all(re.fullmatch("[.#]+", row) for row in rows.values())
    assert size("wan.png") == (64, 32)


def test_z_image_as_a_batch(run: Run, tmp_path: Path) -> None:
    chat_pipelines.z_image_pipeline().save_pretrained(tmp_path / "checkpoint")
    printed = run("z_image.py", *"--model-path checkpoint --size 32 --backend eager".split()).splitlines()
    rows = [line.split("  ")[0] for line in printed[1:]]
    assert len(rows) == 3 and all(re.fullmatch("[.#]{9}", row) for row in rows)
    assert [size(f"z_image_{number}.png") for number in range(3)] == [(32, 32)] * 3


def test_a_run_is_resumed_in_another_process(tmp_path: Path) -> None:
    """Forks of this process, which has imported all that they need; they share nothing but the file."""

    def be(half: str) -> None:
        os.chdir(tmp_path)
        sys.argv = ["resume_elsewhere.py", half, "half.safetensors"]
        runpy.run_path(str(EXAMPLES / sys.argv[0]), run_name="__main__")

    for half in ("first", "second"):
        process = begin(be, half)
        process.join(300)
        assert process.exitcode == 0
    assert size(str(tmp_path / "resumed.png")) == (64, 64)


@pytest.fixture(scope="module")
def in_cpp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example in C++, built as its first lines say."""
    made, torchs = tmp_path_factory.mktemp("cpp") / "run_exported", Path(torch.__path__[0])
    include = [f"-I{torchs}/include", f"-I{torchs}/include/torch/csrc/api/include"]
    linked = ["-o", str(made), f"-L{torchs}/lib", "-ltorch_cpu", "-ltorch", "-lc10", f"-Wl,-rpath,{torchs}/lib"]
    command = ["g++", "-std=c++20", *include, str(EXAMPLES / "run_exported.cpp"), *linked]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    return made


def alone(folder: Path, in_cpp: Path) -> tuple[list[str], torch.Tensor]:
    """Run an exported run.json in Python, where puredit cannot be imported, and in C++; return lines and latents."""
    code = (
        "import runpy, sys; sys.modules['pure'] = sys.modules['torchao'] = None; sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "print('PURE', [name for name in sys.modules if name.startswith('pure.')], sys.modules['pure'])"
    )
    arguments = ["run.json", "run-start.safetensors", "latents.safetensors"]
    command = [sys.executable, "-c", code, str(EXAMPLES / "run_exported.py"), *arguments]
    paths = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=paths, check=True, capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    assert lines[-1] == "PURE [] None" and skips(lines[0].split()[0])
    latents = load_file(folder / "latents.safetensors")["latents"]
    command = [str(in_cpp), "run.json", "run-start.safetensors", "latents.bin"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[0] == lines[0]
    numbers = torch.from_numpy(np.fromfile(folder / "latents.bin", np.float32)).view_as(latents)
    assert (numbers - latents).norm() <= 1e-5 * latents.norm()
    return lines, latents


def computed(run: Generation) -> str:
    return "".join("#" if info.computed[0] else "." for info in run.infos)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["inside", "beside"])
def test_an_exported_run_needs_torch_alone_and_makes_the_picture_of_the_eager_one(
    where: str, tmp_path: Path, in_cpp: Path
) -> None:
    (tmp_path / "cache.yaml").write_text(
        "cache_config: {residual_diff_threshold: 0.3, max_warmup_steps: 2, Fn_compute_blocks: 1}"
    )
    output = ["--output", str(tmp_path / "run.pt2"), "--weights", where, "--decoder", "--seed", "3"]
    settings = ["--cache-dit-config", str(tmp_path / "cache.yaml"), "--prompt", "a red apple"]
    assert main(["export", "--steps", "8", *settings, *output]) == 0
    lines, latents = alone(tmp_path, in_cpp)
    cache = dbcache(front=1, threshold=0.3, warmup=2)
    eager = load_pipeline(embedded()).generate("a red apple", transform=cache, seed=3, steps=8)
    assert lines[0].split()[0] == computed(eager)
    assert (latents - eager.latents).norm() <= 1e-5 * eager.latents.norm()
    with Image.open(tmp_path / "latents-0.png") as picture:
        found = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    assert (found - eager.pixels[0]).abs().max() <= 0.51 / 255  # rounded to bytes


QUANTISED = {"attn1": "float8_weight_only", "attn2": "int8_weight_only", "net.0": "int4_weight_only"}


@pytest.mark.slow
def test_two_experts_with_quantised_weights_are_exported(tmp_path: Path, in_cpp: Path) -> None:
    wan_pipelines.pipeline("t2v-2.2").save_pretrained(tmp_path / "checkpoint")
    cache = {"residual_diff_threshold": 0.5, "max_warmup_steps": 1, "Fn_compute_blocks": 1}
    cache |= {"max_continuous_cached_steps": 2, "enable_separate_cfg": True, "cfg_diff_compute_separate": False}
    settings = {
        "cache_config": cache,
        "quantize_config": {"quant_type": "int8_weight_only", "precision_plan": QUANTISED},
    }
    (tmp_path / "cache.json").write_text(json.dumps(settings))
    made = ["--model-path", str(tmp_path / "checkpoint"), "--cache-dit-config", str(tmp_path / "cache.json")]
    words = "--height 32 --width 64 --num-frames 5 --guidance-scale 4 --steps 8 --seed 3 --weights beside".split()
    assert main(["export", *made, *words, "--prompt", "a cat", "--output", str(tmp_path / "run.pt2")]) == 0
    lines, latents = alone(tmp_path, in_cpp)
    pipeline = load_pipeline(tmp_path / "checkpoint")
    params = quantize(
        pipeline.params, pipeline.denoiser, Quantization(kind="int8_weight_only", plan=tuple(QUANTISED.items()))
    )
    transform = dbcache(threshold=0.5, warmup=1, max_continuous=2, follow="conditional")
    sizes = {"height": 32, "width": 64, "frames": 5, "guidance_scale": 4.0, "steps": 8, "seed": 3}
    eager = attrs.evolve(pipeline, params=params).generate("a cat", transform=transform, **sizes)
    assert lines[0].split()[0] == computed(eager)
    assert (latents - eager.latents).norm() <= 1e-5 * eager.latents.norm()


def test_many_devices(run: Run) -> None:
    printed = run("many_gpus.py", "--ulysses", "2")
    assert skips(printed.split()[1]) and size("many_gpus.png") == (64, 64)


def test_a_rule_of_ones_own(run: Run) -> None:
    rows = [line.split() for line in run("own_rule.py", "--budget", "0.4").splitlines()]
    assert [int(row[0]) for row in rows] == list(range(28))
    assert {row[1] for row in rows} == {"computed", "skipped"} and {row[-1] for row in rows} == {"budget"}


def test_a_transformer_of_ones_own(run: Run) -> None:
    printed = run("own_transformer.py", "--rounds", "3").splitlines()
    assert printed[-2].startswith("every step: radii") and printed[-2].endswith("computed 48 of 48")
    assert printed[-1].startswith("cached: radii")


def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    book = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    assert book["nbformat"] == 4
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(book["cells"]):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)


def test_every_example_has_a_test_and_says_how_it_is_run() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    for file in EXAMPLES.iterdir():
        assert f'"{file.name}"' in here, file.name
        if file.suffix == ".py":
            assert f"python examples/{file.name}" in file.read_text(encoding="utf-8")

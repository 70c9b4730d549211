"""`puredit export`: files that torch alone runs, and what cannot be exported; test_examples.py compiles packages."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import load_file

from pure.cli.main import run
from pure.engine import export
from tests.support import qwen_image_pipelines, tiny, wan_pipelines

STATIC = {"steps_computation_mask": [1, 1, 0, 1, 0, 1, 0, 1], "steps_computation_policy": "static"}
THRESHOLD = {"residual_diff_threshold": 0.3, "max_warmup_steps": 2, "Fn_compute_blocks": 1}
JOINT = {**THRESHOLD, "enable_separate_cfg": True, "cfg_diff_compute_separate": False}
GUIDED = ["--negative-prompt", "a bad one", "--height", "32"]
SIZES = {
    "flux": ["--height", "32", "--width", "32"],
    "qwen": ["--true-cfg-scale", "3", *GUIDED, "--width", "32"],
    "experts": ["--guidance-scale", "4", "--guidance-scale-2", "3", *GUIDED, "--width", "64", "--num-frames", "5"],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny checkpoints of three families, Wan 2.2 with two experts."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tiny.pipeline().save_pretrained(folder / "flux")
    kind, changes, _ = qwen_image_pipelines.KINDS["text-to-image"]
    qwen_image_pipelines.save(folder / "qwen", kind, **changes)
    wan_pipelines.pipeline("t2v-2.2").save_pretrained(folder / "experts")
    return folder


def config(path: Path, **settings: Any) -> str:
    path.write_text(json.dumps(settings))
    return str(path)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("flux", {"cache_config": THRESHOLD}),
        ("qwen", {"cache_config": {**THRESHOLD, **STATIC}, "quantize_config": {"quant_type": "int8"}}),
        ("experts", {"cache_config": JOINT, "quantize_config": {"components_to_quantize": ["transformer_2"]}}),
    ],
    ids=["flux", "qwen", "experts"],
)
def test_the_exported_step_on_lists_of_tensors_is_the_step(
    family: str, settings: dict, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[export.Export] = []
    monkeypatch.setattr("pure.engine.export.package", lambda trace, path: path.write_bytes(b"made elsewhere"))
    monkeypatch.setattr(
        "pure.cli.export.write", lambda found, files: (seen.append(found), export.write(found, files))[1]
    )
    words = ["--cache-dit-config", config(tmp_path / "cache.json", **settings), "--weights", "beside"]
    model = ["--model-path", str(folders / family), *SIZES[family], "--steps", "8", "--prompt", "a cat", *words]
    assert run(["export", *model, "--output", str(tmp_path / "run.pt2")]) == 0
    layout = json.loads((tmp_path / "run.json").read_text())
    start, inputs = load_file(tmp_path / "run-start.safetensors"), load_file(tmp_path / "run.safetensors")
    stored = load_file(tmp_path / layout["weights_file"])
    assert ("quantize_config" in settings) == any(name.endswith(".weight.scale") for name in stored)

    def take(tensors: dict[str, torch.Tensor], listed: list[dict], prefix: str) -> list[torch.Tensor]:
        taken = [tensors[prefix + each["name"]] for each in listed]
        assert [list(each.shape) for each in taken] == [each["shape"] for each in listed]
        return taken

    marks, carry, expected, state = [], {}, None, None
    for part, said in zip(seen[0].parts, layout["parts"], strict=True):
        assert (tmp_path / said["package"]).exists() and said["expert"] == part.expert
        step = export.traced(part, inside=False).module()
        given = [stored[name] for name in said["weights"]]
        fixed, moving = (take(start, said[each], said["prefix"]) for each in ("fixed", "moving"))
        moving = [carry.get(each["name"], tensor) for each, tensor in zip(said["moving"], moving, strict=True)]
        state = part.state if expected is None else attrs.evolve(part.state, carry=expected)
        bound = part.program.denoiser.bind(part.params)
        with torch.no_grad():
            for number, each in zip(said["steps"], part.program.inputs, strict=True):
                *moving, computed, _ = step(given, fixed, moving, take(inputs, said["inputs"], f"{number}."))
                state, wanted, _ = part.program.step(bound, state, each)
                assert bool(computed) == bool(wanted)
                marks.append(bool(computed))
        carry = {each["name"]: tensor for each, tensor in zip(said["moving"], moving, strict=True)}
        carry, expected = {name: carry[name] for name in layout["latents"]}, state.carry
    latents = sum(share * carry[name] for name, share in layout["latents"].items())
    assert isinstance(latents, torch.Tensor) and state is not None
    torch.testing.assert_close(latents, seen[0].parts[-1].program.latents(state), rtol=1e-5, atol=1e-5)
    assert layout["steps"] == len(marks) == 8 and (family == "flux" or not all(marks))
    assert [each["expert"] for each in layout["parts"]] == (["high", "low"] if family == "experts" else [""])


def test_one_file_of_weights_and_one_package_serve_several_prompts(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pure.engine.export.package", lambda trace, path: path.write_bytes(b"made elsewhere"))
    model = ["export", "--model-path", str(folders / "flux"), *SIZES["flux"]]
    shared = ["--weights", "beside", "--weights-file", "shared.safetensors"]
    assert run([*model, "--steps", "4", "--output", "four.pt2", *shared]) == 0
    assert "shared.safetensors" in capsys.readouterr().out.split()
    assert run([*model, "--steps", "3", "--output", "three.pt2", *shared]) == 0
    assert "shared.safetensors" not in capsys.readouterr().out.split()
    names = {json.loads(Path(name).read_text())["weights_file"] for name in ("four.json", "three.json")}
    assert names == {"shared.safetensors"}
    other = ["--output", "four.pt2", "--only-start", "--start", "pear.safetensors", "--prompt", "a pear", "--seed", "7"]
    assert run([*model, "--steps", "4", *other]) == 0
    assert capsys.readouterr().out.split() == ["pear.safetensors"]
    one, two = load_file("four-start.safetensors"), load_file("pear.safetensors")
    assert one.keys() == two.keys() and not torch.equal(one[".carry[0]"], two[".carry[0]"])
    assert run([*model, "--steps", "5", *other]) == 2
    assert "the start does not fit four.pt2: steps is 4 there and 5 here" in " ".join(capsys.readouterr().err.split())
    assert run(["export", "--steps", "4", "--output", "other.pt2", *shared]) == 2
    assert "shared.safetensors holds the weights of another model" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        ([], {}, "give --output FILE.pt2"),
        (["--output", "run.pt"], {}, "--output run.pt: a package is a .pt2 file"),
        (["--output", "run.pt2", "--weights-file", "w.safetensors"], {}, "add --weights beside"),
        (["--output", "run.pt2", "--start", "start.pt"], {}, "--start start.pt: let the name end in .safetensors"),
        (["--output", "run.pt2", "--start", "run.safetensors"], {}, "are one file, run.safetensors; give another"),
        (["--output", "run.pt2"], {"parallelism_config": {"ulysses_size": 2}}, "or remove the sizes"),
    ],
)
def test_mistakes_are_found_before_anything_is_loaded(
    words: list[str],
    settings: dict,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("a checkpoint was loaded before the mistake was found")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pure.cli.export.open_engine", load)
    file = ["--cache-dit-config", config(tmp_path / "cache.json", **settings)] if settings else []
    assert run(["export", *words, *file]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("run*"))


def test_a_plan_that_is_no_program_is_refused_by_name(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = [
        "--cache-dit-config",
        config(tmp_path / "cache.json", cache_config={**THRESHOLD, "enable_separate_cfg": True}),
    ]
    model = ["--model-path", str(folders / "qwen"), *SIZES["qwen"], "--steps", "6"]
    assert run(["export", *model, *cache, "--output", str(tmp_path / "run.pt2")]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "this run cannot be exported: under guidance each branch would decide" in shown
    assert "(in a file: cfg_diff_compute_separate: false)" in shown

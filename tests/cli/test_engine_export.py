"""What the files of an export say, without a compiler: layout, start and weights of a run that is made up."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import attrs
import pytest
import torch
from safetensors.torch import load_file, save_file

import pure
from pure.engine import export
from pure.engine.errors import Failure, Misuse
from pure.engine.export import ExportFiles, _relative, check_start, layout, write
from pure.experts import Experts
from pure.testing import toys


@pure.state
class Moved:
    """A state: what is fixed, and what steps change."""

    prepared: Any
    carry: Any
    counts: torch.Tensor


def run(**changes: Any) -> Any:
    device = torch.device("meta")
    state = Moved(
        prepared={"text": torch.zeros(2, 3)},
        carry=(torch.zeros(4, dtype=torch.bfloat16),),
        counts=torch.zeros(1, device=device),
    )
    steps = [SimpleNamespace(timestep=torch.tensor(each)) for each in (900.0, 500.0)]
    program = SimpleNamespace(steps=steps, known=(True, None), read=(0.5,), inputs=[{"t": torch.ones(1)}] * 2)
    about = {"pipeline": "FluxPipeline", "fingerprint": "f", "height": 32, "width": 64}
    inputs = [{"t": torch.full((1,), float(number))} for number in range(2)]
    made = {"program": program, "params": {"b": torch.zeros(1), "a": torch.ones(2)}, "state": state, "about": about}
    return SimpleNamespace(**{**made, "inputs": inputs, "device": device, "decoder": None, **changes})


def files(folder: Path, **more: Any) -> ExportFiles:
    return ExportFiles(package=folder / "run.pt2", weights=None, start=folder / "start.safetensors", **more)


def test_the_layout_names_every_tensor_and_file(tmp_path):
    found = layout(run(), attrs.evolve(files(tmp_path), weights=tmp_path / "w.safetensors", decoder=tmp_path / "d.pt2"))
    assert found == {
        "format": "puredit export 1", "torch": torch.__version__, "device": "meta",
        "pipeline": "FluxPipeline", "fingerprint": "f", "height": 32, "width": 64,
        "package": "run.pt2", "inputs_file": "run.safetensors", "decoder": "d.pt2",
        "weights": {"file": "w.safetensors", "names": ["b", "a"]}, "steps": 2,
        "schedule": [{"timestep": 900.0, "known": True}, {"timestep": 500.0, "known": None}],
        "fixed": [{"name": ".prepared['text']", "shape": [2, 3], "dtype": "float32"}],
        "moving": [
            {"name": ".carry[0]", "shape": [4], "dtype": "bfloat16"},
            {"name": ".counts", "shape": [1], "dtype": "float32"},
        ],
        "inputs": [{"name": "['t']", "shape": [1], "dtype": "float32"}] if "['t']" in str(found["inputs"])
        else [{"name": "t", "shape": [1], "dtype": "float32"}],
        "latents": {".carry[0]": 0.5},
    }  # fmt: skip
    without = layout(run(), files(tmp_path))
    assert (without["weights"], without["decoder"]) == (None, None)


def test_a_file_beside_another_is_named_alone_and_others_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    assert _relative(Path("a/../w"), Path("run.json")) == _relative(tmp_path / "w", Path("run.json")) == "w"
    assert _relative(Path("a/w"), Path("run.json")) == str(tmp_path / "a" / "w")


def test_tensors_leave_a_step_and_go_into_a_file_contiguous(tmp_path):
    turned = torch.arange(6.0).reshape(2, 3).T
    export._save(tmp_path / "a.safetensors", {"a": turned}, {"of": "me"})
    assert torch.equal(load_file(tmp_path / "a.safetensors")["a"], turned)
    state: Any = Moved(prepared={"text": torch.ones(1)}, carry=(turned,), counts=torch.zeros(1))
    seen: list[Any] = []

    def step(bound: Any, before: Any, inputs: Any) -> Any:
        seen.append((bound, before, inputs))
        return attrs.evolve(before, carry=(before.carry[0].T,)), torch.tensor(True), torch.tensor(0.5)

    program: Any = SimpleNamespace(denoiser=SimpleNamespace(bind=dict), step=step, inputs=[{"t": torch.ones(1)}])
    for inside in (False, True):
        made = export.FlatStep(program, state, {"w": torch.full((1,), 3.0)}, inside)
        given = [] if inside else [torch.full((1,), 3.0)]
        moving = [torch.full((3, 2), 2.0), torch.full((1,), 4.0)]
        carry, counts, computed, change = made(given, [torch.full((1,), 5.0)], moving, [torch.full((1,), 6.0)])
        assert (
            carry.is_contiguous()
            and carry.shape == (2, 3)
            and (float(counts), bool(computed), float(change)) == (4, 1, 0.5)
        )
        bound, before, inputs = seen.pop()
        assert [float(each) for each in (bound["w"], before.prepared["text"], inputs["t"])] == [3, 5, 6]


@pytest.mark.parametrize(
    ("key", "there", "message"),
    [
        ("format", "puredit export 0", "format is puredit export 0 there and puredit export 1 here"),
        ("fingerprint", "g", "fingerprint is g there and f here"),
        ("steps", 3, "steps is 3 there and 2 here"),
        ("fixed", [], r"fixed is \[\] there and"),
        ("moving", None, "moving is None there and"),
    ],
)
def test_a_start_fits_the_package_it_is_for(tmp_path, monkeypatch, key, there, message):
    one = run(state=attrs.evolve(run().state, counts=torch.zeros(1)), device=torch.device("cpu"))
    known = layout(one, files(tmp_path))
    (tmp_path / "run.json").write_text(json.dumps({**known, "torch": "another", "device": "cuda", "package": "x"}))
    check_start(one, files(tmp_path))
    (tmp_path / "run.json").write_text(json.dumps({**known, key: there}))
    with pytest.raises(
        Misuse,
        match=f"the start does not fit .*run.pt2: {message}.*; export a package of these settings and this length",
    ):
        check_start(one, files(tmp_path))


@attrs.frozen
class Request:
    """Of a run: wider than high."""

    prompts: tuple[str, ...] = ()
    height: int = 32
    width: int = 64
    guidance_scale: float = 3.5


def test_what_is_exported_is_the_run_of_the_recipe(monkeypatch):
    asked: list[Any] = []
    program = SimpleNamespace(init=lambda *each: asked.append(each) or "state")
    monkeypatch.setattr(export.pure, "program", lambda *each: asked.append(each) or program)
    monkeypatch.setattr(export, "written", lambda transform: f"cache {transform}")
    params = {"a": torch.zeros(1)}
    pipeline = SimpleNamespace(
        params=params, solver="solver", schedule=lambda request: request.prompts,
        encode=lambda request: request.prompts,
        noise=lambda request, seed: (request.prompts, seed),
    )  # fmt: skip
    engine: Any = SimpleNamespace(pipeline=pipeline, checkpoint=SimpleNamespace(name="FluxPipeline"))
    caching = SimpleNamespace(transform="of mine")
    recipe: Any = SimpleNamespace(denoiser="cached", caching=caching, of=lambda prompts: Request(tuple(prompts)))
    found = export.prepare(engine, recipe, "a cat", 7)
    cat = ("a cat",)
    assert asked == [("cached", cat, "solver"), (params, cat, (cat, 7))]
    assert (found.program, found.state, found.params, found.decoder.request) == (program, "state", params, Request(cat))
    assert found.about == {
        "pipeline": "FluxPipeline", "fingerprint": export._fingerprint(params), "cache": "cache of mine",
        "height": 32, "width": 64, "guidance_scale": 3.5,
    }  # fmt: skip
    for error, hint in (("no", ""), ("set follow='conditional'", r" \(in a file: cfg_diff_compute_separate: false\)")):
        monkeypatch.setattr(export.pure, "program", Mock(side_effect=ValueError(error)))
        with pytest.raises(Misuse, match=f"this run cannot be exported: {error}{hint}$"):
            export.prepare(engine, recipe, "a cat", 7)
    recipe.denoiser = Experts({"high": toys.random_denoiser(), "low": toys.random_denoiser()})
    with pytest.raises(Misuse, match="this model has two experts, and a package holds the step of one denoiser"):
        export.prepare(engine, recipe, "a cat", 7)


def test_a_package_that_is_not_there_or_damaged_is_named_with_the_reason(tmp_path):
    one = run()
    with pytest.raises(Misuse, match=r"run\.json cannot be read \(No such file or directory\); export the package fir"):
        check_start(one, files(tmp_path))
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(Misuse, match=r"run\.json cannot be read \(Expecting property name"):
        check_start(one, files(tmp_path))


def test_a_package_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    def compile_(traced: str, package_path: str) -> None:
        Path(package_path).write_bytes(traced.encode())
        if traced == "broken":
            raise RuntimeError("no compiler")

    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", compile_)
    path = tmp_path / "folder" / "run.pt2"
    traced: Any = "traced"
    export.package(lambda: traced, path)
    broken: Any = "broken"
    with pytest.raises(Failure, match=r"torch cannot compile .*run\.pt2: no compiler; --debug shows where"):
        export.package(lambda: broken, path)
    assert path.read_bytes() == b"traced" and [each.name for each in path.parent.iterdir()] == ["run.pt2"]


def test_every_file_of_an_export_is_written_and_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "package", lambda trace, path: path.write_bytes(b"made"))
    one = run(state=attrs.evolve(run().state, counts=torch.zeros(1)), device=torch.device("cpu"))
    where = attrs.evolve(files(tmp_path), weights=tmp_path / "w.safetensors", decoder=tmp_path / "d.pt2")
    made = write(one, where)
    names = ["run.pt2", "run.safetensors", "run.json", "w.safetensors", "d.pt2", "start.safetensors"]
    assert [path.name for path in made] == names and sorted(names) == sorted(p.name for p in tmp_path.iterdir())
    inputs = load_file(tmp_path / "run.safetensors")
    assert {name: float(each) for name, each in inputs.items()} == {"0.t": 0.0, "1.t": 1.0}
    assert list(load_file(tmp_path / "w.safetensors")) == ["a", "b"]
    assert set(load_file(tmp_path / "start.safetensors")) == {".prepared['text']", ".carry[0]", ".counts"}
    assert [path.name for path in write(one, where)] == [name for name in names if name != "w.safetensors"]
    assert [path.name for path in write(one, files(tmp_path))] == [names[0], names[1], names[2], names[5]]
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(Misuse, match=r"w\.safetensors holds the weights of another model; choose another name"):
        write(one, where)
    (tmp_path / "w.safetensors").write_text("text")
    with pytest.raises(Misuse, match=r"w\.safetensors is no file of weights: .*; choose another name"):
        write(one, where)

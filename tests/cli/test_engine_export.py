"""What the files of an export say, without a compiler: layout, start and weights of a run that is made up."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import attrs
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import pure
from pure.engine import export
from pure.engine.errors import Failure, Misuse
from pure.engine.export import ExportFiles, _relative, check_start, layout, write
from pure.engine.flat_step import FlatStep, plain, plain_weights
from pure.transforms.quantize.kinds import KINDS


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
    inputs = [{"t": torch.full((1,), float(number))} for number in range(2)]
    program: Any = SimpleNamespace(steps=steps, known=(True, None), read=(0.5,), inputs=inputs)
    about = {"pipeline": "FluxPipeline", "fingerprint": "f", "height": 32, "width": 64}
    made: dict[str, Any] = {"params": {"b": torch.zeros(1), "a": torch.ones(2)}, "state": state, "expert": ""}
    part = export.ExportPart(**{**made, "program": program, "numbers": (0, 1), **changes})
    decoder: Any = None
    return export.Export(parts=(part,), decoder=decoder, about=about)


def files(folder: Path, **more: Any) -> ExportFiles:
    return ExportFiles(package=folder / "run.pt2", weights=None, start=folder / "start.safetensors", **more)


def test_the_layout_names_every_tensor_and_file(tmp_path):
    found = layout(run(), attrs.evolve(files(tmp_path), weights=tmp_path / "w.safetensors", decoder=tmp_path / "d.pt2"))
    assert found == {
        "format": "puredit export 2", "torch": torch.__version__, "device": "meta",
        "pipeline": "FluxPipeline", "fingerprint": "f", "height": 32, "width": 64,
        "inputs_file": "run.safetensors", "weights_file": "w.safetensors", "decoder": "d.pt2", "steps": 2,
        "schedule": [{"timestep": 900.0, "known": True}, {"timestep": 500.0, "known": None}],
        "latents": {".carry[0]": 0.5},
        "parts": [{
            "package": "run.pt2", "expert": "", "prefix": "", "steps": [0, 1], "weights": ["b", "a"],
            "fixed": [{"name": ".prepared['text']", "shape": [2, 3], "dtype": "float32"}],
            "moving": [
                {"name": ".carry[0]", "shape": [4], "dtype": "bfloat16"},
                {"name": ".counts", "shape": [1], "dtype": "float32"},
            ],
            "inputs": [{"name": "['t']", "shape": [1], "dtype": "float32"}],
        }],
    }  # fmt: skip
    without = layout(run(), files(tmp_path))
    assert (without["weights_file"], without["decoder"], without["parts"][0]["weights"]) == (None, None, [])


def test_each_expert_has_a_package_and_its_name_before_those_of_its_tensors(tmp_path):
    counts = attrs.evolve(run().parts[0].state, counts=torch.zeros(1))
    parts = [
        attrs.evolve(run(state=counts).parts[0], expert=name, numbers=at)
        for name, at in (("high", (0, 2)), ("low", (1, 3)))
    ]
    found = attrs.evolve(run(), parts=tuple(parts))
    said = layout(found, attrs.evolve(files(tmp_path), weights=tmp_path / "w.safetensors"))
    rows = [[part[name] for name in ("package", "expert", "prefix", "steps")] for part in said["parts"]]
    assert rows == [["run-high.pt2", "high", "high.", [0, 2]], ["run-low.pt2", "low", "low.", [1, 3]]]
    assert said["steps"] == 4 and [step["timestep"] for step in said["schedule"]] == [900.0, 900.0, 500.0, 500.0]
    assert said["parts"][1]["weights"] == ["low.b", "low.a"] and list(found.weights) == [
        "high.b", "high.a", "low.b", "low.a",
    ]  # fmt: skip
    tensors = (".prepared['text']", ".carry[0]", ".counts")
    assert list(export.start(found)) == [f"{name}.{each}" for name in ("high", "low") for each in tensors]
    (tmp_path / "run.json").write_text(json.dumps(said))
    check_start(found, files(tmp_path))
    (tmp_path / "run.json").write_text(json.dumps({**said, "parts": said["parts"][:1]}))
    with pytest.raises(Misuse, match=r"experts is \['high'\] there and \['high', 'low'\] here"):
        check_start(found, files(tmp_path))


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
        made = FlatStep(program, state, {"w": torch.full((1,), 3.0)}, inside)
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
        ("format", "puredit export 1", "format is puredit export 1 there and puredit export 2 here"),
        ("fingerprint", "g", "fingerprint is g there and f here"),
        ("steps", 3, "steps is 3 there and 2 here"),
        ("fixed", [], r"fixed is \[\] there and"),
        ("moving", None, "moving is None there and"),
    ],
)
def test_a_start_fits_the_package_it_is_for(tmp_path, monkeypatch, key, there, message):
    one = run(state=attrs.evolve(run().parts[0].state, counts=torch.zeros(1)))
    known = layout(one, files(tmp_path))
    (tmp_path / "run.json").write_text(json.dumps({**known, "torch": "another", "device": "cuda", "package": "x"}))
    check_start(one, files(tmp_path))
    changed = {**known, key: there} if key in known else {**known, "parts": [{**known["parts"][0], key: there}]}
    (tmp_path / "run.json").write_text(json.dumps(changed))
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


@attrs.frozen
class Run:
    """Stands for a program."""

    asked: list[Any]

    def init(self, *each: Any) -> str:
        self.asked.append(each)
        return "state"


def test_what_is_exported_is_the_run_of_the_recipe(monkeypatch):
    asked: list[Any] = []
    monkeypatch.setattr(export.pure, "programs_of", lambda *each: asked.append(each) or {"": Run(asked)})
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
    cat, part = ("a cat",), found.parts[0]
    assert asked == [("cached", cat, "solver"), (params, cat, (cat, 7))]
    assert (len(found.parts), part.expert, part.numbers, part.state) == (1, "", (0,), "state")
    assert (part.params, found.decoder.request) == (params, Request(cat))
    assert found.about == {
        "pipeline": "FluxPipeline", "fingerprint": export._fingerprint(params), "cache": "cache of mine",
        "height": 32, "width": 64, "guidance_scale": 3.5,
    }  # fmt: skip
    for error, hint in (("no", ""), ("set follow='conditional'", r" \(in a file: cfg_diff_compute_separate: false\)")):
        monkeypatch.setattr(export.pure, "programs_of", Mock(side_effect=ValueError(error)))
        with pytest.raises(Misuse, match=f"this run cannot be exported: {error}{hint}$"):
            export.prepare(engine, recipe, "a cat", 7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_weight_becomes_plain_tensors_and_operations_of_torch_alone(kind):
    numbers = torch.Generator().manual_seed(0)
    weight, x, bias = (torch.randn(*shape, generator=numbers) for shape in ((128, 128), (1, 3, 128), (128,)))
    params = {"layer.weight": KINDS[kind].make(weight), "layer.bias": bias}
    tensors = plain(params)
    assert all(type(each) is torch.Tensor for each in tensors.values())
    assert list(tensors)[:2] == ["layer.weight.qdata", "layer.weight.scale"] and list(tensors)[-1] == "layer.bias"
    found = plain_weights(params)
    recipe: Any = found["layer.weight"]
    assert found["layer.bias"] is None
    made = recipe.weight(iter(tensors.values()))
    assert (made.shape, made.dtype, made.device) == (weight.shape, weight.dtype, weight.device)
    operations = {str(node.target) for node in made.product.graph.nodes if node.op == "call_function"}
    assert all(name.startswith(("aten.", "<built-in function ")) for name in operations), operations
    for rows, added in ((x, bias), (x[0, 0], None), (x.expand(2, 3, 128), bias)):
        expected = F.linear(rows, params["layer.weight"], added)
        torch.testing.assert_close(F.linear(rows, made, added), expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(expected, F.linear(rows, weight, added), atol=1e-5)
    with pytest.raises(TypeError, match="exported for linear"):
        torch.matmul(x, made)


class Layers(torch.nn.Module):
    """A layer of every kind of weights."""

    def __init__(self, params: Any) -> None:
        super().__init__()
        self.recipes = plain_weights(params)

    def forward(self, weights: list[torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
        given = iter(weights)
        return [F.linear(x, recipe.weight(given)) for recipe in self.recipes.values()]  # type: ignore


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # torch's own, where inductor caches
def test_quantised_weights_of_every_kind_are_compiled(tmp_path):
    numbers = torch.Generator().manual_seed(0)
    weight, x = torch.randn(128, 128, generator=numbers), torch.randn(5, 128, generator=numbers)
    params = {kind: each.make(weight) for kind, each in KINDS.items()}
    given = list(plain(params).values()), x
    export.package(lambda: torch.export.export(Layers(params), given, strict=False), tmp_path / "layers.pt2")
    found = torch._inductor.aoti_load_package(str(tmp_path / "layers.pt2"))(*given)
    for each, quantised in zip(found, params.values(), strict=True):
        torch.testing.assert_close(each, F.linear(x, quantised), rtol=1e-5, atol=1e-5)


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
    one = run(state=attrs.evolve(run().parts[0].state, counts=torch.zeros(1)))
    where = attrs.evolve(files(tmp_path), weights=tmp_path / "w.safetensors", decoder=tmp_path / "d.pt2")
    made = write(one, where)
    names = ["run.pt2", "run.safetensors", "run.json", "w.safetensors", "d.pt2", "start.safetensors"]
    assert [path.name for path in made] == names and sorted(names) == sorted(p.name for p in tmp_path.iterdir())
    inputs = load_file(tmp_path / "run.safetensors")
    assert {name: float(each) for name, each in inputs.items()} == {"0.['t']": 0.0, "1.['t']": 1.0}
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

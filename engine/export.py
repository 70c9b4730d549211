"""A run as files that torch alone carries out: one step compiled ahead of time, its inputs, the start of a prompt.

The exported step is a function of lists of tensors: the records of `pure.programs` are taken apart here, and only their
names remain, in a JSON file. Text encoders are not exported: the start of a prompt, its conditioning and noise, is
written to a file by this module. The decoder of latents is a package of its own.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.utils._pytree as pytree
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

import pure
from pure.checks import cut
from pure.engine.caching import recipe as written
from pure.engine.engine import Engine, Recipe
from pure.engine.errors import Failure, Misuse
from pure.engine.writing import write_whole
from pure.experts import Experts
from pure.models import Pipeline, Request
from pure.programs import ProgramState
from pure.tree import tensors_of

__all__ = ["Export", "ExportFiles", "FlatStep", "check_start", "prepare", "start", "traced", "write", "write_start"]

FORMAT = "puredit export 1"
Tensors = dict[str, torch.Tensor]


@attrs.frozen(kw_only=True)
class ExportFiles:
    """Where the parts of an export are.

    Attributes:
        package: the compiled step, a .pt2 file; the JSON file and that of the inputs are beside it.
        weights: the file of the weights, if they are outside; several exports may share it.
        start: the file of a prompt's start.
        decoder: the compiled decoder of latents, if there is one.
    """

    package: Path
    weights: Path | None
    start: Path
    decoder: Path | None = None

    @property
    def layout(self) -> Path:
        """The JSON file."""
        return self.package.with_suffix(".json")

    @property
    def inputs(self) -> Path:
        """The file of what each step is given."""
        return self.package.with_suffix(".safetensors")


class FlatStep(torch.nn.Module):
    """One step of a program on lists of tensors, as torch exports it.

    Args:
        program: of the run.
        state: of the shapes of the run; its values do not matter.
        params: of the denoiser.
        inside: whether the weights become part of the package; else they are an input.
    """

    def __init__(
        self, program: pure.Program, state: ProgramState, params: Mapping[str, torch.Tensor], inside: bool
    ) -> None:
        super().__init__()
        self.program, self.state, self.names, self.inside = program, state, tuple(params), inside
        if inside:
            for number, each in enumerate(params.values()):
                self.register_buffer(f"weight_{number}", each)

    def forward(
        self,
        weights: list[torch.Tensor],
        fixed: list[torch.Tensor],
        moving: list[torch.Tensor],
        inputs: list[torch.Tensor],
    ) -> list[torch.Tensor]:
        """Return the moving part of the next state, () bool whether the middle blocks were computed, () the change."""
        given = [getattr(self, f"weight_{number}") for number in range(len(self.names))] if self.inside else weights
        bound = self.program.denoiser.bind(dict(zip(self.names, given, strict=True)))
        moved = _filled(attrs.evolve(self.state, prepared=None), moving)
        state = attrs.evolve(moved, prepared=_filled(self.state.prepared, fixed))
        after, computed, change = self.program.step(bound, state, _filled(self.program.inputs[0], inputs))
        # The next step reads them with the strides of its example, which are contiguous.
        return [*(each.contiguous() for each in _moving(after).values()), computed, change]


class Decoder(torch.nn.Module):
    """From the latents of the last step to pixels (B, 3, H, W) or (B, F, 3, H, W) in 0 to 1, as torch exports it.

    Args:
        pipeline: that decodes.
        request: of the run.
    """

    def __init__(self, pipeline: Pipeline, request: Request) -> None:
        super().__init__()
        self.pipeline, self.request = pipeline, request

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the pixels."""
        return self.pipeline.decoded(self.pipeline.finished(latents, self.request), self.request)


@attrs.frozen(kw_only=True, eq=False)
class Export:
    """A run that can be exported: its program, and the state of one prompt for the shapes.

    Attributes:
        program: of the run.
        params: of the denoiser, by name.
        state: before the first step.
        decoder: of the latents after the last.
        about: what the JSON file says of the model and the plan.
    """

    program: pure.Program
    params: Mapping[str, torch.Tensor]
    state: ProgramState
    decoder: Decoder
    about: Mapping[str, Any]

    @property
    def inputs(self) -> list[Tensors]:
        """What each step is given, by name."""
        return [_named(each, self.device) for each in self.program.inputs]

    @property
    def device(self) -> torch.device:
        """Where the run is."""
        return self.state.counts.device


@torch.no_grad()
def prepare(engine: Engine, recipe: Recipe, prompt: str, seed: int) -> Export:
    """Return what is exported of a run; the prompt gives the shapes, and its start can be written.

    Raises:
        Misuse: the run cannot be written as one program of tensors; the message says why.
    """
    pipeline = engine.pipeline
    if isinstance(recipe.denoiser, Experts):
        raise Misuse(TWO)
    request = recipe.of([prompt])
    try:
        program = pure.program(recipe.denoiser, pipeline.schedule(request), pipeline.solver)
        state = program.init(pipeline.params, pipeline.encode(request), pipeline.noise(request, seed))
    except (ValueError, TypeError) as error:
        file = " (in a file: cfg_diff_compute_separate: false)" if "follow='conditional'" in str(error) else ""
        raise Misuse(f"this run cannot be exported: {error}{file}") from error
    about = {
        "pipeline": engine.checkpoint.name,
        "fingerprint": _fingerprint(pipeline.params),
        "cache": written(recipe.caching.transform),
        "height": request.height,
        "width": request.width,
        "guidance_scale": request.guidance_scale,
    }
    decoder = Decoder(pipeline, request)
    return Export(program=program, params=pipeline.params, state=state, decoder=decoder, about=about)


TWO = "this model has two experts, and a package holds the step of one denoiser; export a model of one"


def start(found: Export) -> Tensors:
    """Return the state of the prompt before the first step, by name."""
    return {**_fixed(found.state), **_moving(found.state)}


@torch.no_grad()
def traced(found: Export, inside: bool) -> torch.export.ExportedProgram:
    """Return the step as torch's export traces it."""
    module = FlatStep(found.program, found.state, found.params, inside)
    weights = [] if inside else [each.clone() for each in found.params.values()]
    state = [list(_fixed(found.state).values()), list(_moving(found.state).values())]
    return torch.export.export(module, (weights, *state, list(found.inputs[0].values())), strict=False)


@torch.no_grad()
def traced_decoder(found: Export) -> torch.export.ExportedProgram:
    """Return the decoder as torch's export traces it."""
    latents = found.program.latents(found.state).clone(memory_format=torch.contiguous_format)
    return torch.export.export(found.decoder, (latents,), strict=False)


@torch.no_grad()
def package(trace: Callable[[], torch.export.ExportedProgram], path: Path) -> None:
    """Compile what is traced ahead of time and write it to a .pt2 file, whole or not at all.

    Raises:
        Failure: torch cannot export or compile it, for instance because there is no C++ compiler.
    """
    from torch._inductor import aoti_compile_and_package

    with tempfile.TemporaryDirectory(prefix="puredit-export-") as folder:
        made = Path(folder) / path.name
        try:
            aoti_compile_and_package(trace(), package_path=str(made))
        except Exception as error:  # of torch's compilers and the system's
            raise Failure(f"torch cannot compile {path}: {cut(str(error))}; --debug shows where") from error
        write_whole(path, made.read_bytes())


def write(found: Export, files: ExportFiles) -> tuple[Path, ...]:
    """Write package, JSON, inputs, start and, where they are outside and not there yet, the weights.

    Returns:
        The files that were written.

    Raises:
        Misuse: the file of the weights holds those of another model.
        Failure: a file cannot be written.
    """
    made = [files.package, files.inputs, files.layout]
    if files.weights is not None and not _holds(files.weights, found):
        _save(files.weights, dict(found.params), {"fingerprint": found.about["fingerprint"]})
        made.append(files.weights)
    package(lambda: traced(found, files.weights is None), files.package)
    if files.decoder is not None:
        package(lambda: traced_decoder(found), files.decoder)
        made.append(files.decoder)
    steps = {f"{number}.{name}": each for number, step in enumerate(found.inputs) for name, each in step.items()}
    _save(files.inputs, steps, {"format": FORMAT})
    write_whole(files.layout, json.dumps(layout(found, files), indent=2).encode() + b"\n")
    return (*made, write_start(found, files))


def write_start(found: Export, files: ExportFiles) -> Path:
    """Write the start of the prompt; return its file.

    Raises:
        Failure: it cannot be written.
    """
    _save(files.start, start(found), {"format": FORMAT, "fingerprint": found.about["fingerprint"]})
    return files.start


def layout(found: Export, files: ExportFiles) -> dict[str, Any]:
    """Return what the JSON file says: the order of the tensors, their shapes and dtypes, and where they are."""
    weights = files.weights
    beside = None if weights is None else {"file": _relative(weights, files.layout), "names": list(found.params)}
    carry = [name for name in _moving(found.state) if name.startswith(".carry[")]
    return {
        "format": FORMAT,
        "torch": torch.__version__,
        "device": found.device.type,
        **found.about,
        "package": files.package.name,
        "inputs_file": files.inputs.name,
        "weights": beside,
        "decoder": None if files.decoder is None else files.decoder.name,
        "steps": len(found.program.steps),
        "schedule": [
            {"timestep": float(step.timestep), "known": known}
            for step, known in zip(found.program.steps, found.program.known, strict=True)
        ],
        "fixed": _described(_fixed(found.state)),
        "moving": _described(_moving(found.state)),
        "inputs": _described(found.inputs[0]),
        "latents": dict(zip(carry, found.program.read, strict=True)),
    }


def check_start(found: Export, files: ExportFiles) -> None:
    """Check that a package is there and takes the state of the prompt.

    Raises:
        Misuse: it does not; the message names the first difference.
    """
    try:
        known = json.loads(files.layout.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise Misuse(
            f"{files.layout} cannot be read ({reason}); export the package first, without --only-start"
        ) from error
    here = layout(found, files)
    for name in ("format", "fingerprint", "steps", "fixed", "moving"):
        if known.get(name) != (wanted := json.loads(json.dumps(here[name]))):
            raise Misuse(
                f"the start does not fit {files.package}: {name} is {cut(str(known.get(name)))} there and "
                f"{cut(str(wanted))} here; export a package of these settings and this length of prompt"
            )


# ---------------------------------------------------------------------- lists of tensors


def _named(tree: Any, device: torch.device | None = None) -> Tensors:
    """Return the tensors of a tree by name, each in memory of its own."""
    return {
        name: leaf.detach().to(device or leaf.device).clone(memory_format=torch.contiguous_format)
        for name, leaf in tensors_of(tree).items()
    }


def _fixed(state: ProgramState) -> Tensors:
    """Return what no step changes."""
    return {f".prepared{name}": leaf for name, leaf in _named(state.prepared).items()}


def _moving(state: ProgramState) -> Tensors:
    return _named(attrs.evolve(state, prepared=None))


def _filled(tree: Any, tensors: Sequence[torch.Tensor]) -> Any:
    """Return the tree with other tensors, in order."""
    leaves, spec = pytree.tree_flatten(tree)
    given = iter(tensors)
    return pytree.tree_unflatten([next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], spec)


# ---------------------------------------------------------------------- files


def _described(tensors: Tensors) -> list[dict[str, Any]]:
    return [
        {"name": name, "shape": list(each.shape), "dtype": str(each.dtype).removeprefix("torch.")}
        for name, each in tensors.items()
    ]


def _relative(path: Path, origin: Path) -> str:
    """Return a path as it is written into a file: relative to that file where both are in one folder, else absolute."""
    return path.name if path.resolve().parent == origin.resolve().parent else str(path.resolve())


def _fingerprint(params: Mapping[str, torch.Tensor]) -> str:
    """Return a SHA-256 of the names, shapes, dtypes and bytes of all weights."""
    found = hashlib.sha256()
    for name in sorted(params):
        each = params[name].detach().cpu().contiguous()
        found.update(f"{name} {tuple(each.shape)} {each.dtype}\n".encode())
        found.update(each.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _holds(path: Path, found: Export) -> bool:
    """Whether the weights are in the file already.

    Raises:
        Misuse: there is another file.
    """
    if not path.exists():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            known = (file.metadata() or {}).get("fingerprint")
    except (SafetensorError, OSError) as error:
        raise Misuse(f"--weights-file {path} is no file of weights: {error}; choose another name") from error
    if known != found.about["fingerprint"]:
        raise Misuse(f"--weights-file {path} holds the weights of another model; choose another name")
    return True


def _save(path: Path, tensors: Tensors, metadata: dict[str, str]) -> None:
    tensors = {name: each.detach().cpu().clone(memory_format=torch.contiguous_format) for name, each in tensors.items()}
    try:
        write_whole(path, save(tensors, metadata))
    except SafetensorError as error:
        raise Failure(f"cannot write {path}: {error}") from error

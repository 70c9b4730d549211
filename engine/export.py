"""A run as files that torch alone carries out: one step compiled ahead of time, its inputs, the start of a prompt.

The exported step is a function of lists of tensors (`flat_step.py`): of records only the names remain, in a JSON file.
Each of several experts has a package of its own, and so has the decoder of latents. Text encoders are not exported: the
start of a prompt, its conditioning and noise, is written to a file by this module.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

import pure
from pure.checks import cut
from pure.engine.caching import recipe as written
from pure.engine.engine import Engine, Recipe
from pure.engine.errors import Failure, Misuse
from pure.engine.flat_step import FlatDecoder, FlatStep, Tensors, fixed, moving, named, plain
from pure.engine.writing import write_whole
from pure.experts import Experts
from pure.programs import ProgramState

__all__ = ["Export", "ExportFiles", "ExportPart", "check_start", "prepare", "start", "traced", "write", "write_start"]

FORMAT = "puredit export 2"


@attrs.frozen(kw_only=True)
class ExportFiles:
    """Where the parts of an export are.

    Attributes:
        package: the compiled step, a .pt2 file; the JSON file and that of the inputs are beside it, and the packages of
            experts, which have their names.
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

    def package_of(self, expert: str) -> Path:
        """Return the package of an expert: its name follows that of the others."""
        return self.package.with_name(f"{self.package.stem}-{expert}.pt2") if expert else self.package


@attrs.frozen(kw_only=True, eq=False)
class ExportPart:
    """The steps of one expert of a run, or all steps.

    Attributes:
        expert: its name; empty where there is one denoiser.
        program: of its steps.
        numbers: of its steps in the whole schedule.
        params: of the denoiser, by name.
        state: before its first step, of one prompt; what the solver carries it gets from the part before.
    """

    expert: str
    program: pure.Program
    numbers: tuple[int, ...]
    params: Mapping[str, torch.Tensor]
    state: ProgramState

    @property
    def prefix(self) -> str:
        """What the names of its tensors begin with in files that all parts share."""
        return f"{self.expert}." if self.expert else ""

    @property
    def inputs(self) -> list[Tensors]:
        """What each step is given, by name."""
        return [named(each, self.state.counts.device) for each in self.program.inputs]

    @property
    def weights(self) -> Tensors:
        """The parameters by their names in a file, quantised ones as their values and scales."""
        return {self.prefix + name: each for name, each in plain(self.params).items()}


@attrs.frozen(kw_only=True, eq=False)
class Export:
    """A run that can be exported: its programs, and their states of one prompt for the shapes.

    Attributes:
        parts: one, or one of each expert, in their order.
        decoder: of the latents after the last step.
        about: what the JSON file says of the model and the plan.
    """

    parts: tuple[ExportPart, ...]
    decoder: FlatDecoder
    about: Mapping[str, Any]

    @property
    def weights(self) -> Tensors:
        """Those of all parts, by their names in a file."""
        return {name: each for part in self.parts for name, each in part.weights.items()}

    @property
    def device(self) -> torch.device:
        """Where the run is."""
        return self.parts[0].state.counts.device


@torch.no_grad()
def prepare(engine: Engine, recipe: Recipe, prompt: str, seed: int) -> Export:
    """Return what is exported of a run; the prompt gives the shapes, and its start can be written.

    Raises:
        Misuse: the run cannot be written as programs of tensors; the message says why.
    """
    pipeline, denoiser = engine.pipeline, recipe.denoiser
    request = recipe.of([prompt])
    steps, params = pipeline.schedule(request), pipeline.params
    of: Mapping[str, Any] = params if isinstance(denoiser, Experts) else {"": params}
    try:
        programs = pure.programs_of(denoiser, steps, pipeline.solver)
        given = pipeline.encode(request), pipeline.noise(request, seed)
        parts = tuple(
            ExportPart(
                expert=name,
                program=program,
                numbers=tuple(at for at, step in enumerate(steps) if not name or step.expert == name),
                params=of[name],
                state=program.init(of[name], *given),
            )
            for name, program in programs.items()
        )
    except (ValueError, TypeError) as error:
        file = " (in a file: cfg_diff_compute_separate: false)" if "follow='conditional'" in str(error) else ""
        raise Misuse(f"this run cannot be exported: {error}{file}") from error
    about = {
        "pipeline": engine.checkpoint.name,
        "fingerprint": _fingerprint({name: each for part in parts for name, each in part.weights.items()}),
        "cache": written(recipe.caching.transform),
        "height": request.height,
        "width": request.width,
        "guidance_scale": request.guidance_scale,
    }
    return Export(parts=parts, decoder=FlatDecoder(pipeline, request), about=about)


def start(found: Export) -> Tensors:
    """Return the states of the prompt before the first step of each part, by name."""
    return {
        part.prefix + name: each
        for part in found.parts
        for name, each in {**fixed(part.state), **moving(part.state)}.items()
    }


@torch.no_grad()
def traced(part: ExportPart, inside: bool) -> torch.export.ExportedProgram:
    """Return a step as torch's export traces it."""
    module = FlatStep(part.program, part.state, part.params, inside)
    weights = [] if inside else [each.clone() for each in part.weights.values()]
    state = [list(fixed(part.state).values()), list(moving(part.state).values())]
    return torch.export.export(module, (weights, *state, list(part.inputs[0].values())), strict=False)


@torch.no_grad()
def traced_decoder(found: Export) -> torch.export.ExportedProgram:
    """Return the decoder as torch's export traces it."""
    last = found.parts[-1]
    latents = last.program.latents(last.state).clone(memory_format=torch.contiguous_format)
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
    """Write packages, JSON, inputs, start and, where they are outside and not there yet, the weights.

    Returns:
        The files that were written.

    Raises:
        Misuse: the file of the weights holds those of another model.
        Failure: a file cannot be written.
    """
    packages = [files.package_of(part.expert) for part in found.parts]
    made = [*packages, files.inputs, files.layout]
    if files.weights is not None and not _holds(files.weights, found):
        _save(files.weights, found.weights, {"fingerprint": found.about["fingerprint"]})
        made.append(files.weights)
    for part, path in zip(found.parts, packages, strict=True):
        package(functools.partial(traced, part, files.weights is None), path)
    if files.decoder is not None:
        package(lambda: traced_decoder(found), files.decoder)
        made.append(files.decoder)
    steps = {
        f"{number}.{name}": each
        for part in found.parts
        for number, step in zip(part.numbers, part.inputs, strict=True)
        for name, each in step.items()
    }
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
    """Return what the JSON file says: which steps each package takes, the order of its tensors, and where they are."""
    first = found.parts[0]
    carry = [name for name in moving(first.state) if name.startswith(".carry[")]
    steps = {
        number: {"timestep": float(step.timestep), "known": known}
        for part in found.parts
        for number, step, known in zip(part.numbers, part.program.steps, part.program.known, strict=True)
    }
    return {
        "format": FORMAT,
        "torch": torch.__version__,
        "device": found.device.type,
        **found.about,
        "inputs_file": files.inputs.name,
        "weights_file": None if files.weights is None else _relative(files.weights, files.layout),
        "decoder": None if files.decoder is None else files.decoder.name,
        "steps": len(steps),
        "schedule": [steps[number] for number in sorted(steps)],
        "latents": dict(zip(carry, first.program.read, strict=True)),
        "parts": [_part(part, files) for part in found.parts],
    }


def _part(part: ExportPart, files: ExportFiles) -> dict[str, Any]:
    return {
        "package": files.package_of(part.expert).name,
        "expert": part.expert,
        "prefix": part.prefix,
        "steps": list(part.numbers),
        "weights": [] if files.weights is None else list(part.weights),
        "fixed": _described(fixed(part.state)),
        "moving": _described(moving(part.state)),
        "inputs": _described(part.inputs[0]),
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
    here = json.loads(json.dumps(layout(found, files)))
    for name, there, wanted in _compared(known, here):
        if there != wanted:
            raise Misuse(
                f"the start does not fit {files.package}: {name} is {cut(str(there))} there and "
                f"{cut(str(wanted))} here; export a package of these settings and this length of prompt"
            )


def _compared(known: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[tuple[str, object, object]]:
    """Yield what must be equal in the JSON files of a package and of another prompt: its name and both values."""
    for name in ("format", "fingerprint", "steps"):
        yield name, known.get(name), here[name]
    parts: list[Any] = known.get("parts") or []
    own: list[Any] = here["parts"]
    yield "experts", [each["expert"] for each in parts], [each["expert"] for each in own]
    for there, wanted in zip(parts, own, strict=True):
        for name in ("steps", "fixed", "moving"):
            yield wanted["prefix"] + name, there.get(name), wanted[name]


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

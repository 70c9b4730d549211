"""The tiny checkpoint, our runs of it, and all of cache-dit's, made once."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
import pytest
import torch
from safetensors.torch import load_file, save_file

import pure
from pure.models import Pipeline, load_pipeline
from pure.tree import map_samples
from tests.parity.cases import CASES, HEIGHT, NEGATIVE, PROMPTS, TEXT, WIDTH, Case
from tests.parity.differing import DIFFERING
from tests.parity.pruned import PRUNED
from tests.support import tiny

ROOT = Path(__file__).parents[2]


@attrs.frozen
class Outcome:
    """What one side did; diffusers says nothing but the latents.

    Attributes:
        skipped: per row, the indices of the skipped steps.
        changes: per row, the measured changes by step.
        latents: (B, N, C) at the end.
    """

    skipped: tuple[frozenset[int], ...]
    changes: tuple[dict[int, float], ...]
    latents: torch.Tensor


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which cache-dit finds the checkpoint and its orders."""
    folder = tmp_path_factory.mktemp("parity")
    tiny.pipeline().save_pretrained(folder / "checkpoint")
    return folder


@pytest.fixture(scope="session")
def pipeline(checkpoint: Path) -> Pipeline:
    return load_pipeline(checkpoint / "checkpoint")


@pytest.fixture(scope="session")
def noise(pipeline: Pipeline) -> torch.Tensor:
    """The starting noise of every prompt."""
    return pipeline.noise(pipeline.request(PROMPTS, height=HEIGHT, width=WIDTH), list(range(len(PROMPTS))))


@pytest.fixture(scope="session")
def ours(pipeline: Pipeline, noise: torch.Tensor) -> Callable[[Case], Outcome]:
    """Run a case with puredit."""

    def run(case: Case) -> Outcome:
        dtype = getattr(torch, case.dtype)
        params = silenced(pipeline.params) if case.zeroed else pipeline.params
        run = pure.sample(
            case.transform()(pipeline.denoiser),
            {name: tensor.to(dtype) for name, tensor in params.items()},
            map_samples(lambda leaf: leaf.to(dtype), conditioning(pipeline, case)),
            noise[case.first : case.first + case.batch].to(dtype),
            pipeline.schedule(pipeline.request("", steps=case.steps, height=HEIGHT, width=WIDTH)),
            pipeline.solver,
        )
        return outcome(run)

    return run


def conditioning(pipeline: Pipeline, case: Case) -> pure.Branches | object:
    """Encode the prompts of a case."""
    request = pipeline.request(
        PROMPTS[case.first : case.first + case.batch],
        None if case.scale is None else NEGATIVE,
        max_sequence_length=TEXT,
        height=HEIGHT,
        width=WIDTH,
    )
    return pipeline.encode(request)


def silenced(params: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parameters whose first block adds nothing to the image stream; see `peer.silence`."""
    layers = ("transformer_blocks.0.attn.to_out.0.", "transformer_blocks.0.ff.net.2.")
    return {name: torch.zeros_like(t) if name.startswith(layers) else t for name, t in params.items()}


def outcome(run: pure.Run) -> Outcome:
    """Sort what a run reports by row."""
    rows = list(zip(*(info.decisions for info in run.infos), strict=True))
    return Outcome(
        skipped=tuple(frozenset(d.index for d in row if not d.computed) for row in rows),
        changes=tuple({d.index: d.change for d in row if d.change is not None} for row in rows),
        latents=run.latents,
    )


@attrs.frozen
class Answers:
    """What cache-dit did, by the name of the request."""

    reports: dict
    latents: dict[str, torch.Tensor]

    def __getitem__(self, name: str) -> Outcome:
        report = self.reports[name]
        assert report["error"] is None, f"cache-dit failed on {name}: {report['error']}"
        return Outcome(
            skipped=tuple(frozenset(steps) for steps in report.get("skipped", ())),
            changes=tuple({int(step): change for step, change in of.items()} for of in report.get("changes", ())),
            latents=self.latents[name],
        )


@pytest.fixture(scope="session")
def peer(checkpoint: Path, noise: torch.Tensor) -> Answers:
    """Everything cache-dit answers; a process of its own keeps its patches out of this one."""
    requests = [case.request() for case in (*CASES, *DIFFERING, *PRUNED)]
    (checkpoint / "requests.json").write_text(json.dumps(requests))
    save_file({"noise": noise}, checkpoint / "noise.safetensors")
    done = subprocess.run(
        [sys.executable, "-m", "tests.parity.peer", str(checkpoint)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"cache-dit did not run (it is in the extra puredit[bench]):\n{done.stderr[-4000:]}"
    return Answers(json.loads((checkpoint / "answers.json").read_text()), load_file(checkpoint / "latents.safetensors"))

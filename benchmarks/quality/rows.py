"""Rows of the tables: a contestant with a setting, on pictures that nothing was tuned with.

What a batch gives goes to the disk at once, so that a run that was interrupted goes on where it stopped.
"""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.quality.measure import decoded, interval, psnr, ssim, worst_tenth
from benchmarks.quality.methods import Method, Setting
from benchmarks.quality.peers import Peers
from benchmarks.quality.samples import Batch
from benchmarks.quality.search import key_of
from pure.models import Pipeline
from pure.tree import take

MEASURES = ("psnr", "ssim", "converged", "computed")


@attrs.frozen(kw_only=True, eq=False)
class Row:
    """A contestant with a setting.

    Attributes:
        method: its name.
        setting: of it.
        values: of every picture, by name: PSNR to the one without a cache, SSIM, PSNR to the converged one, and the
            number of computed steps.
        prompts: of the pictures.
    """

    method: str
    setting: Setting
    values: Mapping[str, Sequence[float]]
    prompts: Sequence[str]

    def mean(self, name: str) -> float:
        """Return the mean of a value."""
        return float(np.mean(self.values[name]))

    def plain(self) -> dict[str, Any]:
        """Return the numbers of the tables."""
        means = {name: round(self.mean(name), 4) for name in self.values}
        low, high = interval(self.values["psnr"], self.prompts)
        spread = {"low": round(low, 4), "high": round(high, 4), "worst": round(worst_tenth(self.values["psnr"]), 4)}
        return {"method": self.method, "setting": dict(self.setting), **means, **spread}


@attrs.frozen(kw_only=True, eq=False)
class Bench:
    """The pictures to check on, and where results are kept."""

    pipeline: Pipeline
    batches: Sequence[Batch]
    folder: Path

    def row(self, method: Method, setting: Setting) -> Row:
        """Return a row; what is in the folder already is not run again."""
        parts = [self._part(method, setting, number, batch) for number, batch in enumerate(self.batches)]
        values = {name: [value for part in parts for value in part[name]] for name in MEASURES}
        prompts = [prompt for batch in self.batches for prompt in batch.prompts]
        return Row(method=method.name, setting=setting, values=values, prompts=prompts)

    def latents(self, method: Method, setting: Setting, number: int) -> torch.Tensor:
        """Return the latents of a batch of a row that is there."""
        return load_file(self._path(method, setting, number, "safetensors"))["latents"]

    def pictures(self, method: Method, setting: Setting, number: int) -> torch.Tensor:
        """Return the pictures (B, 3, H, W) of a batch of a row that is there."""
        return decoded(self.pipeline, self.batches[number].request, self.latents(method, setting, number))

    def _path(self, method: Method, setting: Setting, number: int, ending: str) -> Path:
        return self.folder / f"row-{key_of(method, setting)}-{number}.{ending}"

    def _part(self, method: Method, setting: Setting, number: int, batch: Batch) -> dict[str, list[float]]:
        path = self._path(method, setting, number, "json")
        if not path.exists():
            latents, computed = method.run(setting, batch)
            save_file({"latents": latents.contiguous()}, self._path(method, setting, number, "safetensors"))
            path.write_text(json.dumps(scores(self.pipeline, batch, latents, computed)))
        return json.loads(path.read_text())


def scores(pipeline: Pipeline, batch: Batch, latents: torch.Tensor, computed: Sequence[int]) -> dict[str, list[float]]:
    """Return `MEASURES` of every picture of a batch."""
    pictures = decoded(pipeline, batch.request, latents)
    found = psnr(pictures, batch.plain), ssim(pictures, batch.plain), psnr(pictures, batch.converged)
    return dict(zip(MEASURES, (*found, [float(count) for count in computed]), strict=True))


def judge(pipeline: Pipeline, method: Method, batch: Batch, setting: Setting) -> tuple[float, float, float]:
    """Return what a trial is judged by; see `search.Judge`."""
    found = scores(pipeline, batch, *method.run(setting, batch))
    return statistics.mean(found["psnr"]), statistics.mean(found["converged"]), statistics.mean(found["computed"])


def apart(theirs: Peers, method: Method, setting: Setting, one: Batch) -> float:
    """Return the largest difference between our equal of a peer and the peer's own library, of one picture."""
    assert method.enable is not None and method.equal
    mine, computed = method.run(setting, one)
    latents, steps = theirs.run(method.enable, setting, one)
    return float((mine - latents).abs().max()) if computed == [steps] else float("inf")


def first(batch: Batch) -> Batch:
    """Return the first picture of a batch alone."""
    rows = {name: getattr(batch, name)[:1] for name in ("prompts", "noise", "plain", "converged")}
    return attrs.evolve(batch, conditioning=take(batch.conditioning, torch.tensor([0])), **rows)


def timed(runs: Mapping[str, Any], rounds: int) -> dict[str, float]:
    """Return the median seconds of every run; in each round all take turns.

    They are seconds of the processor: of one thread on a core of its own these are what passes on a clock, and what
    else the machine does is not in them.
    """
    laps: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            laps[name].append(time.process_time() - start)
    return {name: statistics.median(found) for name, found in laps.items()}

"""The report of `--perf-dump-path`: times, decisions with reason and change, memory, settings."""

import json
import resource
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

import pure
from pure.cli.results import Made, Result
from pure.cli.writing import write_whole

__all__ = ["finite", "peak_memory", "report", "run_report", "write_report"]


def report(made: Sequence[Made], settings: Mapping[str, Any], seconds: float, when: datetime) -> dict[str, Any]:
    """Return the report; steps count from 0, and the lists at the top are the first image's."""
    images = [_image(entry) for entry in made]
    first = images[0] if images else {}
    return {
        "timestamp": when.isoformat(timespec="seconds"),
        "tag": "cli_generate",
        "version": pure.__version__,
        "total_duration_ms": seconds * 1e3,
        **{name: first.get(name) for name in ("denoise_steps_ms", "computed_steps", "skipped_steps", "branches")},
        "images": images,
        "peak_memory": peak_memory(),
        "settings": dict(settings),
        "meta": {"prompt": [entry.output.prompt for entry in made], "model": settings.get("model_path")},
    }


def _image(entry: Made) -> dict[str, Any]:
    found: dict[str, Any] = {
        "prompt": entry.output.prompt,
        "seed": entry.output.seed,
        "path": str(entry.output.path) if entry.output.path else None,
        **run_report(entry.result),
    }
    if entry.plain is not None and entry.comparison is not None:
        found["without_cache"] = run_report(entry.plain)
        psnr = entry.comparison.psnr
        found["comparison"] = {
            "time_ratio": entry.comparison.ratio,
            "psnr": psnr if psnr < float("inf") else None,
            "ssim": entry.comparison.ssim,
        }
    return found


def run_report(result: Result) -> dict[str, Any]:
    """Return times, counts and decisions of one run; the counts at the top are the conditional branch's."""
    branches = {
        name: {
            "computed_steps": list(counts.computed),
            "skipped_steps": list(counts.skipped),
            "blocks_run": counts.blocks_run,
            "blocks": counts.blocks,
        }
        for name, counts in result.branches.items()
    }
    conditional = branches.pop("conditional", {})
    return {
        "duration_ms": result.total_seconds * 1e3,
        "stages_ms": {
            "encode": result.encode_seconds * 1e3,
            "denoise": result.seconds * 1e3,
            "decode": result.decode_seconds * 1e3,
        },
        "denoise_steps_ms": [
            {"step": step, "duration_ms": seconds * 1e3} for step, seconds in enumerate(result.step_seconds)
        ],
        **conditional,
        "branches": branches,
        "decisions": _decisions(result),
    }


def _decisions(result: Result) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "branch": decision.branch,
            **({"expert": decision.expert} if decision.expert else {}),
            "computed": decision.computed,
            "reason": decision.reason,
            "change": decision.change,
            "blocks": decision.blocks,
        }
        for step, info in enumerate(result.infos)
        for decision in info.decisions
    ]


def peak_memory() -> dict[str, float]:
    """Return the most memory used so far in MB: of the process, and of the GPU if there is one."""
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"process_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}
    if torch.cuda.is_available():
        found["gpu_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def write_report(path: Path, content: Mapping[str, Any]) -> None:
    """Write the report, whole or not at all."""
    text = json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(path, text.encode())


def finite(value: Any) -> Any:
    """Replace what JSON cannot say: infinities and NaN by their names, other objects by their text."""
    if isinstance(value, Mapping):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)

"""The report of `--perf-dump-path`: times, decisions with reason and change, memory, settings."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pure
from pure.cli.made import Made
from pure.engine.report import finite, peak_memory, run_report
from pure.engine.writing import write_whole

__all__ = ["report", "write_report"]


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
        "meta": {"prompt": [entry.result.sample.prompt for entry in made], "model": settings.get("model_path")},
    }


def _image(entry: Made) -> dict[str, Any]:
    found: dict[str, Any] = {
        "prompt": entry.result.sample.prompt,
        "seed": entry.result.sample.seed,
        "path": str(entry.result.sample.path) if entry.result.sample.path else None,
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


def write_report(path: Path, content: Mapping[str, Any]) -> None:
    """Write the report, whole or not at all."""
    text = json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(path, text.encode())

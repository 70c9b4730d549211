"""The report of a run: times, decisions with reason and change, memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from typing import Any

import torch

from pure.engine.result import Result


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


def finite(value: Any) -> Any:
    """Replace what JSON cannot say: infinities and NaN by their names, other objects by their text."""
    if isinstance(value, Mapping):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)

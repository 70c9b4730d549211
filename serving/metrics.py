"""Counters of the server: `/stats` as JSON and `/metrics` for Prometheus."""

import threading
import time
from collections.abc import Sequence
from typing import Any

from pure.serving.jobs import JobEntry

__all__ = ["Metrics"]

HELP = {
    "puredit_requests_total": ("counter", "Requests that are over, by kind and outcome."),
    "puredit_outputs_total": ("counter", "Images and videos made."),
    "puredit_steps_total": ("counter", "Denoising steps of single samples, computed and skipped."),
    "puredit_seconds_total": ("counter", "Seconds that requests were worked on, by kind."),
    "puredit_batches_total": ("counter", "Steps of the engine by the number of samples taken together."),
    "puredit_queue_length": ("gauge", "Samples that wait."),
    "puredit_running": ("gauge", "Samples under way."),
    "puredit_group_queue_length": ("gauge", "Samples that wait, by group of processes, where there are several."),
    "puredit_group_running": ("gauge", "Samples under way, by group of processes, where there are several."),
    "puredit_uptime_seconds": ("gauge", "Seconds since the server began."),
}
Series = tuple[str, tuple[tuple[str, str], ...]]


class Metrics:
    """Counters; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Series, float] = {}
        self._began = time.time()

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Add to a counter of `HELP`."""
        with self._lock:
            key = name, tuple(sorted(labels.items()))
            self._counts[key] = self._counts.get(key, 0) + value

    def over(self, entry: JobEntry) -> None:
        """Count a job that is over."""
        kind = entry.job.form.kind
        self.add("puredit_requests_total", kind=kind, outcome=entry.status)
        self.add("puredit_seconds_total", entry.seconds, kind=kind)
        for artifact in entry.artifacts.values():
            self.add("puredit_outputs_total", kind=kind)
            for name in ("computed", "skipped"):
                self.add("puredit_steps_total", len(artifact.report.get(f"{name}_steps", ())), decision=name)

    def values(self, **gauges: float) -> dict[Series, float]:
        """Return every counter and these gauges, by name and labels."""
        with self._lock:
            found: dict[Series, float] = dict(self._counts)
        gauges = {**gauges, "uptime_seconds": time.time() - self._began}
        return found | {(f"puredit_{name}", ()): value for name, value in gauges.items()}

    def stats(self, **gauges: float) -> dict[str, Any]:
        """Return all of it as nested dicts: `{"requests": {"image completed": 2}, "queue_length": 0, ...}`."""
        found: dict[str, Any] = {}
        for (name, labels), value in sorted(self.values(**gauges).items()):
            short = name.removeprefix("puredit_").removesuffix("_total")
            if labels:
                found.setdefault(short, {})[" ".join(text for _, text in labels)] = value
            else:
                found[short] = value
        return found

    def text(self, groups: Sequence[tuple[int, int]] = (), **gauges: float) -> str:
        """Return all of it in Prometheus' text format; `groups`: what waits and runs in each group of processes."""
        values, lines = self.values(**gauges), []
        for number, counts in enumerate(groups):
            for name, count in zip(("queue_length", "running"), counts, strict=True):
                values[f"puredit_group_{name}", (("group", str(number)),)] = count
        for name, (kind, help) in HELP.items():
            lines += [f"# HELP {name} {help}", f"# TYPE {name} {kind}"]
            for (found, labels), value in sorted(values.items()):
                if found == name:
                    inside = ",".join(f'{label}="{text}"' for label, text in labels)
                    lines.append(f"{name}{{{inside}}} {value:g}" if inside else f"{name} {value:g}")
        return "\n".join(lines) + "\n"

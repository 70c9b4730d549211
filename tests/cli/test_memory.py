"""The command keeps what it frees: tensors that come and go cost no new pages."""

import os
import subprocess
import sys

import pytest

from pure.cli.memory import keep_memory

FAULTS = """
import os, resource, sys, torch
from pure.cli.memory import keep_memory
kept = keep_memory(os.environ) if sys.argv[1] == "keep" else False
def fill():
    for _ in range(5):
        [torch.ones(1 << 22) for _ in range(4)]  # 64 MiB, 16,384 pages
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str, **variables: str) -> tuple[bool, int]:
    """Whether freed memory was to be kept, and the pages fetched for tensors of 81,920 in all."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, mode], env={**clean, **variables}, capture_output=True, text=True, check=True
    )
    kept, count = done.stdout.split()
    return kept == "True", int(count)


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_memory({})


def test_tensors_that_come_and_go_cost_no_pages() -> None:
    kept, count = faults("keep")
    assert kept and count < 100
    kept, count = faults("keep", MALLOC_MMAP_THRESHOLD_="131072")
    assert not kept and count > 100, "what the environment says, holds: large pieces come and go"

"""Settings of every test: offline, reproducible on any number of cores."""

import os
import tempfile
from typing import Any

# Before transformers and diffusers are imported: what a test needs, it makes or ships.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# For the processes that tests start; several ranks on few cores must not fight for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What inductor stores is generated for the vectors of one instruction set, which is no part of its key.
os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR",
    f"{tempfile.gettempdir()}/puredit_inductor_{os.getuid()}_{os.environ.get('ATEN_CPU_CAPABILITY', 'native')}",
)

import hypothesis
import pytest
import torch

# One thread: sums are split by thread, so bits would depend on the machine's cores, and
# tensors this small gain nothing from a second one.
torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "puredit",
    deadline=None,  # the first example pays for imports and compilation
    max_examples=25,
    derandomize=True,  # the same examples on every run
    database=None,
)
# `python -m tests.explore` chooses this one, with a seed.
hypothesis.settings.register_profile("explore", deadline=None, max_examples=10, derandomize=False, database=None)
hypothesis.settings.load_profile("puredit")


@pytest.fixture(autouse=True, scope="module")
def nothing_is_compiled() -> None:
    """Begin every file with nothing compiled: after other shapes dynamo compiles for any shape, ten times as long."""
    torch.compiler.reset()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have slow tests: what runs last is short, and no process waits long for another."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one process run all tests of a file, and all that compare with cache-dit: what they share is made once."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "tests/parity" if file.startswith("tests/parity/") else file

    return ByFile(config, log)

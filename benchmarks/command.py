"""What every benchmark does around its measurements: options, turns, and the table in a document."""

import argparse
import json
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.table import replace_between

FOLDER = Path(__file__).resolve().parent


def parser(module: str, document: str) -> argparse.ArgumentParser:
    """Return a parser with the description of the benchmark `module`, and `--write` for a document of docs/."""
    found = argparse.ArgumentParser(
        description=sys.modules[module].__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--write", action="store_true", help=f"put the table into docs/{document}")
    warnings.simplefilter("ignore", UserWarning)
    return found


def need_cuda(found: argparse.ArgumentParser) -> dict[str, str]:
    """Leave with a message where there is no GPU; else return the names of the device and of torch's version."""
    if not torch.cuda.is_available():
        found.error("this benchmark needs a CUDA device, and torch finds none; see benchmarks.overhead for the CPU")
    return {"device": torch.cuda.get_device_name(), "torch": torch.__version__}


def publish(write: bool, document: str, marker: str, text: str, numbers: Any = None) -> None:
    """Print a table; with `write` put it between the markers of a document, and its numbers beside this file."""
    print(text)
    if not write:
        return
    if numbers is not None:
        (FOLDER / f"{marker.replace('-', '_')}.json").write_text(json.dumps(numbers, indent=2) + "\n")
    replace_between(FOLDER.parent / "docs" / document, marker, text)


def seconds(run: Callable[[], Any]) -> float:
    """Return the seconds of one call, the device's work included."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def medians(runs: Mapping[str, Callable[[], Any]], rounds: int, seed: int = 0) -> dict[str, float]:
    """Call everything once a round, in a new random order each; return the median seconds by name."""
    shuffle = random.Random(seed)
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name in shuffle.sample(list(runs), len(runs)):
            found[name].append(seconds(runs[name]))
    return {name: statistics.median(values) for name, values in found.items()}

"""The command line of the scripts."""

import argparse
from pathlib import Path
from typing import Any

PATHS = {
    "emoji": "unpacked package",
    "work": "checkpoint folder",
    "pipeline": "folder of the exported pipeline",
    "out": "what is written",
    "metrics": "JSON that is written",
    "sheet": "picture that is written",
}


def read(about: str | None, *paths: str, **options: Any) -> argparse.Namespace:
    """Read paths, which are needed, and options with their defaults."""
    parser = argparse.ArgumentParser(description=about)
    for name in paths:
        parser.add_argument(f"--{name}", type=Path, required=True, help=PATHS[name])
    for name, default in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser.parse_args()

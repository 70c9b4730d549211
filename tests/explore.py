"""Try the laws, and all else that is drawn, on other examples than `make test` does.

    python -m tests.explore                       # a new seed, which is printed
    python -m tests.explore --seed 123 [ARGUMENTS]  # that one again; arguments are pytest's

Tests are the same on every run; this is where new examples are found. What fails belongs into the
list of what is tried every time (pure/testing/recipes.py).
"""

import argparse
import secrets
import shlex
import sys

import pytest


def main(arguments: list[str] | None = None) -> int:
    """Run pytest with a seed, say which, and how to repeat it."""
    parser = argparse.ArgumentParser(prog="python -m tests.explore", description="Try the laws on random examples.")
    parser.add_argument("--seed", type=int, help="of an earlier run; else a new one")
    options, given = parser.parse_known_args(arguments)
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    again = shlex.join(["python", "-m", "tests.explore", "--seed", str(seed), *given])
    print(f"seed {seed}", flush=True)
    code = pytest.main(["--hypothesis-profile=explore", f"--hypothesis-seed={seed}", *(given or ["tests/laws"])])
    print(f"to repeat it: {again}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())

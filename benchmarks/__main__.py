"""Run every benchmark and put its table into the documentation: `python -m benchmarks`."""

import sys

from benchmarks import overhead

if __name__ == "__main__":
    sys.argv = [sys.argv[0], "--write"]
    overhead.main()

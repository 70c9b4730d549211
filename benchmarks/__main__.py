"""Run the benchmarks of this processor and put their tables into the documentation: `python -m benchmarks`."""

import sys

from benchmarks import compile, overhead

if __name__ == "__main__":
    sys.argv = [sys.argv[0], "--write"]
    overhead.main()
    compile.main()

"""What the run of one image or video leaves for the table, the plot and the report."""

import attrs

from pure.cli.comparing import Comparison
from pure.cli.naming import Output
from pure.engine.result import Result

__all__ = ["Made"]


@attrs.frozen(kw_only=True, eq=False)
class Made:
    """One finished output: the result, and with `--compare` the one without a cache."""

    output: Output
    result: Result
    plain: Result | None = None
    comparison: Comparison | None = None

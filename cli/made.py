"""What `puredit generate` has finished."""

import attrs

from pure.engine.comparing import Comparison
from pure.engine.result import Result

__all__ = ["Made"]


@attrs.frozen(kw_only=True, eq=False)
class Made:
    """One finished sample: the result, and with `--compare` the one without a cache."""

    result: Result
    plain: Result | None = None
    comparison: Comparison | None = None

"""Known flags that are not supported: each is refused with the reason, all of them at once."""

from collections.abc import Mapping
from typing import Any

from pure.engine.errors import Misuse
from pure.engine.unavailable import FLAGS, Later

__all__ = ["refuse"]


def refuse(values: Mapping[str, Any], flags: Mapping[str, Later] = FLAGS) -> None:
    """Check the flags that are not supported.

    Raises:
        Misuse: lists every flag that asks for something that would not happen.
    """
    asked = {name: later for name, later in flags.items() if later.asked(values.get(name))}
    if asked:
        raise Misuse("\n".join(f"{_typed(name, values[name])} {later}" for name, later in asked.items()))


def _typed(name: str, value: Any) -> str:
    flag = "--" + name.replace("_", "-")
    if value is True:
        return flag
    listed = " ".join(map(str, value)) if isinstance(value, tuple) else value
    return f"{flag} {listed}"

"""Known flags that are not supported: each is refused with the reason, all of them at once."""

from collections.abc import Mapping
from typing import Any

from pure.engine.errors import Misuse
from pure.engine.unsupported import FLAGS

__all__ = ["refuse"]


def refuse(values: Mapping[str, Any]) -> None:
    """Check the flags that are not supported.

    Raises:
        Misuse: lists every flag whose value would have no effect.
    """
    wrong = {name: found for name, found in FLAGS.items() if found.refuses(values.get(name))}
    if wrong:
        raise Misuse("\n".join(f"{_typed(name, values[name])} {found}" for name, found in wrong.items()))


def _typed(name: str, value: Any) -> str:
    flag = "--" + name.replace("_", "-")
    if value is True:
        return flag
    listed = " ".join(map(str, value)) if isinstance(value, tuple) else value
    return f"{flag} {listed}"

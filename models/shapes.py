"""What the parameter tables of the families have in common.

A table says, from a config, the name and shape of every parameter, so that a checkpoint is
checked before it is read.
"""

from collections.abc import Mapping
from typing import Any

from pure.models.errors import CheckpointError

Shapes = dict[str, tuple[int, ...]]


def settings(config: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a transformer of class `name`, with `defaults` for what the config leaves out.

    Raises:
        CheckpointError: it is another class, or sets an option that is not implemented.

    >>> settings({"_class_name": "T", "layers": 3}, "T", {"layers": 2, "heads": 4})
    {'layers': 3, 'heads': 4}
    """
    if (found := config.get("_class_name", name)) != name:
        raise CheckpointError(f"the transformer is a {found}; supported is {name}")
    # An option of a later version that is switched off changes nothing.
    unknown = sorted(key for key in config.keys() - defaults.keys() if key[0] != "_" and config[key])
    if unknown:
        raise CheckpointError(
            f"the transformer's config sets {', '.join(unknown)}, which is not implemented; "
            f"known are {', '.join(defaults)}"
        )
    return {**defaults, **{key: value for key, value in config.items() if key in defaults}}


def affine(name: str, inputs: int, outputs: int, bias: bool = True) -> Shapes:
    """Return the shapes of an affine map.

    >>> affine("to_q", 4, 8, bias=False)
    {'to_q.weight': (8, 4)}
    """
    weight: Shapes = {f"{name}.weight": (outputs, inputs)}
    return weight | {f"{name}.bias": (outputs,)} if bias else weight


def prefixed(prefix: str, shapes: Shapes) -> Shapes:
    """Return the same shapes under names that begin with `prefix`.

    >>> prefixed("blocks.0.", {"scale": (2,)})
    {'blocks.0.scale': (2,)}
    """
    return {prefix + name: shape for name, shape in shapes.items()}

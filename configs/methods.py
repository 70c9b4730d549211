"""Methods that a file names by `cache_type`, and their transforms: `cache_options` are the transform's arguments."""

from collections.abc import Mapping
from typing import Any

import attrs

from pure import Transform, compose
from pure.configs.schema import CacheConfig
from pure.transforms import budget, dbcache, easycache, fora, magcache, seacache, speca, teacache

__all__ = ["MASKS", "METHODS", "faults", "method", "options_of"]

METHODS = {
    "FORA": fora,
    "MagCache": magcache,
    "TeaCache": teacache,
    "EasyCache": easycache,
    "SeaCache": seacache,
    "Budget": budget,
    "SpeCa": speca,
}
"""Transforms by the value of `cache_type`."""

MASKS = ("FORA", "MagCache")
"""Those that are masks themselves, and measure nothing: they take the front and back blocks of DBCache."""


def options_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as arguments: lists as tuples."""
    return {str(name): tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def faults(config: CacheConfig) -> dict[str, str]:
    """Return what is wrong with each of `cache_options` by itself, by name: there is no such one, or its value.

    >>> list(faults(CacheConfig(cache_type="Budget", cache_options={"early": "0.1", "front": 0, "late": 1.0})))
    ['early', 'front']
    """
    kind, found = METHODS[config.cache_type], dict[str, str]()
    fields = {field.alias: field for field in attrs.fields(kind)}
    for name, value in options_of(config.cache_options).items():
        try:
            if name not in fields:
                kind(**{name: value})
            elif (check := fields[name].validator) is not None:
                convert = fields[name].converter
                check(object.__new__(kind), fields[name], convert(value) if callable(convert) else value)
        except AttributeError:
            continue  # it reads other options, too: what is wrong then is seen where all are given
        except (TypeError, ValueError) as error:
            found[name] = str(error)
    return found


def method(config: CacheConfig) -> Transform:
    """Return the transform that `cache_type` and `cache_options` name.

    Raises:
        ValueError: a value is out of range.
        TypeError: there is no such option.

    >>> method(CacheConfig(cache_type="FORA", cache_options={"interval": 2}, Fn_compute_blocks=0))
    fora(interval=2)
    """
    made = METHODS[config.cache_type](**options_of(config.cache_options))
    front, back = config.Fn_compute_blocks, config.Bn_compute_blocks
    if config.cache_type not in MASKS or front == back == 0:
        return made
    # A threshold of 1: the mask decides and nothing is measured.
    return compose(dbcache(front=front, back=back, threshold=1.0, warmup=0, max_continuous=None), made)

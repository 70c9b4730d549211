"""Which cache a run uses: flags, file and environment to one transform, through `pure.configs`."""

from collections.abc import Mapping
from typing import Any

from pure.configs import ConfigError, Effective, Facts, configure
from pure.engine.caching import Caching
from pure.engine.errors import Misuse

__all__ = ["choose", "settle"]

FLAGS = {
    "enabled": "enable_cache_dit",
    "attention_backend": "attention_backend",
    "parallelism_config.ulysses_size": "ulysses_degree",
    "parallelism_config.ring_size": "ring_degree",
    "parallelism_config.tp_size": "tp_size",
}


def choose(values: Mapping[str, Any], environ: Mapping[str, str], facts: Facts) -> Caching:
    """Return the cache that flags, file and environment ask for.

    Raises:
        Misuse: a setting is wrong, contradicts another, or is not available; lists all of them.
    """
    try:
        return Caching.of(settle(values, environ, facts))
    except ConfigError as error:
        raise Misuse(str(error)) from error


def settle(values: Mapping[str, Any], environ: Mapping[str, str], facts: Facts) -> Effective:
    """Merge all sources.

    Raises:
        ConfigError: a setting is wrong or contradicts another; lists what is wrong in all sources.
    """
    spelling = {path: "--" + name.replace("_", "-") for path, name in FLAGS.items()}
    params = values["cache_dit_params"]
    return configure(
        params=params,
        # With parameters of its own a request is on; the flag says otherwise as part of the request.
        enable=None if params is None else values["enable_cache_dit"],
        flags={path: values.get(name) for path, name in FLAGS.items()},
        spelling={**spelling, "cache_dit_params": "--cache-dit-params"},
        file=values["cache_dit_config"],
        lenient=values["lenient_config"],
        environ=environ,
        facts=facts,
    )

"""All sources at once: read each, report the mistakes of all of them together, and merge."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pure.configs.effective import Effective
from pure.configs.environment import read_environment
from pure.configs.layer import Layer
from pure.configs.load import load_config
from pure.configs.precedence import read_flags, read_model_defaults, resolve
from pure.configs.report import ConfigError, Problem
from pure.configs.request import read_request
from pure.configs.support import Facts

__all__ = ["configure"]


def configure(
    *,
    params: Mapping[str, Any] | str | None = None,
    enable: bool | None = None,
    flags: Mapping[str, Any] | None = None,
    spelling: Mapping[str, str] | None = None,
    file: str | Path | None = None,
    lenient: bool = False,
    environ: Mapping[str, str] | None = None,
    model: Mapping[str, Any] | None = None,
    facts: Facts = Facts(),  # noqa: B008 - frozen
) -> Effective:
    """Read and merge all sources, each of which is optional.

    Args:
        params: `cache_dit_params` of the request; see `read_request`.
        enable: `enable_cache_dit` of the request.
        flags: values by path, and with `spelling` the flags they come from; see `read_flags`.
        spelling: see `flags`.
        file: path or packaged name; see `load_config`.
        lenient: turn unknown keys of the file into notes.
        environ: such as `os.environ`; see `read_environment`.
        model: the model's defaults by path; see `read_model_defaults`.
        facts: what is known of the run.

    Raises:
        ConfigError: lists what is wrong in all sources.

    >>> configure(params={"Fn_compute_blocks": 2}, file="cache.yaml").cache.Fn_compute_blocks
    2
    """
    place = (spelling or {}).get("cache_dit_params", "cache_dit_params")
    sources = {
        "request": (read_request, (params, enable, place)),
        "flags": (read_flags, ({} if flags is None else flags, spelling)),
        "environment": (read_environment, ({} if environ is None else environ,)),
        "model": (read_model_defaults, ({} if model is None else model, "the model")),
    }
    if file is not None:
        sources["file"] = (load_config, (file, lenient))
    layers: dict[str, Layer] = {}
    problems: list[Problem] = []
    for name, (read, arguments) in sources.items():
        try:
            layers[name] = read(*arguments)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return resolve(facts=facts, **layers)

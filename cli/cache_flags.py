"""The flags that set the cache and the number of processes, as sources of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pure.configs import ConfigError, Effective, Facts, load_config, read_request
from pure.engine.caching import Sources, check_teacache
from pure.engine.errors import Misuse
from pure.engine.plans import find_plan

if TYPE_CHECKING:
    from pure.engine.checkpoint import Checkpoint

__all__ = ["default_sources", "planned", "settle"]

BRANCHES = "parallelism_config.cfg_size"
FLAGS = {
    "enabled": "enable_cache_dit",
    "attention_backend": "attention_backend",
    "parallelism_config.ulysses_size": "ulysses_degree",
    "parallelism_config.ring_size": "ring_degree",
    "parallelism_config.tp_size": "tp_size",
    BRANCHES: "cfg_parallel_size",
    "parallelism_config.extra_parallel_modules": "extra_parallel_modules",
}
PARAMS = "--cache-dit-params"


def planned(values: Mapping[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the flags with the file of `--plan` as that of `--cache-dit-config`.

    Raises:
        Misuse: there is no such plan, it is none, or both are given.
    """
    if values["plan"] is None:
        return dict(values)
    if values.get("enable_teacache"):
        raise Misuse("--enable-teacache and --plan both say which steps to compute; give only one of the two")
    if values["cache_dit_config"] is not None:
        raise Misuse("--plan and --cache-dit-config both say which steps to compute; give only one of the two")
    file = find_plan(values["plan"], checkpoint.found)
    try:
        chooses = "enabled" in load_config(file, values["lenient_config"]).settings
    except ConfigError:  # reported with all other mistakes, when the sources are merged
        chooses = True
    if not chooses:
        cure = "give a file of puredit tune, or this one as --cache-dit-config"
        raise Misuse(f"--plan {values['plan']}: it has no cache_config, which says which steps to compute; {cure}")
    return {**values, "cache_dit_config": str(file)}


def settle(values: Mapping[str, Any], environ: Mapping[str, str], facts: Facts) -> Effective:
    """Merge all sources of a run: its parameters are those of a request.

    Raises:
        ConfigError: a setting is wrong or contradicts another; lists what is wrong in all sources.
        Misuse: --enable-teacache contradicts another source.
    """
    params = values["cache_dit_params"]
    # With parameters of its own a request is on; the flag, where it is given, is part of the request.
    enable = None if params is None else values["enable_cache_dit"]
    effective = _sources(values, {"cache_dit_params": PARAMS}).settle(environ, facts, params, enable)
    check_teacache(effective, values.get("enable_teacache"), "--enable-teacache false")
    return effective


def default_sources(values: Mapping[str, Any]) -> Sources:
    """Return what the flags of a server set for all requests.

    Raises:
        ConfigError: `--cache-dit-params` is wrong.
    """
    params = read_request(values["cache_dit_params"], place=f"flag {PARAMS}").settings
    found = _sources(values, dict.fromkeys(params, PARAMS))
    given = {path: value for path, value in found.flags.items() if value is not None}
    flags = {path: setting.value for path, setting in params.items()} | given
    return Sources(flags=flags, spelling=found.spelling, file=found.file, lenient=found.lenient)


def _sources(values: Mapping[str, Any], spelling: Mapping[str, str]) -> Sources:
    branches, tea = _branches(values), _teacache(values)
    typed = {path: "--" + name.replace("_", "-") for path, name in FLAGS.items()}
    return Sources(
        flags={path: None if (value := values.get(name)) == () else value for path, name in FLAGS.items()}
        | branches
        | tea,
        spelling={
            **typed,
            **dict.fromkeys(branches, "--enable-cfg-parallel"),
            **dict.fromkeys(tea, "--enable-teacache"),
            **spelling,
        },
        file=values["cache_dit_config"],
        lenient=values["lenient_config"],
    )


def _teacache(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `--enable-teacache` sets.

    Raises:
        Misuse: another flag says that all steps are computed.
    """
    if not values.get("enable_teacache"):
        return {}
    if values.get("enable_cache_dit") is False:
        raise Misuse("--enable-teacache contradicts --enable-cache-dit false; give only one of the two")
    try:
        chosen = read_request(values["cache_dit_params"]).settings.get("cache_config.cache_type")
    except ConfigError:  # reported with all other mistakes, when the sources are merged
        chosen = None
    if chosen is not None and chosen.value != "TeaCache":
        raise Misuse(f"--enable-teacache contradicts cache_type: {chosen.value} in {PARAMS}; give only one of the two")
    return {"enabled": True, "cache_config.cache_type": "TeaCache"}


def _branches(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the processes that share the branches of guidance, where `--enable-cfg-parallel` sets them.

    Raises:
        Misuse: it contradicts `--cfg-parallel-size`.
    """
    enable, size = values.get("enable_cfg_parallel"), values.get("cfg_parallel_size")
    if enable is None:
        return {}
    if size not in (None, 2 if enable else 1):
        word = "true" if enable else "false"
        raise Misuse(f"--enable-cfg-parallel {word} contradicts --cfg-parallel-size {size}; give only one of the two")
    return {BRANCHES: 2} if enable else {}

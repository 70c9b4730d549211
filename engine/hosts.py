"""Several hosts for one command: what flags say of them, and what must be the same on all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import attrs
import torch

import pure
from pure.distributed.hosts import JOIN, Hosts
from pure.engine.checkpoint import Checkpoint, device
from pure.engine.errors import Misuse

__all__ = ["agreeing", "hosts_of"]

OWN = ("node_rank", "dist_init_addr", "log_level", "debug", "save_output", "no_save_output", "config")
OWN_ENDINGS = ("_path", "_dir")
"""Flags that may differ between hosts: where files are, and what is printed."""


def hosts_of(values: Mapping[str, Any], environ: Mapping[str, str]) -> Hosts | None:
    """Return the hosts that flags name; None where there is one.

    Raises:
        Misuse: the flags contradict each other, or a launcher.
    """
    count, index, place = values.get("nnodes") or 1, values.get("node_rank") or 0, values.get("dist_init_addr")
    if index >= count:
        numbers = "0" if count == 1 else f"0 to {count - 1}"
        raise Misuse(f"--node-rank {index}: with --nnodes {count} hosts have the numbers {numbers}")
    if count == 1:
        return None
    if "RANK" in environ and "WORLD_SIZE" in environ:
        raise Misuse(
            f"--nnodes {count}: the launcher says how many hosts there are; leave --nnodes and --node-rank out"
        )
    if place is None:
        raise Misuse(f"--nnodes {count} needs --dist-init-addr HOST:PORT: the address of host 0, the same on all hosts")
    patience = values.get("dist_timeout") or JOIN
    return Hosts(count=count, index=index, address=_address(place), patience=patience)


def _address(place: str) -> tuple[str, int]:
    name, _, port = place.rpartition(":")
    bare = name.removeprefix("[").removesuffix("]")
    if not bare or (":" in bare) != (name != bare) or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise Misuse(f"--dist-init-addr {place!r}: write HOST:PORT, such as 10.0.0.1:20000 or [fd00::1]:20000")
    return bare, int(port)


def agreeing(hosts: Hosts | None, values: Mapping[str, Any], checkpoint: Checkpoint, **more: Any) -> Hosts | None:
    """Return the hosts with what must be the same on all.

    Args:
        hosts: of `hosts_of`.
        values: of the flags.
        checkpoint: what is loaded; its configs are compared, not where it is.
        more: what else is compared, by what it is called.
    """
    if hosts is None:
        return None
    found = {
        "--" + name.replace("_", "-"): _text(value)
        for name, value in values.items()
        if value not in (None, (), False) and name not in OWN and not name.endswith(OWN_ENDINGS)
    }
    described = checkpoint.found
    found |= {
        "puredit": pure.__version__,
        "torch": torch.__version__,
        "device": device(),
        "the configs of the checkpoint": _text({"index": described.index, "configs": described.configs}),
        **{name: _text(value) for name, value in more.items()},
    }
    return attrs.evolve(hosts, agreed=found)


def _text(value: Any) -> str:
    """Return a value as text; of a long one the beginning and what tells it from others."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= 60 else f"{text[:40]}... ({hashlib.sha256(text.encode()).hexdigest()[:8]})"

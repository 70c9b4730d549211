"""Flags of the wider world that this version does not carry out: said so before any work is done.

A value that asks for nothing (`--num-gpus 1`, `--dit-cpu-offload false`) is fine, because
that is what happens.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from pure.engine.errors import Misuse

__all__ = ["refuse"]


@attrs.frozen
class Later:
    """Why a flag is refused, what to do instead, and the value that asks for nothing."""

    reason: str
    cure: str
    nothing: Any = False


BRANCHES = "the branches of guidance run as one batch"
RESIDENT = "the whole model stays on its device in this version"

LATER: Mapping[str, Later] = {
    "cfg_parallel_size": Later(BRANCHES, "leave it out; --num-gpus and --ulysses-degree share a batch", 1),
    "dp_size": Later("one run makes its images one after the other", "leave it out, or start one run per device", 1),
    "enable_cfg_parallel": Later(BRANCHES, "leave it out; --num-gpus and --ulysses-degree share a batch"),
    "dit_cpu_offload": Later(RESIDENT, "leave it out"),
    "text_encoder_cpu_offload": Later(RESIDENT, "leave it out"),
    "image_encoder_cpu_offload": Later(RESIDENT, "leave it out"),
    "vae_cpu_offload": Later(RESIDENT, "leave it out"),
    "dit_layerwise_offload": Later(RESIDENT, "leave it out"),
    "pin_cpu_memory": Later("nothing is offloaded, so no memory is pinned", "leave it out"),
    "vae_tiling": Later("the decoder takes the image in one piece", "leave it out, or ask for a smaller image"),
    "vae_slicing": Later("images are decoded one by one already", "leave it out"),
    "enable_teacache": Later("TeaCache is not in this version", "use --enable-cache-dit or --cache-dit-config"),
    "trust_remote_code": Later(
        "code from a checkpoint is never run", "leave it out; the supported checkpoints need none"
    ),
    "revision": Later("the main revision of a hub id is used", "download the revision and pass its folder", "main"),
    "profile": Later("there is no profiler in this version", "use --perf-dump-path for the time of every step"),
    "return_frames": Later("a shell cannot take arrays", "use the library: load_pipeline(...).generate(...)"),
    "lora_path": Later("LoRA is not in this version", "merge the weights into the checkpoint", None),
    "lora_scale": Later("LoRA is not in this version", "leave it out", None),
    "diffusers_kwargs": Later("no diffusers pipeline is called", "use the flags, see puredit generate --help", {}),
    "warmup_mode": Later("a server warms up, and this is a single run", "use --warmup-mode request", None),
}


def refuse(values: Mapping[str, Any]) -> None:
    """Check the flags that belong to later capabilities.

    Raises:
        Misuse: one asks for something that would not happen.
    """
    for name, later in LATER.items():
        value = values.get(name)
        if name == "warmup_mode" and value != "server":
            continue
        if value is not None and value != later.nothing:
            raise Misuse(f"{_typed(name, value)} is not available: {later.reason}; {later.cure}")


def _typed(name: str, value: Any) -> str:
    flag = "--" + name.replace("_", "-")
    if value is True:
        return flag
    listed = " ".join(map(str, value)) if isinstance(value, tuple) else value
    return f"{flag} {listed}"

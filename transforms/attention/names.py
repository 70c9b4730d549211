"""The names of attention backends: those of diffusers, and what cache-dit and SGLang call them."""

import importlib.util
from typing import Any

import attrs

from pure.checks import nearest

__all__ = ["ALIASES", "BACKENDS", "NAMES", "OF_DIFFUSERS", "Backend", "canonical", "unsupported"]


@attrs.frozen(kw_only=True)
class Backend:
    """Where a backend comes from.

    Attributes:
        module: what is imported for it; empty for torch's own.
        how: how to get it.
        masks: which masks it takes: "all", "keys" (the same keys for all queries and heads of a sample), or "none".
        parts: whether it gives the log-sum-exp that a ring needs.
    """

    module: str = ""
    how: str = ""
    masks: str = "none"
    parts: bool = False


_FLASH: dict[str, Any] = {"module": "flash_attn", "how": "pip install 'flash-attn>=2.6.3' (NVIDIA GPUs from Ampere on)"}
_FLASH_3: dict[str, Any] = {
    "module": "flash_attn_interface",
    "how": "build FlashAttention 3 from source: the folder hopper of github.com/Dao-AILab/flash-attention",
}
_SAGE: dict[str, Any] = {"module": "sageattention", "how": "pip install 'sageattention>=2.1.1' (NVIDIA GPUs)"}
_HUB: dict[str, Any] = {
    "module": "kernels",
    "how": "pip install 'kernels>=0.12.3'; the kernel is then downloaded from the hub",
}
_XFORMERS: dict[str, Any] = {"module": "xformers", "how": "pip install 'xformers>=0.0.29' (NVIDIA GPUs)"}
_GPU = "it needs a GPU whose build of torch has this kernel"

BACKENDS: dict[str, Backend] = {
    "native": Backend(masks="all", parts=True),
    "_native_math": Backend(masks="all", parts=True),
    "_native_flash": Backend(how=_GPU, masks="all", parts=True),
    "_native_efficient": Backend(how=_GPU, masks="all", parts=True),
    "_native_cudnn": Backend(how=_GPU, masks="all"),
    "flex": Backend(masks="all", parts=True),
    "flash": Backend(**_FLASH, parts=True),
    "flash_varlen": Backend(**_FLASH, masks="keys"),
    "flash_hub": Backend(**_HUB, parts=True),
    "flash_varlen_hub": Backend(**_HUB, masks="keys"),
    "flash_4_hub": Backend(**_HUB),
    "_flash_3": Backend(**_FLASH_3, parts=True),
    "_flash_varlen_3": Backend(**_FLASH_3, masks="keys"),
    "_flash_3_hub": Backend(**_HUB, parts=True),
    "_flash_3_varlen_hub": Backend(**_HUB, masks="keys"),
    "aiter_fa2_hub": Backend(**{**_HUB, "how": _HUB["how"] + " (AMD GPUs)"}),
    "sage": Backend(**_SAGE, parts=True),
    "sage_hub": Backend(**_HUB, parts=True),
    "sage_blackwell_hub": Backend(**_HUB),
    "sage_varlen": Backend(**_SAGE, masks="keys"),
    "_sage_qk_int8_pv_fp8_cuda": Backend(**_SAGE),
    "_sage_qk_int8_pv_fp8_cuda_sm90": Backend(**_SAGE),
    "_sage_qk_int8_pv_fp16_cuda": Backend(**_SAGE),
    "_sage_qk_int8_pv_fp16_triton": Backend(**_SAGE),
    "xformers": Backend(**_XFORMERS, masks="all"),
}
"""Every backend that can be called, by diffusers' name."""

# What others call them; of several the first whose package is there.
ALIASES: dict[str, tuple[str, ...]] = {
    "torch_sdpa": ("native",),
    "_sdpa_cudnn": ("_native_cudnn",),
    "torch_cudnn_sdpa": ("_native_cudnn",),
    "dynamic_cudnn_sdpa": ("_native_cudnn",),
    "fa": ("_flash_3", "flash"),
    "fa2": ("flash",),
    "fa3": ("_flash_3",),
    "fa4": ("flash_4_hub",),
    "aiter": ("aiter_fa2_hub",),
    "sage_attn": ("sage",),
    "sage3": ("sage_blackwell_hub",),
    "sage_attn_3": ("sage_blackwell_hub",),
}

_SPARSE = "it leaves keys out by a pattern of its own, which this version does not do"
_OTHER = "it belongs to a device that this version does not run on"
UNSUPPORTED: dict[str, str] = {
    **dict.fromkeys(("_native_npu", "_native_xla"), _OTHER),
    **dict.fromkeys(("sliding_tile_attn", "sparge_attn", "video_sparse_attn", "sparse_video_gen_2_attn"), _SPARSE),
    "vmoba_attn": _SPARSE,
    "aiter_sage": "it is AMD's own kernel, which diffusers does not call",
}

OF_DIFFUSERS: tuple[str, ...] = (*BACKENDS, "_native_npu", "_native_xla")
"""Every name that diffusers itself knows."""

NAMES: tuple[str, ...] = (*BACKENDS, *ALIASES, *UNSUPPORTED)
"""Every name that is known, whether it can be called or not."""


def unsupported(name: str) -> str | None:
    """Return why a known name can never be called, None where it can."""
    return UNSUPPORTED.get(name)


def canonical(name: str) -> str:
    """Return diffusers' name of a backend that can be called.

    Raises:
        ValueError: nothing has this name, or it cannot be called in this version.

    >>> canonical("torch_sdpa"), canonical("flex")
    ('native', 'flex')
    """
    if (why := unsupported(name)) is not None:
        raise ValueError(f"the attention {name!r} is not supported: {why}; choose one of {', '.join(BACKENDS)}")
    if name in BACKENDS:
        return name
    if name not in ALIASES:
        near = nearest(str(name), NAMES)
        meant = f"did you mean {near!r}? " if near else ""
        raise ValueError(f"no attention is called {name!r}; {meant}choose one of {', '.join(BACKENDS)}")
    candidates = ALIASES[name]
    return next((each for each in candidates if installed(each)), candidates[-1])


def installed(name: str) -> bool:
    """Whether the package of a backend, by diffusers' name, is there."""
    module = BACKENDS[name].module
    return not module or importlib.util.find_spec(module) is not None

"""Stand-ins for the packages of attention kernels, which need a GPU: their functions, computed by torch.

    environment = install(folder)  # for a process that is started anew

Each function writes its name, and whether it was given a mask, into the file `calls` of the folder.
"""

import os
from pathlib import Path

COMMON = """
import torch
import torch.nn.functional as F


def attend(name, q, k, v, scale, bias=None, causal=False, dropout_p=0.0, lse=False):
    assert not causal and not dropout_p and scale is not None and k.shape[1]
    with open(r"{calls}", "a") as file:
        file.write(name + (" mask" if bias is not None else "") + "\\n")
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scores = q.float() @ k.float().transpose(2, 3) * scale
    scores = scores if bias is None else scores + bias
    out = (scores.softmax(-1) @ v.float()).to(q.dtype).transpose(1, 2)
    return (out, scores.logsumexp(-1)) if lse else out


def varlen(name, q, k, v, cu_seqlens_q, cu_seqlens_k, scale, **rest):
    parts = [
        attend(name, *(x[None] for x in (q[a:b], k[c:d], v[c:d])), scale)[0]
        for a, b, c, d in zip(cu_seqlens_q, cu_seqlens_q[1:], cu_seqlens_k, cu_seqlens_k[1:])
    ]
    return torch.cat(parts)
"""
FLASH = """
from standing_in import attend, varlen


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1),
                    return_attn_probs=False):
    found = attend("{name}", q, k, v, softmax_scale, None, causal, dropout_p, return_attn_probs)
    return (*found, None) if return_attn_probs else found


def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale=None,
                           **rest):
    return varlen("{name}_varlen", q, k, v, cu_seqlens_q, cu_seqlens_k, softmax_scale)


def _nothing(*args, **kwargs):
    raise NotImplementedError


_wrapped_flash_attn_forward = _wrapped_flash_attn_backward = _flash_attn_forward = _flash_attn_backward = _nothing
_flash_attn_varlen_forward = _flash_attn_varlen_backward = _nothing
"""
SAGE = """
from standing_in import attend, varlen


def sageattn(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, return_lse=False):
    assert tensor_layout == "NHD"
    return attend("sage", q, k, v, sm_scale, None, is_causal, lse=return_lse)


def sageattn_varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, is_causal=False, sm_scale=None):
    return varlen("sage_varlen", q, k, v, cu_seqlens_q, cu_seqlens_k, sm_scale)


sageattn_qk_int8_pv_fp8_cuda = sageattn_qk_int8_pv_fp8_cuda_sm90 = sageattn
sageattn_qk_int8_pv_fp16_cuda = sageattn_qk_int8_pv_fp16_triton = sageattn
"""
XFORMERS = """
from standing_in import attend


def memory_efficient_attention(query, key, value, attn_bias=None, p=0.0, scale=None):
    assert attn_bias is None or (attn_bias.is_floating_point() and attn_bias.stride(-2) % 8 == 0)
    return attend("xformers", query, key, value, scale, attn_bias, dropout_p=p)
"""
KERNELS = """
import types

import flash_attn


def get_kernel(repo_id, revision=None, version=None, user_agent=None, **rest):
    assert repo_id == "kernels-community/flash-attn2", repo_id
    return types.SimpleNamespace(__name__=repo_id, flash_attn_interface=flash_attn.flash_attn_interface,
                                 flash_attn_func=flash_attn.flash_attn_func)
"""
PACKAGES = {
    "flash_attn": ("2.8.3", {"flash_attn_interface": FLASH.replace("{name}", "flash"),
                             "__init__": "from flash_attn.flash_attn_interface import *\n"}),
    "sageattention": ("2.2.0", {"__init__": SAGE}),
    "xformers": ("0.0.35", {"__init__": "", "ops": XFORMERS}),
    "kernels": ("0.12.3", {"__init__": KERNELS}),
}  # fmt: skip


def install(folder: Path, *names: str) -> dict[str, str]:
    """Write stand-ins (all without names) into a folder; return the environment of a process that finds them."""
    (folder / "standing_in.py").write_text(COMMON.replace("{calls}", str(folder / "calls")))
    for name in names or PACKAGES:
        version, files = PACKAGES[name]
        (folder / name).mkdir()
        for module, text in files.items():
            (folder / name / f"{module}.py").write_text(text)
        about = folder / f"{name}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def calls(folder: Path) -> list[str]:
    """Return the functions that were called, in order, and forget them."""
    file = folder / "calls"
    found = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return found

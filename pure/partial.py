r"""Attention to a part of the keys, such that the parts can be put together.

With the scores $s_j$ of a query, its attention to some keys is
$o = \sum_j e^{s_j - l} v_j$ where $l = \log \sum_j e^{s_j}$. Of two parts it is

$$o = e^{l_1 - l} o_1 + e^{l_2 - l} o_2, \qquad l = \log(e^{l_1} + e^{l_2}).$$

The only file that calls torch's kernels by their private names: the public function does
not return $l$.

Shapes: B samples, S queries, K keys, H heads, C width of a head.
"""

import torch
import torch.nn.functional as F

PartialAttention = tuple[torch.Tensor, torch.Tensor]

ALIGNED = 16  # the kernel for masks on GPUs reads this many at once


def attend_in_part(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, kernel: str | None = None
) -> PartialAttention:
    """Return attention (B, H, S, C) to some of the keys, and l (B, H, S, 1), fp32 or wider.

    Args:
        q: (B, S, H, C).
        k: (B, K, H, C) or of fewer heads, K at least 1.
        v: as `k`.
        mask: (B, 1, 1, K): True where a key takes part, or numbers added to the scores; None: all do.
        kernel: of `KERNELS`; None: what is fastest on this device.
    """
    q, k, v = (x.transpose(1, 2) for x in same_heads(q, k, v))
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -torch.inf)
    run = _fastest(q) if kernel is None else KERNELS[kernel]
    out, total = run(q, k, v, None if mask is None else mask.to(q.dtype))
    total = total.unsqueeze(-1)
    if mask is None:
        return out, total
    # What takes no part in any way has no weight; the kernels return zeros, or NaN, and any l.
    none = without_keys(mask)
    return out.masked_fill(none, 0.0), total.masked_fill(none, -torch.inf)


def without_keys(mask: torch.Tensor) -> torch.Tensor:
    """Return which queries (..., 1) see no key, by a mask (..., K) as `pure.attention.attend` takes it."""
    return ~(mask if mask.dtype == torch.bool else mask > -torch.inf).any(-1, keepdim=True)


def merge(a: PartialAttention, b: PartialAttention) -> PartialAttention:
    """Return the attention to the keys of both parts, in the type of `a`."""
    (x, first), (y, second) = a, b
    total = torch.logaddexp(first, second)
    return x * _share(first, total).to(x.dtype) + y.to(x.dtype) * _share(second, total).to(x.dtype), total


def _share(part: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    # Without any key there is nothing to divide by.
    return torch.where(total == -torch.inf, 0.0, torch.exp(part - total))


def same_heads(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries, keys and values (B, tokens, H, C), those of grouped heads repeated.

    Raises:
        ValueError: the heads of the keys do not divide those of the queries.
    """
    heads, groups = q.shape[2], k.shape[2]
    if heads == groups:
        return q, k, v
    if not groups or heads % groups:
        raise ValueError(f"{heads} heads of queries cannot share {groups} heads of keys; give a divisor of {heads}")
    return q, k.repeat_interleave(heads // groups, dim=2), v.repeat_interleave(heads // groups, dim=2)


def _fastest(q: torch.Tensor):
    if q.device.type == "cpu":
        return _flash
    return _on_gpu if q.device.type == "cuda" and q.dtype != torch.float64 else _math


def _on_gpu(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None) -> PartialAttention:
    flash = bias is None and q.dtype != torch.float32 and q.shape[-1] % 8 == 0
    return _flash(q, k, v, bias) if flash else _efficient(q, k, v, bias)


def _flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None) -> PartialAttention:
    if q.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, attn_mask=bias)
    if bias is not None:
        raise ValueError("torch's flash kernel takes no mask on a GPU; choose another attention")
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[:2]


def _efficient(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None) -> PartialAttention:
    if bias is not None:
        keys = bias.shape[-1]
        bias = F.pad(bias, (0, -keys % ALIGNED))[..., :keys].expand(*q.shape[:3], keys)
    out, total, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, compute_log_sumexp=True)
    return out, total[..., : q.shape[2]]


def _math(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None) -> PartialAttention:
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = q.to(wide) @ k.to(wide).transpose(2, 3) / q.shape[-1] ** 0.5
    scores = scores if bias is None else scores + bias
    total = scores.logsumexp(-1)
    return (torch.exp(scores - total.unsqueeze(-1)) @ v.to(wide)).to(q.dtype), total


KERNELS = {"flash": _flash, "efficient": _efficient, "math": _math}

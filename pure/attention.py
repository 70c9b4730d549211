"""Attention, as a function that a denoiser takes as an argument.

A denoiser calls `attend(q, k, v, mask)` and does not know what computes it. Another `attend` may be a record
around this one (tokens divided among ranks) or in its place (another kernel: `pure.transforms.attention`). Such a
record says with `in_part` whether it can attend to a part of the keys, as the ring of many ranks needs:
`in_part(q, k, v, mask) -> (out, log-sum-exp)`, see `pure.partial`.

Shapes: B samples, S queries, K keys, H heads, C width of a head.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import torch
import torch.nn.functional as F

from pure.partial import PartialAttention, attend_in_part, same_heads, without_keys

__all__ = ["Attend", "attend", "innermost", "parts_of", "replaced"]

Attend = Callable[..., torch.Tensor]
"""Attention, called as `attend` is."""
T = TypeVar("T")


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None, whole: bool = False
) -> torch.Tensor:
    r"""Return scaled dot-product attention, $\mathrm{softmax}(q k^T / \sqrt{C})\, v$.

    Args:
        q: (B, S, H, C).
        k: (B, K, H, C), or with fewer heads (B, K, G, C): each is then that of H / G heads of `q`, one after the other.
        v: as `k`.
        mask: broadcastable to (B, H, S, K): True where a key takes part, or numbers added to
            the scores; None lets all take part.
        whole: the keys are not those of the tokens in the streams; on one rank that makes no difference.

    Returns:
        (B, S, H, C); zeros of a query that sees no key.
    """
    q, k, v = (x.transpose(1, 2) for x in same_heads(q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if mask is not None:
        # cuDNN's kernel, which torch chooses on recent GPUs, returns the mean of all values there.
        out = out.masked_fill(without_keys(mask), 0.0)
    return out.transpose(1, 2)


def parts_of(attention: Attend) -> Callable[..., PartialAttention] | None:
    """Return the function that attends to some of the keys, `in_part`; None where there is none."""
    return attend_in_part if attention is attend else getattr(attention, "in_part", None)


def innermost(attention: Attend) -> Attend:
    """Return what computes attention in the end, under the records that divide it."""
    while (inner := getattr(attention, "attend", None)) is not None:
        attention = inner
    return attention


def replaced(value: T, new: Attend) -> T:
    """Return a record, or attention itself, with `new` in the place of every innermost `attend` it holds.

    Looks into frozen attrs records and the records in their fields; everything else stays the same object.
    """
    if not attrs.has(type(value)):
        return value
    changes: dict[str, Any] = {}
    for field in attrs.fields(type(value)):
        held = getattr(value, field.name)
        made = new if field.name == "attend" and not hasattr(held, "attend") else replaced(held, new)
        if made is not held:
            changes[field.alias or field.name] = made
    return attrs.evolve(value, **changes) if changes else value

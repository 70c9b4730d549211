"""Attention, as a function that a denoiser takes as an argument.

Shapes: B samples, S queries, K keys, H heads, C width of a head.
"""

import torch
import torch.nn.functional as F


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None, whole: bool = False
) -> torch.Tensor:
    r"""Return scaled dot-product attention, $\mathrm{softmax}(q k^T / \sqrt{C})\, v$.

    Args:
        q: (B, S, H, C).
        k: (B, K, H, C).
        v: (B, K, H, C).
        mask: broadcastable to (B, H, S, K): True where a key takes part, or numbers added to
            the scores; None lets all take part.
        whole: the keys are not those of the tokens in the streams; on one rank that makes no difference.

    Returns:
        (B, S, H, C).
    """
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

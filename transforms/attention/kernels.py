"""What computes attention: torch's kernels, and packages through diffusers' dispatcher.

Each is a frozen record that is called as `pure.attention.attend` is. None drops a mask: it is applied, or refused.

Shapes: B samples, S queries, K keys, H heads, C width of a head.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import AuxRequest, flex_attention

from pure.attention import attend
from pure.partial import PartialAttention, attend_in_part, same_heads, without_keys
from pure.transforms.attention.names import BACKENDS

__all__ = ["Dispatched", "Flex", "Native", "kernel_of"]

SDP = {
    "_native_math": (SDPBackend.MATH, "math"),
    "_native_flash": (SDPBackend.FLASH_ATTENTION, "flash"),
    "_native_efficient": (SDPBackend.EFFICIENT_ATTENTION, "efficient"),
    "_native_cudnn": (SDPBackend.CUDNN_ATTENTION, None),
}
ALIGNED = 8  # xformers reads this many numbers of a mask at once
UNMASKED = (
    "the attention {name} takes no {such}mask, and here some keys must be left out, such as the padding of a prompt; "
    "choose native or flex, or flash_varlen where flash-attn is there; Z-Image and Qwen-Image mask only batches of "
    "prompts of different lengths"
)
AnyMask = torch.Tensor | None


def kernel_of(name: str) -> "Native | Flex | Dispatched":
    """Return what computes attention, by diffusers' name."""
    if name == "flex":
        return Flex()
    if BACKENDS[name].module:
        return Dispatched(name)
    return Native(name)


@attrs.frozen
class Native:
    """Torch's scaled dot-product attention: whichever kernel torch chooses ("native"), or one of them."""

    name: str = "native"

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: AnyMask = None, whole: bool = False
    ) -> torch.Tensor:
        """Return attention (B, S, H, C); see `pure.attention.attend`.

        Raises:
            ValueError: it takes no mask: torch's flash kernel on a GPU.
            RuntimeError: torch has no such kernel for these tensors.
        """
        if self.name == "native":
            return attend(q, k, v, mask)
        if mask is not None and self.name == "_native_flash" and q.device.type == "cuda":
            raise ValueError(UNMASKED.format(name=self.name, such=""))
        with sdpa_kernel(SDP[self.name][0]):
            return attend(q, k, v, mask)

    @property
    def in_part(self) -> Callable[..., PartialAttention] | None:
        """The same for some of the keys, with their log-sum-exp; None of cuDNN's kernel."""
        if self.name == "native":
            return attend_in_part
        kernel = SDP[self.name][1]
        return None if kernel is None else functools.partial(attend_in_part, kernel=kernel)


@attrs.frozen
class Flex:
    """Torch's flex attention: compiled on a GPU; on a CPU all scores of a head are held at once."""

    name: str = "flex"

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: AnyMask = None, whole: bool = False
    ) -> torch.Tensor:
        """Return attention (B, S, H, C); see `pure.attention.attend`."""
        if q.is_meta:  # where only shapes are asked for; flex attention has no such kernel
            return attend(q, k, v, mask)
        q, k, v = (x.transpose(1, 2) for x in same_heads(q, k, v))
        return _flex(q)(q, k, v, score_mod=_scores(q, k, mask)).transpose(1, 2)

    def in_part(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: AnyMask) -> PartialAttention:
        """Return attention (B, H, S, C) to some of the keys and its log-sum-exp (B, H, S, 1); see `pure.partial`."""
        q, k, v = (x.transpose(1, 2) for x in same_heads(q, k, v))
        out, more = _flex(q)(q, k, v, score_mod=_scores(q, k, mask), return_aux=AuxRequest(lse=True))
        return out, more.lse.unsqueeze(-1)


def _scores(q: torch.Tensor, k: torch.Tensor, mask: AnyMask) -> Callable | None:
    """Return the function that applies a mask to one score, given its sample, head, query and key."""
    if mask is None:
        return None
    wide = mask.expand(*q.shape[:3], k.shape[2])
    if wide.dtype == torch.bool:
        return lambda score, b, h, i, j: torch.where(wide[b, h, i, j], score, -torch.inf)
    return lambda score, b, h, i, j: score + wide[b, h, i, j]


def _flex(q: torch.Tensor) -> Callable:
    if torch.compiler.is_compiling():
        return flex_attention
    return _quiet_flex if q.device.type == "cpu" else _compiled_flex()


def _quiet_flex(*args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        # Of a CPU that is the better way: compiling it takes longer than most runs.
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile", UserWarning)
        return flex_attention(*args, **kwargs)


@functools.cache
def _compiled_flex() -> Callable:
    # As it is, it would write all scores to the memory of the GPU.
    return torch.compile(flex_attention, dynamic=False)


@attrs.frozen
class Dispatched:
    """A kernel of a package, called through diffusers' dispatcher."""

    name: str

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: AnyMask = None, whole: bool = False
    ) -> torch.Tensor:
        """Return attention (B, S, H, C); see `pure.attention.attend`.

        Raises:
            ValueError: it takes no such mask.
        """
        q, k, v = same_heads(q, k, v)
        takes = BACKENDS[self.name].masks
        if mask is None:
            return self._call(q, k, v)
        if takes == "all":
            bias, none = _added(mask, q, k)
            return self._call(q, k, v, attn_mask=bias).masked_fill(none.transpose(1, 2), 0.0)
        if takes == "keys" and mask.dtype == torch.bool and mask.shape[1] == mask.shape[2] == 1:
            return self._of_some_keys(q, k, v, mask.expand(q.shape[0], 1, 1, -1)[:, 0, 0])
        raise ValueError(UNMASKED.format(name=self.name, such="such " if takes == "keys" else ""))

    @property
    def in_part(self) -> Callable[..., PartialAttention] | None:
        """The same for some of the keys, with their log-sum-exp; None where the kernel does not give that."""
        return self._in_part if BACKENDS[self.name].parts else None

    def _in_part(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: AnyMask) -> PartialAttention:
        if mask is not None:
            raise ValueError(f"the attention {self.name} takes no mask; choose native or flex")
        out, total = self._call(*same_heads(q, k, v), return_lse=True)
        return out.transpose(1, 2), total.float().unsqueeze(-1)

    def _of_some_keys(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, on: torch.Tensor) -> torch.Tensor:
        # The kernels take the first keys of each sample, however many: those that take part are put there. A query
        # without any key gets zeros, as everywhere; the kernels need one.
        order = on.to(torch.int8).argsort(dim=1, descending=True, stable=True)
        k, v = (x.take_along_dim(order[..., None, None], dim=1) for x in (k, v))
        first = on.take_along_dim(order, dim=1)
        none = ~first[:, :1]
        first = torch.cat([first[:, :1] | none, first[:, 1:]], dim=1)
        return self._call(q, k, v, attn_mask=first).masked_fill(none[..., None, None], 0.0)

    def _call(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        attn_mask: AnyMask = None,
        return_lse: bool = False,
    ):
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        more = {"return_lse": True} if return_lse else None
        return dispatch_attention_fn(
            q.contiguous(), k.contiguous(), v.contiguous(), attn_mask=attn_mask, scale=q.shape[-1] ** -0.5,
            attention_kwargs=more, backend=self.name,  # type: ignore[arg-type]  # a name will do
        )  # fmt: skip


def _added(mask: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a mask as numbers that are added, (B, H, S, K), and which queries see no key, (B or 1, ..., 1).

    Rows are as long as xformers reads them. Of queries that see no key a kernel may make anything: they see all here.
    """
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -torch.inf)
    none, keys = without_keys(mask), k.shape[1]
    mask = F.pad(mask.to(q.dtype).masked_fill(none, 0.0), (0, -keys % ALIGNED))[..., :keys]
    return mask.expand(q.shape[0], q.shape[2], q.shape[1], keys), none

"""The kernel of attention as a transform."""

import attrs

from pure.attention import attend, innermost, replaced
from pure.composition import Transform, both
from pure.denoiser import Denoiser
from pure.transforms.attention.kernels import Dispatched, Flex, Native, kernel_of
from pure.transforms.attention.names import BACKENDS, canonical, installed

__all__ = ["attention"]


def _there(instance: "attention", attribute: attrs.Attribute, value: str) -> None:
    name = canonical(value)
    if not installed(name):
        source = BACKENDS[name]
        raise ValueError(f"attention({value!r}) needs the package {source.module}: {source.how}")


@attrs.frozen
class attention(Transform):
    """Compute attention by another kernel, wherever the denoiser attends: in its blocks and in its refiners.

    Its place in a composition does not matter: where tokens are divided among ranks (`context_parallel`), it is the
    attention of each rank. Masks, grouped heads and the scale are those of the denoiser; a kernel that does not take
    a mask raises an error where there is one. Results differ from torch's by the rounding of the kernel; those
    called `sage` multiply in 8 bits.

    Args:
        name: as diffusers calls it, or as cache-dit or SGLang does: "native" (torch's choice), "_native_math",
            "_native_flash", "_native_efficient", "_native_cudnn" (one kernel of torch), "flex", and of packages
            "flash", "_flash_3", "sage", "xformers" and others; docs/attention.md lists them. Which of them run on
            a device, `pure.transforms.check_attention` finds out.

    Raises:
        ValueError: nothing has this name, its package is not there, or another attention is chosen already.

    >>> attention("flex")
    attention(name='flex')
    """

    name: str = attrs.field(validator=_there)

    def edit(self, denoiser: Denoiser) -> Denoiser:
        """Replace what attends."""
        kernel, now = kernel_of(canonical(self.name)), innermost(denoiser.attend)
        if now is not attend and now != kernel:
            old = attention(now.name) if isinstance(now, Dispatched | Flex | Native) else now
            raise ValueError(both(old, self, "what computes attention"))
        parts = {name: replaced(getattr(denoiser, name), kernel) for name in ("prepare", "embed", "head")}
        whole = replaced(denoiser.attend, kernel) if hasattr(denoiser.attend, "attend") else kernel
        return attrs.evolve(denoiser, attend=whole, **parts)

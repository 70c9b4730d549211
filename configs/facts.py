"""What is known of a run before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from pure.checks import flag, kind, optional, whole

if TYPE_CHECKING:
    from pure.denoiser import Denoiser

__all__ = ["Facts"]


@attrs.frozen(kw_only=True)
class Facts:
    """What is known of the run before it starts; None: not known yet.

    Attributes:
        processes: number of processes; of several groups, those of each.
        groups: how many groups of processes there are, each with samples of its own.
        sequence: how many of them share the sequence, ulysses x ring, where that is set.
        device: type of the device, such as "cpu" or "cuda".
        dtype: number type of the denoiser, such as "bfloat16".
        steps: number of steps of the run (of a model with one expert).
        blocks: number of blocks of the denoiser.
        experts: number of experts of the model.
        packed: whether its latents are tokens, and no grid of rows and columns.
        denoiser: without parameters, to see whether a cache fits it; of several experts the first.
    """

    processes: int = attrs.field(default=1, validator=whole(1, "the number of processes"))
    groups: int = attrs.field(default=1, validator=whole(1, "the number of groups"))
    sequence: int | None = attrs.field(default=None, validator=optional(whole(1, "the number of processes")))
    device: str = attrs.field(default="cpu", validator=kind(str, "the type of a device is a name, such as 'cuda'"))
    dtype: str | None = attrs.field(default=None, validator=optional(kind(str, "a number type is a name: 'bfloat16'")))
    steps: int | None = attrs.field(default=None, validator=optional(whole(1, "the number of steps")))
    blocks: int | None = attrs.field(default=None, validator=optional(whole(1, "the number of blocks")))
    experts: int | None = attrs.field(default=None, validator=optional(whole(1, "the number of experts")))
    packed: bool = attrs.field(default=False, validator=flag)
    denoiser: Denoiser | None = attrs.field(default=None, eq=False, repr=False)

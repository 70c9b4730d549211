"""The denoiser: a diffusion transformer cut into pure pieces, with a plan for skipping some."""

from collections.abc import Callable
from typing import Any

import attrs
import torch

from pure import stepping
from pure.block import Block, Bound, Params, bind
from pure.guidance import Guidance
from pure.info import Info
from pure.memory import State
from pure.pieces import CompileOptions, Pieces, assemble
from pure.plan import Plan
from pure.sharding import Sharding
from pure.step import Inputs
from pure.tokens import PerToken

Tree = Any


@attrs.frozen(kw_only=True)
class Denoiser:
    """A diffusion transformer as pure functions over a dict of parameters.

    `prediction, state, info = denoiser.apply(params, state, inputs)` is the only way it is
    called; the same arguments give the same answers and nothing passed in is changed.

    Attributes:
        prepare: `(params, conditioning) -> prepared`, once per request: all that does not
            depend on the step.
        embed: `(params, prepared, latents, timestep) -> hidden, context`; `hidden` is a
            `@state` record of streams, each (B, tokens, width).
        blocks: the stack; every block maps `hidden` to `hidden`.
        head: `(params, hidden, context) -> prediction`, shaped like the latents.
        attend: `(q, k, v, mask) -> out`, all (B, tokens, heads, head width). With `whole=True` the keys
            and values are not those of the tokens in the streams: wherever tokens are divided, all
            ranks have all of them.
        probe: `hidden -> tensor`, the stream whose change is measured.
        streams: names of the streams, which are the fields of `hidden`.
        reads: names of the streams the head reads; None: all of them. What nothing reads after
            the middle is neither remembered nor filled in.
        plan: what may be skipped, when, and how it is filled in.
        guidance: classifier-free guidance, or None.
        compile: how the pieces are compiled, or None for eager.
        sharding: how the parameters are split over ranks, or None where nothing says so.
        per_token: what of the context belongs to single tokens, so that these can be divided among
            ranks; None where nothing says so.
        agree: `(sums of the change, (K, B)) -> sums over all ranks` that divide the tokens; None where
            one rank has all tokens.
    """

    prepare: Callable[[Params, Tree], Tree]
    embed: Callable[[Params, Tree, torch.Tensor, torch.Tensor], tuple[Tree, Tree]]
    blocks: tuple[Block, ...]
    head: Callable[[Params, Tree, Tree], torch.Tensor]
    attend: Callable[..., torch.Tensor]
    probe: Callable[[Tree], torch.Tensor]
    streams: tuple[str, ...]
    reads: tuple[str, ...] | None = None
    plan: Plan = attrs.field(factory=Plan)
    guidance: Guidance | None = None
    compile: CompileOptions | None = None
    sharding: Sharding | None = None
    per_token: PerToken | None = None
    agree: Callable[[torch.Tensor], torch.Tensor] | None = None
    pieces: Pieces = attrs.field(
        init=False, eq=False, repr=False, default=attrs.Factory(lambda self: assemble(self), takes_self=True)
    )

    def bind(self, params: Params | Bound) -> Bound:
        """Group the parameters by block; do it once per request and pass the result to `apply`."""
        return bind(self.blocks, params)

    def init(self, params: Params | Bound, conditioning: Tree, latents: torch.Tensor, count: int) -> State:
        """Return the state before the first step.

        Args:
            params: parameters under the checkpoint's names, or `bind` of them.
            conditioning: what `prepare` takes; with guidance, `Branches` of two such.
            latents: (B, ...) starting noise; only its metadata matters.
            count: number of steps of the run, at least 1.

        Raises:
            ValueError: the plan does not fit the number of steps.
        """
        return stepping.init(self, bind(self.blocks, params), conditioning, latents, count)

    def apply(self, params: Params | Bound, state: State, inputs: Inputs) -> tuple[torch.Tensor, State, Info]:
        """Take one step: return the prediction (shaped like the latents), the new state, and what was done."""
        return stepping.apply(self, bind(self.blocks, params), state, inputs)

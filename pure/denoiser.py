"""The denoiser: a diffusion transformer cut into pure pieces, with a plan for skipping some."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch

from pure import guidance as cfg
from pure import stepping
from pure.block import Block, Bound, Params, Weights, bind
from pure.checks import function, kind, names, optional, refuse
from pure.decide import can_skip, check, measures
from pure.fitting import embed, prepare
from pure.guidance import Guidance
from pure.info import Info
from pure.memory import State, States
from pure.notes import Note
from pure.parts import one_by_one
from pure.pieces import (
    Back,
    Branching,
    CompileOptions,
    Dense,
    Fill,
    Front,
    Kept,
    Middle,
    Pieces,
    Stack,
    Verifying,
    compiled,
    ending,
    stays_eager,
)
from pure.plan import Plan, Probe, Span
from pure.predictors import Hold, Predictor
from pure.probing import check_probe, named
from pure.sharding import Sharding
from pure.step import Inputs, Step, check_count, check_latents, count_of
from pure.tokens import PerToken
from pure.tree import Tree, map_samples, put, take

COMPILING = (
    "a step decides in Python: compose compiled() with the other transforms, which compiles all that a step computes, "
    "or compile the step of pure.program(denoiser, steps, solver)"
)


PIECE = function("this piece is a function, or a record with a __call__")
STREAMS = names("give the names of streams as a tuple, such as ('image', 'text')")


def _blocks(instance: object, attribute: attrs.Attribute, value: object) -> None:
    if not isinstance(value, tuple) or not value or not all(isinstance(block, Block) for block in value):
        raise refuse(instance, attribute.name, value, "give a tuple of pure.Block(...), at least one", TypeError)


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
        modulated: `(params, hidden, context) -> (B, N, D)`, what the first block's attention reads of the image, or is
            modulated by; None where the family does not say it. A field `published` of it says how TeaCache is set.
        plan: what may be skipped, when, and how it is filled in.
        guidance: classifier-free guidance, or None.
        compile: how the pieces are compiled, or None for eager.
        sharding: how the parameters are split over ranks, or None where nothing says so.
        per_token: what of the context belongs to single tokens, so that these can be divided among
            ranks; None where nothing says so.
        agree: `(sums of the change, (K, B)) -> sums over all ranks` that divide the tokens; None where
            one rank has all tokens.
        own: `context -> context` of the blocks, where ranks divide the tokens and wrap it; else None.
        branching: which rows under guidance are this rank's, where ranks divide the branches; see
            `pure.distributed.guidance_parallel`.

    Raises:
        TypeError: a field is of another kind.
    """

    prepare: Callable[[Params, Tree], Tree] = attrs.field(validator=PIECE)
    embed: Callable[[Params, Tree, torch.Tensor, torch.Tensor], tuple[Tree, Tree]] = attrs.field(validator=PIECE)
    blocks: tuple[Block, ...] = attrs.field(validator=_blocks)
    head: Callable[[Params, Tree, Tree], torch.Tensor] = attrs.field(validator=PIECE)
    attend: Callable[..., torch.Tensor] = attrs.field(validator=PIECE)
    probe: Callable[[Tree], torch.Tensor] = attrs.field(validator=PIECE)
    streams: tuple[str, ...] = attrs.field(validator=STREAMS)
    reads: tuple[str, ...] | None = attrs.field(default=None, validator=optional(STREAMS))
    modulated: Callable[[Params, Tree, Tree], torch.Tensor] | None = attrs.field(
        default=None, validator=optional(PIECE)
    )
    plan: Plan = attrs.field(factory=Plan, validator=kind(Plan, "give a pure.Plan(...)"))
    guidance: Guidance | None = attrs.field(default=None, validator=optional(kind(Guidance, "give a pure.Guidance")))
    compile: CompileOptions | None = attrs.field(
        default=None, validator=optional(kind(CompileOptions, "give pure.CompileOptions(...)"))
    )
    sharding: Sharding | None = attrs.field(default=None, validator=optional(kind(Sharding, "give a Sharding(...)")))
    per_token: PerToken | None = attrs.field(default=None, validator=optional(kind(PerToken, "give a PerToken(...)")))
    agree: Callable[[torch.Tensor], torch.Tensor] | None = attrs.field(default=None, validator=optional(PIECE))
    own: Callable[[Tree], Tree] | None = attrs.field(default=None, validator=optional(PIECE))
    branching: Branching | None = None
    pieces: Pieces = attrs.field(
        init=False, eq=False, repr=False, default=attrs.Factory(lambda self: assemble(self), takes_self=True)
    )

    def bind(self, params: Weights) -> Bound:
        """Group the parameters by block; do it once per request and pass the result to `apply`."""
        return bind(self.blocks, params)

    def init(self, params: Weights, conditioning: Tree, latents: torch.Tensor, steps: Sequence[Step] | int) -> State:
        """Return the state before the first step.

        Args:
            params: parameters under the checkpoint's names, or `bind` of them.
            conditioning: what `prepare` takes; with guidance, `Branches` of two such.
            latents: (B, ...) starting noise; only its metadata matters.
            steps: the schedule of the run, or some steps of it; or its length, at least 1.

        Raises:
            ValueError: the plan does not fit the number of steps, or there are none.
            TypeError: an argument is of another kind.
        """
        return init(self, bind(self.blocks, params), conditioning, latents, steps)

    def apply(self, params: Weights, state: States, inputs: Inputs) -> tuple[torch.Tensor, State, Info]:
        """Take one step: return the prediction (shaped like the latents), the new state, and what was done.

        Raises:
            ValueError: the state is of another batch or another plan; a rule or predictor gives a wrong answer.
            TypeError: an argument is of another kind.
        """
        take_step = _eager if torch.compiler.is_compiling() else apply
        return take_step(self, params, state, inputs)

    def notes(self, steps: Sequence[Step] | int, conditioning: Tree = None) -> tuple[Note, ...]:
        """Return what a run of these steps was set to do and will not do.

        That is a plan that cannot skip or has no block to skip, a mask that is off or cut, guidance that has no effect.

        Args:
            steps: the schedule of the run, or its length.
            conditioning: of the run, if known: with it guidance is looked at, too.

        Raises:
            ValueError: the plan does not fit the number of steps.
        """
        count = count_of(steps)
        check_count(count)
        found = check(self.plan.rules, count, () if isinstance(steps, int) else steps)
        if can_skip(self.plan.rules):
            found += (self.plan.span or Span()).notes(len(self.blocks))
        if self.plan.predictor is not None and not self.plan.rules:
            text = f"{self.plan.predictor} has no effect: no step can be skipped; add dbcache(...) or a static mask"
            found = (*found, Note(text))
        if self.branching is not None and self.guidance is None:
            text = "processes for each branch of guidance have no effect, as nothing is guided: all do the same work"
            found = (*found, Note(f"{text}; guide with a scale and a negative prompt, or leave them out"))
        if conditioning is None:
            return found
        return (*found, *cfg.notes(self.guidance, isinstance(conditioning, cfg.Branches), steps))


def init(
    denoiser: Denoiser, params: Bound, conditioning: Tree, latents: torch.Tensor, steps: Sequence[Step] | int
) -> State:
    """Return the state before the first step (see `Denoiser.init`)."""
    count = count_of(steps)
    check_count(count)
    check(denoiser.plan.rules, count, () if isinstance(steps, int) else steps)
    check_probe(denoiser.plan)
    check_latents(latents)
    conditioning, guided = cfg.rows(denoiser.guidance, conditioning)
    if guided and denoiser.branching is not None:
        _check_interval(denoiser.guidance)
    prepared = map_samples(torch.Tensor.contiguous, prepare(denoiser.prepare, params.all, conditioning))
    entry = cfg.doubled(latents) if guided else latents
    _check_rows(prepared, entry.shape[0])
    batch = entry.shape[0]
    hidden, context = embed(denoiser.embed, params.all, prepared, entry, entry.new_zeros(batch))
    probe = denoiser.plan.probe
    probed = denoiser.probe(hidden)
    if probe is not None and probe.of is not None:
        own = context if denoiser.own is None else denoiser.own(context)
        probed = named(probe.of, probe.of(params.all, hidden, own), batch)
    if denoiser.pieces.seen is not None:
        probed = named(denoiser.pieces.seen, denoiser.pieces.seen(entry, entry.new_ones(batch)), batch)
    cache = stepping.empty(denoiser.pieces, probed, hidden, batch, entry)
    return State(prepared=prepared, cache=cache, branches=2 if guided else 1)


def _eager(denoiser: Denoiser, params: Weights, state: States, inputs: Inputs) -> tuple[torch.Tensor, State, Info]:
    """Run as it is within what somebody compiles."""
    run: Any = torch.compiler.disable(apply, reason=COMPILING)
    return run(denoiser, params, state, inputs)


_eager._torchdynamo_disable = True  # type: ignore[attr-defined]  # torch.compiler.disable imports dynamo: a second
_eager._torchdynamo_disable_msg = COMPILING  # type: ignore[attr-defined]


def apply(denoiser: Denoiser, params: Weights, state: States, inputs: Inputs) -> tuple[torch.Tensor, State, Info]:
    """Take one step (see `Denoiser.apply`)."""
    params = bind(denoiser.blocks, params)
    if not isinstance(inputs, Inputs) or not isinstance(state, State):
        raise TypeError(_wrong_arguments(state, inputs))
    latents, step, guidance, pieces = inputs.latents, inputs.step, denoiser.guidance, denoiser.pieces
    batch, rows = latents.shape[0], state.cache.ledger.shape[0]
    if rows != batch * state.branches:
        raise ValueError(
            f"the state holds {rows // state.branches} samples and the latents {batch}; "
            "use the state that init, take or join gave for this batch"
        )
    if state.branches == 1:
        return stepping.advance(pieces, params, state, latents, step)
    if guidance is None:
        raise ValueError("the state holds two branches of each sample, but this denoiser is not guided(...)")
    if guidance.active(step):
        prediction, state, info = stepping.advance(
            pieces, params, state, cfg.doubled(latents), cfg.both(step, batch), paired=True
        )
        return cfg.combine(guidance, prediction), state, info
    conditional = cfg.conditional(batch)
    half = State(prepared=take(state.prepared, conditional), cache=take(state.cache, conditional))
    prediction, half, info = stepping.advance(pieces, params, half, latents, step)
    # Only the cache goes back: the prepared half is constant, and copying it would cost a request's memory.
    return prediction, attrs.evolve(state, cache=put(state.cache, conditional, half.cache)), info


def _check_interval(guidance: Guidance | None) -> None:
    """Refuse guidance of some steps only where ranks divide the branches: the others have no conditional state.

    Raises:
        ValueError: it is.
    """
    if guidance is not None and not guidance.always:
        raise ValueError(
            f"{guidance} guides some steps only, and outside of them a rank of the unconditional branch has nothing to "
            "run; leave guidance_parallel(...) out, or guide all steps"
        )


def _check_rows(prepared: Tree, batch: int) -> None:
    """Refuse conditioning of another number of samples than the latents."""

    def check(leaf: torch.Tensor) -> torch.Tensor:
        if leaf.shape[:1] != (batch,):
            raise ValueError(
                f"the conditioning is of {leaf.shape[0]} samples and the latents of {batch} (guidance counts twice); "
                "make both from one request, latents of shape (B, ...)"
            )
        return leaf

    map_samples(check, prepared)


def _wrong_arguments(state: object, inputs: object) -> str:
    if not isinstance(inputs, Inputs):
        return f"apply takes pure.Inputs(latents, step) as its third argument, got {type(inputs).__name__}"
    return f"apply takes the State that init or apply returned as its second argument, got {type(state).__name__}"


@attrs.frozen
class _OfShare:
    """What is measured of a rank's tokens."""

    of: Callable[[Params, Tree, Tree], torch.Tensor]
    own: Callable[[Tree], Tree]

    def __call__(self, params: Params, hidden: Tree, context: Tree) -> torch.Tensor:
        return self.of(params, hidden, self.own(context))


def assemble(denoiser: Denoiser) -> Pieces:
    """Cut the stack by the plan's span and build the pieces, compiled if the denoiser says so."""
    attrs.validate(denoiser)  # type: ignore[arg-type]  # while the record is made, before attrs does it
    span = denoiser.plan.span or Span()
    stop = len(denoiser.blocks) - span.back
    skipping = can_skip(denoiser.plan.rules)  # what never skips remembers nothing
    names = (denoiser.streams if span.each else kept_names(denoiser)) if skipping else ()
    kept = tuple(Kept(name, predictor_of(denoiser, name)) for name in names)
    probing = skipping and measures(denoiser.plan.rules)
    options = denoiser.compile
    # An embedding that must stay eager would break the graph of the front, and so with the head.
    regional = options is not None and (options.regional or stays_eager(denoiser.embed) or stays_eager(denoiser.head))
    inner = functools.partial(compiled, options if regional else None)
    outer = functools.partial(compiled, None if regional else options)

    # The next piece must not see in the strides whether the one before it was computed, filled
    # in, or done for a part of the batch: it would compile once more for each.
    whole = options is not None and not regional
    alone = Dense if regional else lambda function: function
    embed = inner(alone(denoiser.embed))

    def stack(blocks: Sequence[Block], dense: bool = whole) -> Stack:
        return Stack(tuple(inner(alone(block.run)) for block in blocks), denoiser.attend, dense)

    leading = denoiser.blocks[: span.front]
    unread = denoiser.reads is not None and not span.back
    shorter = ending(leading) if unread else leading
    probe = denoiser.plan.probe
    of = probe.of if probing and probe is not None else None
    if of is not None and denoiser.own is not None:
        of = _OfShare(of, denoiser.own)
    seen = probe.seen if probing and probe is not None else None
    front = outer(Front(embed, stack(leading), denoiser.probe if probing and seen is None else None, of))
    back = Back(stack(denoiser.blocks[stop:], dense=False), inner(denoiser.head))
    verifies = skipping and probe is not None and probe.verify
    if verifies:
        back = Verifying(back.stack, back.head, denoiser.probe)
    pieces = Pieces(
        front=front,
        # Compiled it is one graph more, which has to leave out more than what the probe compares.
        brief=front if options and shorter == leading else outer(Front(embed, stack(shorter), None)),
        middle=outer(Middle(stack(denoiser.blocks[span.front : stop]), kept)),
        fill=compiled(options, Fill(kept)),
        back=outer(back),
        kept=kept,
        span=(span.front, stop),
        count=len(denoiser.blocks),
        probing=probing,
        rules=denoiser.plan.rules,
        probe=probe,
        agree=denoiser.agree,
        branching=denoiser.branching,
        compiled=options is not None,
        follows=probe is not None and probe.since == "last step",
        seen=seen,
        gains=seen is not None and probe is not None and probe.gain,
        verifies=verifies,
        parts=(),
        enters=denoiser.probe,
        depths=tuple(stream.predictor.history for stream in kept),
        keeps=_keeps(kept, (span.front, stop), denoiser.plan.probe or Probe(), probing),
    )
    if not (span.each and skipping):
        return pieces
    if denoiser.branching is not None:
        by = denoiser.plan.owners.get("span") or span
        raise ValueError(f"{by} decides block by block, and ranks that divide the branches decide once a step")
    return one_by_one(pieces, lambda i, kept: outer(Middle(stack(denoiser.blocks[i : i + 1]), kept)), span.keep)


def _keeps(kept: tuple[Kept, ...], span: tuple[int, int], probe: Probe, probing: bool) -> str:
    """Say what is remembered, and of which blocks: a state of another denoiser is known by it."""
    found = [
        f"{stream.predictor.history} {'outputs' if stream.whole else 'residuals'} of {stream.name!r} after blocks "
        f"{span[0]} to {span[1] - 1}"
        for stream in kept
    ]
    if probing:
        named = probe.of if probe.seen is None else probe.seen
        what = f"the residual of the first {span[0]}" if probe.fronted else f"what {named!r} returns"
        what += " and its gain" if probe.gain else ""
        found.append(f"{what} (importance {probe.importance}, every {probe.downsample}, since {probe.since})")
    if kept and probe.verify:
        found.append("what the back blocks added")
    return ", ".join(found) or "nothing"


def kept_names(denoiser: Denoiser) -> tuple[str, ...]:
    """Streams that something after the middle reads: back blocks read all, the head those it declares."""
    span = denoiser.plan.span or Span()
    read = denoiser.streams if span.back or denoiser.reads is None else denoiser.reads
    return tuple(name for name in denoiser.streams if name in read)


def predictor_of(denoiser: Denoiser, name: str) -> Predictor:
    """Return the predictor of one stream: the plan's where it applies, else `Hold`."""
    predictor = denoiser.plan.predictor
    if predictor is None:
        return Hold()
    wanted = predictor.streams
    if wanted is None:
        wanted = denoiser.streams if denoiser.reads is None else denoiser.reads
    return predictor if wanted == "all" or name in wanted else Hold()

"""What comes before and after the blocks of an adapted model, as pure functions.

Shapes: B samples, N tokens, D width.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch

from pure.attention import attend
from pure.block import Params
from pure.models.adapt.arguments import Arguments, outline_of
from pure.models.adapt.cut import Context, Form, Hidden, Moved, Registry, entry_link, hidden_of, link, streams_of
from pure.models.adapt.dispatch import check_dispatched, dispatching
from pure.models.adapt.forward import Forward, Prediction, prediction_of
from pure.models.adapt.search import BlockCut
from pure.models.adapt.tape import Tape
from pure.models.adapt.walk import Outline, Walk, read_or_run, symbolic
from pure.models.errors import CheckpointError
from pure.tree import Shared


@attrs.define(eq=False)
class _Symbols:
    """What blocks answer in a walk: symbols of the shapes that the streams have."""

    cut: BlockCut
    streams: list[torch.Tensor]
    twins: dict[Form, torch.Tensor] = attrs.field(factory=dict)

    def __call__(self, number: int, leaves: tuple, tape: Tape) -> Any:
        if not self.streams:
            self.streams = [leaves[place] for place in self.cut.places]
        return self.cut.returned(number, lambda form: tape.symbol(self._twin(form)))

    def _twin(self, form: Form) -> torch.Tensor:
        if form not in self.twins:
            self.twins[form] = form.join([torch.empty_like(stream, device="meta") for stream in self.streams])
        return self.twins[form]


@attrs.frozen
class Samples:
    """Where the samples of a batch are, as `adapt` found.

    Attributes:
        streams: for each stream the dimension that is the sample.
        constants: for each constant the same, or None where all samples share it; None: samples
            cannot be told apart.
    """

    streams: tuple[int, ...] = (0, 0, 0)
    constants: tuple[int | None, ...] | None = None

    def hidden(self, streams: Sequence[torch.Tensor], batch: int) -> Hidden:
        """Return the record of the streams.

        Raises:
            CheckpointError: a stream has no sample dimension.
        """
        for stream, dim in zip(streams, self.streams, strict=False):
            if stream.shape[dim] != batch:
                raise CheckpointError(
                    f"a stream of shape {tuple(stream.shape)} has no dimension for the {batch} sample(s) of the latents"
                )
        return hidden_of(streams, self.streams)

    def placed(self, tensors: Sequence[torch.Tensor], batch: int) -> tuple[torch.Tensor | Moved | Shared, ...]:
        """Return constants with the sample first where they belong to samples, else as `Shared`.

        Raises:
            CheckpointError: there are several samples and they cannot be told apart.
        """
        if self.constants is None and batch > 1:
            raise CheckpointError(
                f"in what the blocks are given, {batch} samples cannot be told apart; run one sample at a time, or "
                "adapt the model with an example of this batch to learn why"
            )
        dims = self.constants or (None,) * len(tensors)
        return tuple(_placed(tensor, dim, batch) for tensor, dim in zip(tensors, dims, strict=True))


def _placed(tensor: torch.Tensor, dim: int | None, batch: int) -> torch.Tensor | Moved | Shared:
    if dim is None:
        return Shared(value=tensor)
    if tensor.shape[dim] != batch:
        raise CheckpointError(f"a block is given a tensor with {tensor.shape[dim]} rows for {batch} samples")
    return Moved(rows=tensor.movedim(dim, 0), dim=dim) if dim else tensor


@attrs.frozen(eq=False)
class Embed:
    """What runs before the first block; and, where blocks have constants of their own, what lies between them."""

    stays_eager: ClassVar[bool] = True  # it stops the model's forward half-way
    model: Outline
    forward: Forward
    cut: BlockCut
    samples: Samples
    shape: tuple
    times: tuple[int, ...] = ()  # sizes of the timestep after the sample, where it has several dimensions
    attend: Callable = attend

    def __call__(
        self, params: Params, prepared: Arguments, latents: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[Hidden, Context]:
        """Return the streams before the first block, and what blocks and head read.

        Raises:
            CheckpointError: with these arguments the model does something else between its
                blocks than with those it was adapted to; or its attention cannot be chosen.
        """
        if outline_of(prepared) != self.shape:
            raise CheckpointError(changed(type(self.model.module).__name__, "is called with other arguments"))
        if timestep.ndim == 1 and self.times:  # `init` gives one number per sample, only for the shapes
            timestep = timestep.view(-1, *(1 for _ in self.times)).expand(-1, *self.times)
        kwargs = self.forward.arguments(prepared, latents, timestep)
        check_dispatched(self.model.module, self.attend)
        with dispatching(self.attend):
            walk, streams, constants = self.walk(params, kwargs, latents.device)
        placed = self.samples.placed(constants, latents.shape[0])
        replay = Shared(value=walk.journal.replayable())
        hidden = self.samples.hidden(streams, latents.shape[0])
        return hidden, Context(constants=placed, replay=replay, arguments=Shared(value=kwargs))

    def walk(
        self, params: Params, kwargs: Mapping[str, Any], device: torch.device
    ) -> tuple[Walk, list[torch.Tensor], list[torch.Tensor]]:
        """Walk as far as blocks have constants of their own; return the walk, the streams and the constants."""
        cut = self.cut
        walk = Walk(_Symbols(cut, []), cut.last, Tape(device)).go(self.model, params, kwargs)
        registry = Registry()
        links = [entry_link(walk.visits[0], cut.places, registry)]
        links += [link(visit, before, walk.tape, registry) for before, visit in itertools.pairwise(walk.visits)]
        for found, wiring, name in zip(links, cut.wirings, cut.blocks, strict=False):
            if found != wiring.link:
                raise CheckpointError(changed(type(self.model.module).__name__, f"does something else before {name}"))
        return walk, [walk.visits[0].leaves[place] for place in cut.places], registry.tensors


@attrs.frozen(eq=False)
class Head:
    """What runs after the last block."""

    stays_eager: ClassVar[bool] = True
    model: Outline
    forward: Forward
    cut: BlockCut
    attend: Callable = attend

    def __call__(self, params: Params, hidden: Hidden, context: Context) -> Prediction:
        """Return the prediction (B, ...), several of them from a model that makes several things.

        Raises:
            CheckpointError: it reads what a block before the last one returned; or the model does
                something else between its blocks than when it was adapted.
        """
        cut, streams, name = self.cut, streams_of(hidden), type(self.model.module).__name__
        symbols, tape, called, glue = _Symbols(cut, streams), Tape(streams[0].device), [], []

        def arrive(number: int, /, *args: Any, **kwargs: Any) -> Any:
            """Answer with symbols, and for the last block with the streams."""
            called.append(number)
            if not cut.wirings[number].link.takes(args, kwargs):
                raise CheckpointError(changed(name, f"does something else before {cut.blocks[number]}"))
            if number < len(cut.blocks) - 1:
                return symbols(number, (), tape)
            glue[:] = tape.ops
            return cut.returned(number, lambda form: form.join(streams))

        around = functools.partial(read_or_run, iter(context.replay.value))
        with dispatching(self.attend):
            raw = self.model.run(params, context.arguments.value, arrive, around)
        prediction = prediction_of(raw, self.forward.several)
        if called != list(range(len(cut.blocks))) or tuple(glue) != cut.glue:
            raise CheckpointError(changed(name, "does something else between its blocks"))
        if symbolic(prediction):
            raise CheckpointError(f"what {name} returns depends on the output of blocks before the last one")
        return prediction


def changed(model: str, what: str) -> str:
    """Return what has changed since a model was adapted, and the cure, as a sentence."""
    return (
        f"{model} {what} than when it was adapted; adapt it with arguments like these "
        "(of the same shapes, the same ones left out)"
    )

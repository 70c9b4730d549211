"""Any diffusers transformer as a denoiser: its own modules, called as pure functions of their parameters.

`adapt` runs the model once, watches in which order the entries of its lists of modules are
called, and cuts it at the longest run of blocks that pass on nothing but streams. What lies
before, between and after them runs as the model's own forward says, on a copy of its
structure; the model itself is never written.

Shapes: B samples, N tokens, D width.
"""

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import attrs
import torch

from pure.attention import attend
from pure.block import Block
from pure.denoiser import Denoiser
from pure.models.adapt.arguments import Arguments, outline_of, pack
from pure.models.adapt.cut import STREAMS, BlockRun, Hidden, alike, hidden_of, streams_of, tensor_of
from pure.models.adapt.pieces import Embed, Forward, Head, Prediction, Samples, prediction_of
from pure.models.adapt.search import Cut, discover, search
from pure.models.adapt.structure import Template, check_unpatched, parameters
from pure.models.adapt.tape import Untraceable
from pure.models.adapt.walk import outline
from pure.models.errors import CheckpointError
from pure.tree import take

Params = Mapping[str, torch.Tensor]
TIMES = ("timestep", "timesteps", "t", "time")


@attrs.frozen(eq=False)
class Request:
    """The arguments of one call of a forward, sorted."""

    latents: torch.Tensor  # (B, ...)
    timestep: torch.Tensor  # () or (B, ...)
    conditioning: Arguments


@attrs.frozen(eq=False, repr=False)
class Adapted:
    """A model as a denoiser.

    Attributes:
        denoiser: `conditioning` is what `request` gives; `attend` is not used, the blocks
            attend in their own way.
        params: the model's own parameters and buffers, not copied.
        forward: how the model is called.
        cut: its blocks.
        shared: names of arguments that all samples share, whatever their shapes.
        second: names of arguments whose second dimension is the sample.
    """

    denoiser: Denoiser
    params: Params
    forward: Forward
    cut: Cut
    shared: frozenset[str] = frozenset()
    second: frozenset[str] = frozenset()

    def request(self, kwargs: Mapping[str, Any]) -> Request:
        """Sort the keyword arguments of one call of the model's forward.

        Raises:
            CheckpointError: an argument cannot be part of a state, or samples differ in what they must share.
        """
        return sorted_request(kwargs, self.forward, self.shared, self.second)

    def __repr__(self) -> str:
        """Say where the model is cut."""
        first, last = self.cut.blocks[0], self.cut.blocks[-1]
        more = f"; then not, because {self.cut.why}" if self.cut.why else ""
        return f"Adapted({len(self.cut.blocks)} blocks, {first} to {last}, streams {', '.join(self.cut.streams)}{more})"


def adapt(
    module: torch.nn.Module,
    *,
    example: Mapping[str, Any],
    latents: str | None = None,
    timestep: str | None = None,
    shared: Collection[str] = (),
    check: int = 2,
    several: bool = False,
) -> Adapted:
    """Make a denoiser of a transformer and one example of how it is called.

    Args:
        module: a transformer whose forward calls its blocks one after another; in eval mode.
        example: keyword arguments of one call of its forward. The denoiser is for calls like it:
            other values, other batches, other sizes where nothing between the blocks depends on
            them. With two or more samples what belongs to which is compared by running.
        latents: name of the argument to denoise; None: the first of the forward.
        timestep: name of the timestep; None: one of timestep, timesteps, t and time.
        shared: names of arguments that all samples share though their first dimension is the batch.
        check: on how many inputs the pieces are run and compared with the model, bit for bit: 2
            are the example and random latents of its shape, 1 is the example, 0 compares nothing.
        several: whether the model may return several tensors, which are then one prediction, a tuple.

    Raises:
        CheckpointError: it cannot be cut, or the pieces are not the model; with the reason.
    """
    check_unpatched(module)
    forward = attrs.evolve(forward_of(module, example, latents, timestep), several=several)
    _check_scale(module, example)
    request = sorted_request(example, forward, shared)
    kwargs = forward.arguments(request.conditioning, request.latents, _times(request))
    with torch.no_grad():
        calls, raw = discover(module, kwargs)
        cut = search(module, kwargs, calls, request.latents.device)
        adapted = Adapted(_denoiser(module, forward, cut, request), parameters(module), forward, cut, frozenset(shared))
        adapted = _separated(module, adapted, example)
        adapted = attrs.evolve(adapted, denoiser=attrs.evolve(adapted.denoiser, reads=_reads(adapted, request)))
        if check > 0:
            _compare(module, adapted, request, prediction_of(raw, several))
        if check > 1:
            noise = torch.randn(request.latents.shape, generator=torch.Generator().manual_seed(0))
            other = attrs.evolve(request, latents=noise.to(request.latents))
            kwargs = forward.arguments(other.conditioning, other.latents, _times(other))
            _compare(module, adapted, other, prediction_of(module(**kwargs), several))
    return adapted


def forward_of(
    module: torch.nn.Module, example: Mapping[str, Any], latents: str | None = None, timestep: str | None = None
) -> Forward:
    """Find out how a module is called; the arguments are those of `adapt`.

    Raises:
        CheckpointError: the example has no latents or no timestep.
    """
    known = inspect.signature(type(module).forward).parameters
    names = [name for name in known if name != "self"]
    latents = latents or names[0]
    timestep = timestep or next((name for name in TIMES if name in names), None)
    missing = [name for name in (latents, timestep) if name is None or name not in example]
    if missing:
        raise CheckpointError(
            f"the example for {type(module).__name__} has no {' and no '.join(map(str, missing))}; it has "
            f"{sorted(example)} (say with latents= and timestep= which arguments these are)"
        )
    assert timestep is not None
    plain = (("return_dict", False),) if "return_dict" in names else ()
    return Forward(latents, timestep, isinstance(example[latents], list | tuple), plain)


def _check_scale(module: torch.nn.Module, example: Mapping[str, Any]) -> None:
    """Refuse a LoRA weight for one call: forwards set it for as long as they run, and blocks run apart from them."""
    for name, value in example.items():
        scale = value.get("scale", 1.0) if isinstance(value, Mapping) else 1.0
        if scale != 1.0 and any(hasattr(child, "scale_layer") for child in module.modules()):
            raise CheckpointError(
                f"{name} has a LoRA scale of {scale}, which would not reach the blocks; set it beforehand: "
                "pipe.set_adapters(names, adapter_weights)"
            )


def sorted_request(
    kwargs: Mapping[str, Any], forward: Forward, shared: Collection[str] = (), second: Collection[str] = ()
) -> Request:
    """Sort the keyword arguments of a call; see `Adapted.request`."""
    others = {key: value for key, value in kwargs.items() if key not in (forward.latents, forward.timestep)}
    others = {key: value for key, value in others.items() if key not in dict(forward.plain)}
    latents, timestep = kwargs[forward.latents], kwargs[forward.timestep]
    if forward.listed:
        if len({(tuple(each.shape), each.dtype) for each in latents}) != 1:
            raise CheckpointError(f"the tensors of {forward.latents} differ in shape; run samples of each size apart")
        latents = torch.stack(list(latents))
    if not isinstance(timestep, torch.Tensor):
        timestep = torch.tensor(timestep, device=latents.device)
    return Request(latents, timestep, pack(others, latents.shape[0], shared, second))


def _times(request: Request) -> torch.Tensor:
    """Return the timestep of every sample, as a step gives it."""
    return request.timestep.expand(request.latents.shape[0]) if request.timestep.ndim == 0 else request.timestep


def _denoiser(module: torch.nn.Module, forward: Forward, cut: Cut, request: Request) -> Denoiser:
    model = outline(module, cut.blocks, list(parameters(module)))
    blocks = tuple(
        Block(BlockRun(Template(module.get_submodule(name)), alike(wiring)), f"{name}.")
        for name, wiring in zip(cut.blocks, cut.wirings, strict=True)
    )
    return Denoiser(
        prepare=as_it_is,
        embed=Embed(model, forward, cut, Samples(), outline_of(request.conditioning)),
        blocks=blocks,
        head=Head(model, forward, cut),
        attend=attend,
        probe=first_stream,
        streams=STREAMS[: len(cut.streams)],
    )


def as_it_is(params: Params, conditioning: Arguments) -> Arguments:
    """Return the conditioning: what of it depends on the step only the model's forward knows."""
    return conditioning


def first_stream(hidden: Hidden) -> torch.Tensor:
    """Return the stream whose change is measured, laid out row after row as the state keeps it."""
    # A model's first tokens are often a transposed view, and its blocks' outputs are not; of one
    # sample `contiguous` leaves the stride of the batch as it was, and the views set it.
    return hidden.image.contiguous().view(-1).view(hidden.image.shape)


def _separated(module: torch.nn.Module, adapted: Adapted, example: Mapping[str, Any]) -> Adapted:
    """Find out where the samples are in streams and constants, and which arguments have them second.

    Raises:
        CheckpointError: something is neither shared nor one row per sample, in a batch of several.
    """
    batch, reasons = len(example[adapted.forward.latents]), []
    for second in dict.fromkeys((frozenset(), _seconds(adapted, example, batch))):
        tried = attrs.evolve(adapted, second=second)
        try:
            samples = _samples(tried, tried.request(example), batch)
        except (CheckpointError, Untraceable, RuntimeError, ValueError, IndexError) as error:
            reasons.append(error)
            continue
        embed = attrs.evolve(adapted.denoiser.embed, samples=samples)
        return attrs.evolve(tried, denoiser=attrs.evolve(adapted.denoiser, embed=embed))
    if batch == 1:
        return adapted  # there is nothing to tell apart
    raise CheckpointError(
        f"the samples of a batch of {type(module).__name__} cannot be told apart ({reasons[0]}); run one sample at "
        "a time, or name the arguments that all samples share (shared=...)"
    ) from reasons[0]


def _seconds(adapted: Adapted, example: Mapping[str, Any], batch: int) -> frozenset[str]:
    others = example.keys() - adapted.shared - {adapted.forward.latents, adapted.forward.timestep}
    tensors = {name: example[name] for name in others if isinstance(example[name], torch.Tensor)}
    return frozenset(n for n, t in tensors.items() if t.ndim > 2 and t.shape[1] == batch != t.shape[0])


def _samples(adapted: Adapted, request: Request, batch: int) -> Samples:
    """Say where the samples are: what grows when there is one sample more (the first one again).

    Raises:
        CheckpointError: a stream has no sample dimension, or a constant is neither shared nor one row per sample.
    """
    more = torch.tensor([*range(batch), 0])
    times = take(request.timestep, more) if request.timestep.ndim else request.timestep
    larger = Request(take(request.latents, more), times, take(request.conditioning, more))
    before, after = _walked(adapted, request), _walked(adapted, larger)
    streams = [_sample_dim(a, b, more) for a, b in zip(before[0], after[0], strict=True)]
    if None in streams:
        raise CheckpointError("a stream has no sample dimension")
    constants = tuple(_sample_dim(a, b, more) for a, b in zip(before[1], after[1], strict=True))
    return Samples(tuple(dim for dim in streams if dim is not None), constants)


def _walked(adapted: Adapted, request: Request) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    kwargs = adapted.forward.arguments(request.conditioning, request.latents, _times(request))
    embed = adapted.denoiser.embed
    assert isinstance(embed, Embed)
    _, streams, constants = embed.walk(adapted.params, kwargs, request.latents.device)
    return streams, constants


def _sample_dim(before: torch.Tensor, after: torch.Tensor, more: torch.Tensor) -> int | None:
    """Return which dimension is the sample; None if the tensor is the same for all.

    Raises:
        CheckpointError: none is, and it is not the same.
    """
    if _agree(before, after):
        return None
    for dim, (size, larger) in enumerate(zip(before.shape, after.shape, strict=False)):
        if size == len(more) - 1 and larger == len(more) and _agree(before.index_select(dim, more), after):
            return dim
    raise CheckpointError(
        f"a block is given a tensor of shape {tuple(before.shape)} for {len(more) - 1} and of shape "
        f"{tuple(after.shape)} for {len(more)} samples, or the samples of a batch influence each other"
    )


def _agree(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether tensors are the same but for the rounding of a batch of another size."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not (a.is_floating_point() or a.is_complex()):
        return torch.equal(a, b)
    coarse = 1e-3 if torch.finfo(a.dtype).bits > 16 else 5e-2
    scale = float(b.abs().nan_to_num(posinf=0.0, neginf=0.0).max()) if b.numel() else 0.0
    return torch.allclose(a, b, rtol=0.0, atol=coarse * (scale + 1e-6), equal_nan=True)


def _reads(adapted: Adapted, request: Request) -> tuple[str, ...]:
    """Find out which streams the head reads: those whose loss it notices."""
    denoiser, params = adapted.denoiser, adapted.params
    hidden, context = denoiser.embed(params, request.conditioning, request.latents, _times(request))
    whole, streams = denoiser.head(params, hidden, context), streams_of(hidden)
    found = []
    for number, name in enumerate(denoiser.streams):
        lost = [torch.full_like(s, torch.nan) if number == other else s for other, s in enumerate(streams)]
        found_now = denoiser.head(params, hidden_of(lost, hidden.dims), context)
        if not all(torch.equal(a, b) for a, b in zip(_all(found_now), _all(whole), strict=True)):
            found.append(name)
    return tuple(found)


def _all(prediction: Prediction) -> tuple[torch.Tensor, ...]:
    return prediction if isinstance(prediction, tuple) else (prediction,)


def _compare(module: torch.nn.Module, adapted: Adapted, request: Request, expected: Prediction) -> None:
    predictions, blocks = _all(in_pieces(adapted, request)), adapted.cut.blocks
    start = f"{type(module).__name__} cut at {blocks[0]} to {blocks[-1]} is not the model: "
    for found, wanted in zip(predictions, _all(expected), strict=True):
        if torch.equal(found, wanted) or _equal_with_nan(found, wanted):
            continue
        if not torch.equal(found.isfinite(), wanted.isfinite()):
            raise CheckpointError(
                f"{start}predictions are not finite (NaN or infinity) in different places, "
                f"{int((~found.isfinite()).sum())} and {int((~wanted.isfinite()).sum())} of {found.numel()} numbers; "
                "in float16 numbers above 65504 overflow: load the model in torch.bfloat16"
            )
        raise CheckpointError(
            f"{start}predictions differ by up to {float((found - wanted).nan_to_num().abs().max()):.3g}; is it in "
            "training mode, or does it keep something from call to call?"
        )


def _equal_with_nan(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether numbers are the same bit for bit, NaN being equal to NaN."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    return bool(((found == expected) | (found.isnan() & expected.isnan())).all())


def in_pieces(adapted: Adapted, request: Request) -> Prediction:
    """Return the prediction of one call, taken through the pieces.

    Raises:
        CheckpointError: a block writes into its arguments.
    """
    denoiser, params = adapted.denoiser, adapted.params
    hidden, context = denoiser.embed(params, request.conditioning, request.latents, _times(request))
    for name, block, group in zip(adapted.cut.blocks, denoiser.blocks, denoiser.bind(params).blocks, strict=True):
        watched = [leaf for leaf in [*streams_of(hidden), *_tensors(context)] if not leaf.is_inference()]
        versions = [leaf._version for leaf in watched]
        hidden = block.run(group, hidden, context, denoiser.attend)
        if versions != [leaf._version for leaf in watched]:
            raise CheckpointError(f"{name} writes into its arguments, so that a step could not be taken again")
    return denoiser.head(params, hidden, context)


def _tensors(context: Any) -> list[torch.Tensor]:
    return [tensor_of(leaf) for leaf in context.constants]

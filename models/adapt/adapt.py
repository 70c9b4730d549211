"""Any diffusers transformer as a denoiser: its own modules, called as pure functions of their parameters.

`adapt` runs the model once, watches in which order the entries of its lists of modules are
called, and cuts it at the longest run of blocks that pass on nothing but streams. What lies
before, between and after them runs as the model's own forward says, on a copy of its
structure; the model itself is never written.

Shapes: B samples, N tokens, D width.
"""

from collections.abc import Collection, Mapping
from typing import Any

import attrs
import torch

from pure.attention import attend
from pure.block import Block, Params
from pure.denoiser import Denoiser
from pure.models.adapt.arguments import outline_of
from pure.models.adapt.cut import STREAMS, BlockRun, Hidden, alike, hidden_of, streams_of, tensor_of
from pure.models.adapt.forward import Forward, ForwardCall, Prediction, forward_of, prediction_of
from pure.models.adapt.pieces import Embed, Head, Samples
from pure.models.adapt.samples import find_samples
from pure.models.adapt.search import BlockCut, discover, search
from pure.models.adapt.structure import ModuleFunction, check_unpatched, parameters
from pure.models.adapt.tape import Untraceable
from pure.models.adapt.walk import outline
from pure.models.adapt.whole import as_it_is
from pure.models.errors import CheckpointError

SEED = 20_011
"""Of the latents of the second comparison: none that an example is likely to be drawn with."""


@attrs.frozen(eq=False, repr=False)
class Adapted:
    """A model as a denoiser.

    Attributes:
        denoiser: `conditioning` is what `request` gives; the blocks attend in their own way, and another `attend`
            (`pure.transforms.attention`) names the kernel that diffusers' dispatcher calls for them.
        params: the model's own parameters and buffers, not copied.
        forward: how the model is called.
        cut: its blocks.
    """

    denoiser: Denoiser
    params: Params
    forward: Forward
    cut: BlockCut

    def request(self, kwargs: Mapping[str, Any]) -> ForwardCall:
        """Sort the keyword arguments of one call of the model's forward.

        Raises:
            CheckpointError: an argument cannot be part of a state, or samples differ in what they must share.
        """
        return self.forward.sorted(kwargs)

    def __repr__(self) -> str:
        """Show where the model is cut."""
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
        example: keyword arguments of one call of its forward. The denoiser takes calls like it: other
            values, batches of other sizes, and other sizes where nothing between the blocks depends on
            them. With two or more samples, which rows belong to which is checked by running the model.
        latents: name of the argument to denoise; None: the first of the forward.
        timestep: name of the timestep; None: one of timestep, timesteps, t and time.
        shared: names of arguments that all samples share though their first dimension is the batch.
        check: on how many inputs the pieces are compared with the model, bit for bit: 2 are the example
            and random latents of its shape, 1 is the example, 0 compares nothing.
        several: whether the model may return several tensors, which are then one prediction: a tuple.

    Raises:
        CheckpointError: it cannot be cut, or the pieces are not the model; with the reason.
    """
    check_unpatched(module)
    forward = forward_of(module, example, latents, timestep)
    forward = attrs.evolve(forward, several=several, shared=frozenset(shared))
    _check_scale(module, example)
    request = forward.sorted(example)
    kwargs = forward.unsorted(request)
    with torch.no_grad():
        calls, raw = discover(module, kwargs)
        forward = attrs.evolve(forward, bare=isinstance(raw, torch.Tensor))
        expected, first = prediction_of(raw, several), None
        for cut in search(module, kwargs, calls, request.latents.device):
            try:
                adapted = _adapted(module, forward, cut, example)
                if check > 0:
                    _compare(module, adapted, adapted.request(example), expected)
            except (CheckpointError, Untraceable, KeyError) as error:  # a shorter run of other blocks may do
                first = first or error
                continue
            if check > 1:
                _compare_other(module, adapted, adapted.request(example))
            return adapted
    assert first is not None  # search returns at least one
    raise first if isinstance(first, CheckpointError) else CheckpointError(str(first)) from first


def _adapted(module: torch.nn.Module, forward: Forward, cut: BlockCut, example: Mapping[str, Any]) -> Adapted:
    """Return the model with one choice of blocks.

    Raises:
        CheckpointError: the samples of a batch cannot be told apart, or the head reads more than the streams.
    """
    denoiser, params = _denoiser(module, forward, cut, forward.sorted(example)), _values(module)
    embed = denoiser.embed
    assert isinstance(embed, Embed)
    embed = find_samples(embed, params, example)
    request = embed.forward.sorted(example)
    denoiser = attrs.evolve(denoiser, embed=attrs.evolve(embed, shape=outline_of(request.conditioning)))
    adapted = Adapted(denoiser, params, embed.forward, cut)
    return attrs.evolve(adapted, denoiser=attrs.evolve(denoiser, reads=_reads(adapted, request)))


def _compare_other(module: torch.nn.Module, adapted: Adapted, request: ForwardCall) -> None:
    """Compare the pieces with the model on random latents."""
    noise = torch.randn(request.latents.shape, generator=torch.Generator().manual_seed(SEED))
    other, forward = attrs.evolve(request, latents=noise.to(request.latents)), adapted.forward
    _compare(module, adapted, other, prediction_of(module(**forward.unsorted(other)), forward.several))


def _check_scale(module: torch.nn.Module, example: Mapping[str, Any]) -> None:
    """Refuse a LoRA weight for one call: forwards set it for as long as they run, and blocks run apart from them."""
    for name, value in example.items():
        scale = value.get("scale", 1.0) if isinstance(value, Mapping) else 1.0
        if scale != 1.0 and any(hasattr(child, "scale_layer") for child in module.modules()):
            raise CheckpointError(
                f"{name} has a LoRA scale of {scale}, which would not reach the blocks; set it beforehand: "
                "pipe.set_adapters(names, adapter_weights)"
            )


def _values(module: torch.nn.Module) -> Params:
    """Return the parameters as values that ask for no gradients, as a loaded checkpoint's are."""
    return {name: leaf.detach() if leaf.requires_grad else leaf for name, leaf in parameters(module).items()}


def _denoiser(module: torch.nn.Module, forward: Forward, cut: BlockCut, request: ForwardCall) -> Denoiser:
    model = outline(module, cut.blocks, list(parameters(module)))
    blocks = tuple(
        Block(BlockRun(ModuleFunction(module.get_submodule(name)), alike(wiring)), f"{name}.")
        for name, wiring in zip(cut.blocks, cut.wirings, strict=True)
    )
    return Denoiser(
        prepare=as_it_is,
        embed=Embed(model, forward, cut, Samples(), outline_of(request.conditioning), request.times.shape[1:]),
        blocks=blocks,
        head=Head(model, forward, cut),  # type: ignore[arg-type]  # a tuple where the model makes several things
        attend=attend,
        probe=first_stream,
        streams=STREAMS[: len(cut.streams)],
    )


def first_stream(hidden: Hidden) -> torch.Tensor:
    """Return the stream whose change is measured, laid out row after row as the state keeps it."""
    # A model's first tokens are often a transposed view, and its blocks' outputs are not; of one
    # sample `contiguous` leaves the stride of the batch as it was, and the views set it.
    return hidden.image.contiguous().view(-1).view(hidden.image.shape)


def _reads(adapted: Adapted, request: ForwardCall) -> tuple[str, ...]:
    """Find out which streams the head reads: those whose loss it notices."""
    denoiser, params = adapted.denoiser, adapted.params
    hidden, context = denoiser.embed(params, request.conditioning, request.latents, request.times)
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


def _compare(module: torch.nn.Module, adapted: Adapted, request: ForwardCall, expected: Prediction) -> None:
    predictions, blocks = _all(in_pieces(adapted, request)), adapted.cut.blocks
    start = f"{type(module).__name__} cut at {blocks[0]} to {blocks[-1]} is not the model: "
    for found, wanted in zip(predictions, _all(expected), strict=True):
        if (found.shape, found.dtype) == (wanted.shape, wanted.dtype) and torch.allclose(
            found, wanted, rtol=0.0, atol=0.0, equal_nan=True
        ):
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


def in_pieces(adapted: Adapted, request: ForwardCall) -> Prediction:
    """Return the prediction of one call, taken through the pieces.

    Raises:
        CheckpointError: a block writes into its arguments.
    """
    denoiser, params = adapted.denoiser, adapted.params
    hidden, context = denoiser.embed(params, request.conditioning, request.latents, request.times)
    for name, block, group in zip(adapted.cut.blocks, denoiser.blocks, denoiser.bind(params).blocks, strict=True):
        leaves = [*streams_of(hidden), *map(tensor_of, context.constants)]
        watched = [leaf for leaf in leaves if not leaf.is_inference()]
        versions = [leaf._version for leaf in watched]
        hidden = block.run(group, hidden, context, denoiser.attend)
        if versions != [leaf._version for leaf in watched]:
            raise CheckpointError(f"{name} writes into its arguments, so that a step could not be taken again")
    return denoiser.head(params, hidden, context)

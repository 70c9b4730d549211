"""A loaded checkpoint, and what is made with it: from an order to a recipe, with everything checked before any work."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from pure.configs import Effective, Parallel, attend_by
from pure.engine.caching import Caching, transforms_of
from pure.engine.checkpoint import Checkpoint, Waiting
from pure.engine.errors import Misuse
from pure.engine.quantizing import Say, quantizer
from pure.engine.ranks import place, share
from pure.engine.sample import Sample
from pure.engine.tuned import differences
from pure.engine.weights import ComponentWeights, share_modules, weigh, weigh_whole
from pure.experts import transformed
from pure.models.pipeline import AnyDenoiser, Pipeline
from pure.models.request import Request
from pure.notes import Note
from pure.transforms import compiled

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

OPTIONS = {
    "num_inference_steps": "steps",
    "num_frames": "frames",
    "width": "width",
    "height": "height",
    "guidance_scale": "guidance_scale",
    "guidance_scale_2": "guidance_scale_2",
    "true_cfg_scale": "true_cfg_scale",
    "max_sequence_length": "max_sequence_length",
}
"""What flags and fields of requests call the options of `pipeline.request`."""

__all__ = ["OPTIONS", "Engine", "Order", "Recipe", "alike", "open_engine"]


@attrs.frozen(kw_only=True)
class Order:
    """What to make, read from flags or from the fields of a request, not yet checked against the model.

    Attributes:
        negative_prompt: what to avoid; None: the checkpoint's default.
        options: of `pipeline.request`, by its names; those that are not given are left out.
        notes: on the input pictures.
        seconds: length of a video whose frames are not given.
        fps: frames per second; None: the checkpoint's default.
    """

    negative_prompt: str | None = None
    options: Mapping[str, Any] = attrs.field(factory=dict)
    notes: tuple[Note, ...] = ()
    seconds: float | None = None
    fps: int | None = None


@attrs.frozen(kw_only=True, eq=False)
class Recipe:
    """How images or videos are made, but for their prompts and seeds.

    Attributes:
        order: what it was made of, with `caching`.
        request: of one sample, with an empty prompt.
        denoiser: guided and cached.
        plain: guided like it, without the cache.
        caching: the cache and where its settings come from.
        fps: frames per second; None for images.
        notes: settings without effect, and what was left out of input pictures.
        idle: those of them that are on the cache.
    """

    order: Order
    request: Request
    denoiser: AnyDenoiser
    plain: AnyDenoiser
    caching: Caching
    fps: int | None
    notes: tuple[Note, ...]
    idle: tuple[Note, ...]

    @property
    def uncached(self) -> Recipe:
        """The same without the cache."""
        return attrs.evolve(self, denoiser=self.plain)

    def batch(self, samples: Sequence[Sample]) -> Request:
        """Return the request of a batch of samples."""
        return self.of([sample.prompt for sample in samples])

    def of(self, prompts: Sequence[str]) -> Request:
        """Return the request with these prompts."""
        negative = self.request.negative_prompts
        negatives = None if negative is None else negative[:1] * len(prompts)
        return attrs.evolve(self.request, prompts=tuple(prompts), negative_prompts=negatives)


def alike(one: Recipe, other: Recipe) -> bool:
    """Whether samples of both can be in one batch."""
    if one is other:
        return True
    if one.request.images or other.request.images or one.request != other.request:
        return False  # pictures belong to all samples of a batch: only those of one request share them
    return one.denoiser == other.denoiser


@attrs.frozen(kw_only=True, eq=False)
class Engine:
    """A loaded checkpoint, in one process or this rank's share of it; nothing in it ever changes.

    Attributes:
        checkpoint: where it is from.
        pipeline: what was loaded.
        base: its denoiser, compiled where that is set; neither guided nor cached.
        weights: of this process, where several share them.
        together: whether all processes encode and decode pictures together.
    """

    checkpoint: Checkpoint
    pipeline: Pipeline
    base: AnyDenoiser
    weights: tuple[ComponentWeights, ...] = ()
    together: bool = False

    def recipe(self, order: Order, caching: Caching) -> Recipe:
        """Check an order against the model, and return how it is carried out.

        Raises:
            Misuse: something in it is wrong or cannot be done.
        """
        self.checkpoint.check_pictures(len(order.options.get("images", ())))
        self.checkpoint.check_expert_scale(order.options.get("guidance_scale_2"), "guidance_scale_2")
        try:
            base = transformed(self.base, attend_by(caching.effective))
            plain, request = self.pipeline.guide(base, self._sized(order))
            denoiser = transformed(plain, transforms_of(caching, plain))
            idle = denoiser.notes(self.pipeline.schedule(request))
            idle = (*idle, *differences(caching.effective.tuned, self.pipeline, plain, request))
        except (ValueError, TypeError, OverflowError) as error:
            raise Misuse(str(error)) from error
        return Recipe(
            order=order,
            request=request,
            denoiser=denoiser,
            plain=plain,
            caching=caching,
            fps=self.checkpoint.fps(order.fps),
            notes=tuple(dict.fromkeys((*caching.notes, *order.notes, *request.notes, *idle))),
            idle=idle,
        )

    def resized(self, recipe: Recipe, height: int, width: int) -> Recipe:
        """Return a recipe for another size.

        Raises:
            Misuse: the size is not possible.
        """
        try:
            request = self.pipeline.sized(attrs.evolve(recipe.request, height=height, width=width))
        except ValueError as error:
            raise Misuse(str(error)) from error
        options = {**recipe.order.options, "height": height, "width": width}
        return attrs.evolve(recipe, request=request, order=attrs.evolve(recipe.order, options=options))

    def _sized(self, order: Order) -> Request:
        """Return the request with sizes; seconds become the nearest number of frames that is possible and not more."""
        options: dict[str, Any] = dict(order.options)
        if order.seconds is None or "frames" in options:
            return self.pipeline.request("", order.negative_prompt, **options)
        wanted = max(round(order.seconds * (order.fps or self.checkpoint.found.defaults.fps)), 1)
        for frames in range(wanted, max(wanted - 64, 0), -1):
            options["frames"] = frames
            try:
                return self.pipeline.request("", order.negative_prompt, **options)
            except ValueError:
                continue
        options["frames"] = wanted  # nothing near it is possible: let the error say why
        return self.pipeline.request("", order.negative_prompt, **options)


def open_engine(
    checkpoint: Checkpoint,
    effective: Effective,
    say: Say,
    waiting: Waiting = contextlib.nullcontext,
    shares: Parallel | None = None,
    mesh: DeviceMesh | None = None,
) -> Engine:
    """Load a checkpoint, quantised as the configuration says; with a mesh this process's share of it.

    Args:
        checkpoint: what to load.
        effective: the configuration of all requests.
        say: prints a note.
        waiting: see `Checkpoint.load`.
        shares: how processes share the work, and
        mesh: these processes; None: one process.

    Raises:
        Misuse: it cannot be loaded, quantised or shared.
    """
    part = (0, 1) if mesh is None else (mesh.get_local_rank("tp"), mesh["tp"].size())
    extra = () if mesh is None or shares is None else shares.extra
    pipeline = checkpoint.load(waiting, part, place(mesh) if mesh is not None and "text_encoder" in extra else (0, 1))
    quantize = quantizer(effective, pipeline.denoiser, say)
    weights: tuple[ComponentWeights, ...] = ()
    try:
        if mesh is not None and shares is not None:
            loaded = weigh_whole(pipeline)
            pipeline = share_modules(share(pipeline, shares, mesh, quantize), extra, mesh, say)
            weights = tuple(ComponentWeights(name, size, loaded[name]) for name, size in weigh(pipeline).items())
        elif quantize is not None:
            pipeline = attrs.evolve(pipeline, params=quantize(pipeline.params))
        base = transformed(pipeline.denoiser, compiled()) if checkpoint.compiled else pipeline.denoiser
    except (ValueError, TypeError) as error:
        raise Misuse(str(error)) from error
    return Engine(checkpoint=checkpoint, pipeline=pipeline, base=base, weights=weights, together="vae" in extra)

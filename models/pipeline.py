"""A whole pipeline: prompt to conditioning, noise to latents, latents to pixels.

What families share is here; a family says how it encodes, shapes and decodes in the
methods marked abstract, which take a checked `Request`.

Shapes: B samples, F frames, H x W pixels; latents have the family's own shape (B, ...).
"""

import abc
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Unpack

import attrs
import torch
from PIL import Image

import pure
from pure import Branches, Denoiser, Experts, Guidance, Info, Note, Solver, Step
from pure.experts import Transforms, transformed
from pure.loop import Observer
from pure.models.request import Defaults, Options, Request, negatives, prompts
from pure.notes import warn
from pure.tree import map_samples

Model = Denoiser | Experts


@attrs.frozen(kw_only=True, eq=False)
class Generation:
    """What `Pipeline.generate` returns.

    Attributes:
        pixels: (B, 3, H, W) in 0 to 1; of videos (B, F, 3, H, W).
        latents: (B, ...), what they were decoded from.
        infos: for every step what was computed and skipped, and why.
        notes: what the run did not do although it was asked for.
    """

    pixels: torch.Tensor
    latents: torch.Tensor
    infos: tuple[Info, ...]
    notes: tuple[Note, ...] = ()


@attrs.frozen(kw_only=True, eq=False)
class Pipeline(abc.ABC):
    """Everything that makes images or videos from prompts; `load_pipeline` makes one from a checkpoint.

    Attributes:
        denoiser: the plain denoiser, or several experts; transforms of it take the same parameters.
        params: its parameters, under the checkpoint's names; of experts a dict of such.
        solver: turns predictions into the next latents.
        defaults: what happens where nothing is asked.
        cfg: the option that scales classifier-free guidance: "true_cfg_scale", "guidance_scale", or ""
            where there is none.
        image_count: the least and the largest number of input pictures.
    """

    denoiser: Model
    params: Mapping[str, Any] = attrs.field(repr=False)
    solver: Solver
    defaults: Defaults

    cfg: ClassVar[str] = "true_cfg_scale"
    image_count: ClassVar[tuple[int, int]] = (0, 0)

    # ------------------------------------------------------------------ what a family says

    @abc.abstractmethod
    def sized(self, request: Request) -> Request:
        """Return the request with height, width (0 if not given) and frames filled in.

        Raises:
            ValueError: a size is not possible.
        """

    @abc.abstractmethod
    def condition(self, request: Request, texts: Sequence[str], negative: bool) -> Any:
        """Return the conditioning of one branch, one row for each of `texts`.

        Raises:
            ValueError: a text cannot be read.
        """

    @abc.abstractmethod
    def shape(self, request: Request) -> tuple[int, ...]:
        """Return the shape of the noise of one sample, as diffusers draws it."""

    @abc.abstractmethod
    def decoded(self, latents: torch.Tensor, request: Request) -> torch.Tensor:
        """Decode latents (B, ...) to pixels (B, 3, H, W) or (B, F, 3, H, W) in 0 to 1."""

    def pack(self, noise: torch.Tensor) -> torch.Tensor:
        """Turn noise as it is drawn into latents as the denoiser takes them."""
        return noise

    def finished(self, latents: torch.Tensor, request: Request) -> torch.Tensor:
        """Return the latents of a run after its last step, as they are decoded."""
        return latents

    def tokens(self, request: Request) -> int:
        """Return the number of tokens that the schedule depends on."""
        return 1

    def guidance(self, request: Request) -> Guidance | Mapping[str, Guidance] | None:
        """Return classifier-free guidance as asked for; a scale of at most 1 is off."""
        scale = self.value(request, self.cfg) if self.cfg else None
        return Guidance(scale=float(scale)) if scale is not None and scale > 1 else None

    def steps(self, request: Request) -> tuple[Step, ...]:
        """Return the schedule, timesteps on the pipeline's device."""
        found = self.solver.schedule(request.steps, self.tokens(request), self.dtype)
        # Moved here once: in the loop every step would wait for the copy.
        return tuple(attrs.evolve(step, timestep=step.timestep.to(self.device)) for step in found)

    # ------------------------------------------------------------------ requests

    @property
    def dtype(self) -> torch.dtype:
        """Type of latents and embeddings: that of most parameters."""
        kinds = [tensor.dtype for tensor in self._first().values()]
        return max(set(kinds), key=kinds.count)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(self._first().values())).device

    def _first(self) -> Mapping[str, torch.Tensor]:
        return next(iter(self.params.values())) if isinstance(self.denoiser, Experts) else self.params

    def request(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> Request:
        """Check what is asked for, and fill in the checkpoint's defaults.

        Raises:
            TypeError: a prompt is not a string.
            ValueError: numbers of prompts do not agree, or a number is out of range.
        """
        texts = prompts(prompt)
        given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        usual = {name: getattr(self.defaults, name) for name in ("steps", "frames", "max_sequence_length")}
        for name in ("height", "width"):
            usual[name] = 0 if self.image_count[1] else getattr(self.defaults, name) or 0
        found = Request(
            prompts=texts,
            negative_prompts=None if negative_prompt is None else negatives(negative_prompt, len(texts)),
            **{**usual, **given},
        )
        for name in ("images_per_prompt", "steps", "frames", *(side for side in ("height", "width") if side in given)):
            if getattr(found, name) < 1:
                raise ValueError(f"{name}={getattr(found, name)} should be at least 1")
        if not 1 <= found.max_sequence_length <= self.defaults.longest:
            raise ValueError(
                f"max_sequence_length={found.max_sequence_length} should be in 1 to {self.defaults.longest}"
            )
        return self.sized(found)

    def value(self, request: Request, name: str) -> Any:
        """Return an option of the request, or the checkpoint's default."""
        asked = getattr(request, name)
        return getattr(self.defaults, name) if asked is None else asked

    def guide(self, denoiser: Model, request: Request) -> tuple[Model, Request]:
        """Return the denoiser with the guidance asked for, and the request with the negative prompts it reads.

        Warns where of guidance and negative prompt one has no effect without the other.

        Raises:
            ValueError: the denoiser is guided already, with another scale.
        """
        scale = getattr(request, self.cfg) if self.cfg else None
        own = _first(denoiser).guidance
        usual = self.defaults.negative_prompt
        asked = request.negative_prompts
        negative = asked if asked is not None or usual is None else (usual,) * len(request.prompts)
        if own is not None:
            if scale not in (None, 1, own.scale):
                raise ValueError(
                    f"the transform guides with scale {own.scale} and {self.cfg} is {scale}; set one of them"
                )
            return denoiser, attrs.evolve(request, negative_prompts=negative)
        wanted = self.guidance(request)
        if wanted is not None and negative is not None:
            return _with(denoiser, wanted), attrs.evolve(request, negative_prompts=negative)
        self._warn(scale, asked is not None)
        return denoiser, attrs.evolve(request, negative_prompts=None)

    def _warn(self, scale: float | None, negative: bool) -> None:
        """Say what has no effect where guidance is off."""
        if not self.cfg:
            if negative:
                warnings.warn("the negative prompt has no effect: this model is guided by an input", stacklevel=4)
        elif scale is not None and 0 < scale < 1:
            warnings.warn(f"{self.cfg}={scale} has no effect: it must be above 1", stacklevel=4)
        elif negative:
            warnings.warn(f"the negative prompt has no effect: set {self.cfg} above 1", stacklevel=4)
        elif scale is not None and scale > 1:
            warnings.warn(f"{self.cfg}={scale} has no effect: give a negative prompt ('' will do)", stacklevel=4)

    def conditioning(self, request: Request) -> Any:
        """Return the conditioning of a request; with negative prompts `Branches` of two.

        Raises:
            ValueError: the model takes another number of pictures.
        """
        least, most = self.image_count
        if not least <= len(request.images) <= most:
            wanted = f"{least}" if least == most else f"{least} to {most}"
            raise ValueError(f"this model takes {wanted} input pictures, got {len(request.images)}; see images=")

        def branch(texts: Sequence[str], negative: bool) -> Any:
            rows = self.condition(request, texts, negative)
            many = request.images_per_prompt
            return rows if many == 1 else map_samples(lambda leaf: leaf.repeat_interleave(many, dim=0), rows)

        positive = branch(request.prompts, False)
        if request.negative_prompts is None:
            return positive
        return Branches(conditional=positive, unconditional=branch(request.negative_prompts, True))

    def latents(self, request: Request, seed: int | Sequence[int], batch: int | None = None) -> torch.Tensor:
        """Return starting latents (B, ...), the same on every device; see `noise`."""
        rows = request.batch if batch is None else batch
        return self.pack(pure.gaussian((rows, *self.shape(request)), seed, dtype=self.dtype)).to(self.device)

    # ------------------------------------------------------------------ what a user writes

    def encode(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Encode prompts, each for `images_per_prompt` neighbouring samples of the batch.

        Args:
            prompt: one, or one for each image.
            negative_prompt: one for all prompts, or one for each; None for none.
            options: see `Options`.

        Returns:
            The conditioning of B = prompts x `images_per_prompt` samples, with a negative prompt
            `Branches` of two such.

        Warns where a prompt is truncated.

        Raises:
            TypeError: a prompt is not a string.
            ValueError: numbers of prompts do not agree, or a size or length is not possible.
        """
        return self.conditioning(self.request(prompt, negative_prompt, **options))

    def noise(self, seed: int | Sequence[int], *, batch: int = 1, **options: Unpack[Options]) -> torch.Tensor:
        """Return starting latents (B, ...), the same on every device.

        Args:
            seed: one for the whole batch, or one for each sample, which makes its noise
                independent of the batch it is in.
            batch: B.
            options: sizes; see `Options`.

        Raises:
            ValueError: a size is not possible, or the number of seeds is not B.
        """
        return self.latents(self.request("", **options), seed, batch)

    def schedule(self, count: int, **options: Unpack[Options]) -> tuple[Step, ...]:
        """Return the `count` steps of an image of this size, as diffusers' pipeline takes them.

        Raises:
            ValueError: a size is not possible, or `count` is below 1.
        """
        return self.steps(self.request("", **{**options, "steps": count}))

    def pixels(self, latents: torch.Tensor, **options: Unpack[Options]) -> torch.Tensor:
        """Decode latents (B, ...) to pixels (B, 3, H, W) or (B, F, 3, H, W) in 0 to 1.

        Raises:
            ValueError: a size is not possible, or is not that of the latents.
        """
        request = self.request("", **options)
        wanted = self.pack(torch.empty((1, *self.shape(request)), device="meta")).shape
        if latents.shape[1:] != wanted[1:]:
            raise ValueError(
                f"latents of shape {tuple(latents.shape)} are not those of {request.height} x {request.width} pixels "
                f"and {request.frames} frames, {('B', *wanted[1:])}; pass the sizes they were made with"
            )
        return self.decoded(latents, request)

    def decode(self, latents: torch.Tensor, **options: Unpack[Options]) -> list:
        """Decode latents (B, ...) to B pictures, or to B lists of frames; see `pixels`."""
        pixels = self.pixels(latents, **options)
        return [pictures(sample) for sample in pixels] if pixels.ndim == 5 else pictures(pixels)

    def generate(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        *,
        transform: Transforms = pure.identity,
        seed: int | Sequence[int] = 42,
        observe: Observer | None = None,
        **options: Unpack[Options],
    ) -> Generation:
        """Make images or videos from prompts.

        Args:
            prompt: see `encode`.
            negative_prompt: see `encode`; used if guidance is on.
            transform: of the denoiser, for instance `pure.compose(dbcache(...), guided(...))`; of
                experts also a mapping, one for each.
            seed: see `noise`.
            observe: called with every `Frame`.
            options: see `Options`.

        Warns where of guidance and negative prompt one has no effect without the other.

        Raises:
            TypeError: a prompt is not a string.
            ValueError: an argument is out of range, or the transform sets another guidance scale.
        """
        request = self.request(prompt, negative_prompt, **options)
        denoiser, request = self.guide(transformed(self.denoiser, transform), request)
        conditioning = self.conditioning(request)
        latents, steps = self.latents(request, seed), self.steps(request)
        run = pure.sample(denoiser, self.params, conditioning, latents, steps, self.solver, observe)
        warn(run.notes, stacklevel=3)
        latents = self.finished(run.latents, request)
        return Generation(pixels=self.decoded(latents, request), latents=latents, infos=run.infos, notes=run.notes)


def pictures(pixels: torch.Tensor) -> list[Image.Image]:
    """Return pixels (N, 3, H, W) in 0 to 1 as pictures.

    >>> pictures(torch.ones(1, 3, 2, 4))[0].size
    (4, 2)
    """
    arrays = (pixels.detach().to("cpu", torch.float32).permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    return [Image.fromarray(array) for array in arrays]


def _first(denoiser: Model) -> Denoiser:
    return next(iter(denoiser.denoisers.values())) if isinstance(denoiser, Experts) else denoiser


def _with(denoiser: Model, guidance: Guidance | Mapping[str, Guidance]) -> Model:
    if isinstance(denoiser, Experts):
        each = guidance if isinstance(guidance, Mapping) else dict.fromkeys(denoiser.denoisers, guidance)
        return Experts({name: attrs.evolve(one, guidance=each[name]) for name, one in denoiser.denoisers.items()})
    assert isinstance(guidance, Guidance)
    return attrs.evolve(denoiser, guidance=guidance)

"""A whole pipeline: prompt to conditioning, noise to latents, latents to pixels.

What families share is here; a family implements how it encodes, shapes and decodes in the
abstract methods, which take a checked `Request`.

Shapes: B samples, F frames, H x W pixels; latents have the family's own shape (B, ...).
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar, Unpack

import attrs
import torch
from PIL import Image

import pure
from pure import Branches, Denoiser, Experts, Guidance, Solver, Step
from pure.experts import Transforms, transformed
from pure.guidance import notes as guidance_notes
from pure.loop import Observer
from pure.models import batch as batches
from pure.models.common.truncation import Reader
from pure.models.errors import NotFiniteError
from pure.models.generation import Generation, Video, shown
from pure.models.guidance import guidance_of, unguided, unread, with_guidance
from pure.models.progress import following
from pure.models.request import Defaults, Options, Request, check_size, checked, needed, negatives, prompts, seeds
from pure.notes import Note, warn
from pure.tree import map_samples

AnyDenoiser = Denoiser | Experts

K = TypeVar("K")


@attrs.frozen(kw_only=True, eq=False)
class Pipeline(abc.ABC):
    """Everything that makes images or videos from prompts; `load_pipeline` makes one from a checkpoint.

    Attributes:
        denoiser: the plain denoiser, or several experts; transforms of it take the same parameters.
        params: its parameters, under the checkpoint's names; of experts a dict of such.
        solver: turns predictions into the next latents.
        defaults: of the checkpoint.
        reader: turns prompts into embeddings, and says which it cuts.
        codec: turns latents into pixels, and says which sizes are possible.
        image_count: the least and the largest number of input pictures.
        cfg: the option that scales classifier-free guidance: "true_cfg_scale", "guidance_scale", or ""
            where there is none.
        fp32: whether latents and timesteps are fp32 for models of every type.
    """

    denoiser: AnyDenoiser
    params: Mapping[str, Any] = attrs.field(repr=False)
    solver: Solver[Any]
    defaults: Defaults
    reader: Reader = attrs.field(repr=False)
    codec: Any = attrs.field(repr=False)
    image_count: tuple[int, int] = (0, 0)

    cfg: ClassVar[str] = "true_cfg_scale"
    fp32: ClassVar[bool] = False

    # ------------------------------------------------------------------ implemented by families

    @abc.abstractmethod
    def size(self, request: Request) -> tuple[int, int]:
        """Return the height and width that a request has by default, in pixels.

        Raises:
            ValueError: they cannot be known.
        """

    @abc.abstractmethod
    def grid(self, request: Request) -> tuple[int, ...]:
        """Return the tokens of an image or a video along its sides.

        Raises:
            ValueError: a size is not possible.
        """

    @abc.abstractmethod
    def condition(self, request: Request, texts: Sequence[str], negative: bool) -> object:
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

    def completed(self, request: Request, branches: Sequence[Any]) -> Sequence[object]:
        """Return the conditioning of one branch or both with what they have in common, such as input pictures."""
        return branches

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
        """Return the classifier-free guidance of a request; a scale of at most 1 is off."""
        scale = self.scale(request, self.cfg) if self.cfg else None
        return Guidance(scale=float(scale)) if scale is not None and scale > 1 else None

    def unused(self, request: Request) -> tuple[str, ...]:
        """Return the settings of the request that have no effect with this checkpoint, each as a sentence."""
        return tuple(unread(self.cfg, self._first(), request.guidance_scale, request.true_cfg_scale))

    def unguided(self, scale: float | None, negative: bool) -> str | None:
        """Return what has no effect where guidance is off, as a sentence: the given scale, or a negative prompt."""
        return unguided(self.cfg, scale, negative)

    # ------------------------------------------------------------------ requests

    def sized(self, request: Request) -> Request:
        """Return the request with height and width filled in where they are not given (0).

        Raises:
            ValueError: a size is not possible.
        """
        if not (request.height and request.width):
            height, width = self.size(request)
            request = attrs.evolve(request, height=request.height or height, width=request.width or width)
        self.grid(request)
        return request

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
        """Return a checked request with the checkpoint's defaults filled in.

        Args:
            prompt: one, or one for each image.
            negative_prompt: one for all prompts, or one for each; None for the checkpoint's default.
            options: see `Options`.

        Raises:
            TypeError: a prompt is not a string, an option has another type, or there is no such option.
            ValueError: numbers of prompts do not agree, or a number is out of range.
        """
        texts, experts = prompts(prompt), isinstance(self.denoiser, Experts)
        given = checked(options, self.defaults.longest, self.defaults.frames > 1, experts)
        defaults = {name: getattr(self.defaults, name) for name in ("steps", "frames", "max_sequence_length")}
        for name in ("height", "width"):
            defaults[name] = 0 if self.image_count[1] else getattr(self.defaults, name) or 0
        negative = None if negative_prompt is None else negatives(negative_prompt, len(texts))
        found = self.sized(Request(prompts=texts, negative_prompts=negative, **{**defaults, **given}))
        check_size(found, self.shape(found), self.solver.schedule, self.tokens(found))
        found = attrs.evolve(found, notes=tuple(map(Note, self.unused(found))))
        return attrs.evolve(found, negative_prompts=self._negatives(found)) if self.guidance(found) else found

    def _negatives(self, request: Request) -> tuple[str, ...] | None:
        """Return the negative prompts of a guided request."""
        default = self.defaults.negative_prompt
        if request.negative_prompts is not None or default is None:
            return request.negative_prompts
        return (default,) * len(request.prompts)

    def scale(self, request: Request, name: str) -> float | None:
        """Return a scale of the request, or the checkpoint's default."""
        given = getattr(request, name)
        return getattr(self.defaults, name) if given is None else given

    def guide(self, denoiser: AnyDenoiser, request: Request) -> tuple[AnyDenoiser, Request]:
        """Return the denoiser with the guidance of the request, and the request with the negative prompts it reads.

        A denoiser that a transform has guided already stays as it is. Where of guidance and negative prompt
        one has no effect without the other, the request is without both, and its notes say so.

        Raises:
            ValueError: the denoiser is guided already, with another scale.
        """
        own, wanted = guidance_of(denoiser), self.guidance(needed(request))
        scale, asked = getattr(request, self.cfg) if self.cfg else None, request.negative_prompts is not None
        if own is not None:
            first = next(iter(wanted.values())) if isinstance(wanted, Mapping) else wanted
            if scale not in (None, 1, own.scale) and (first is None or first.scale != own.scale):
                raise ValueError(
                    f"the transform guides with scale {own.scale} and {self.cfg} is {scale}; set one of them"
                )
            negative = self._negatives(request)
            notes = (*request.notes, *guidance_notes(own, negative is not None, self.schedule(request)))
            return denoiser, attrs.evolve(request, negative_prompts=negative, notes=notes)
        negative = self._negatives(request)
        if wanted is not None and negative is not None:
            return with_guidance(denoiser, wanted), attrs.evolve(request, negative_prompts=negative)
        text = self.unguided(scale, asked)
        notes = (*request.notes, *([] if text is None else [Note(text)]))
        return denoiser, attrs.evolve(request, negative_prompts=None, notes=notes)

    def conditioning(self, request: Request) -> object:
        """Return the conditioning of a request; with negative prompts `Branches` of two.

        Raises:
            ValueError: the model takes another number of pictures.
        """
        request.check_pictures(*self.image_count)

        def branch(texts: Sequence[str], negative: bool) -> object:
            sizes = request.height, request.width, request.frames, request.max_sequence_length
            asked = request.guidance_scale, request.negative_prompts is None
            key = ("rows", self.reader, self.dtype, self.device, tuple(texts), negative, sizes, asked)
            rows = request.once(key, lambda: self.condition(request, texts, negative))
            many = request.images_per_prompt
            return rows if many == 1 else map_samples(lambda leaf: leaf.repeat_interleave(many, dim=0), rows)

        negative = request.negative_prompts
        texts = [(request.prompts, False), *([] if negative is None else [(negative, True)])]
        found = self.completed(request, [branch(*each) for each in texts])
        return found[0] if negative is None else Branches(conditional=found[0], unconditional=found[1])

    def notes(self, request: Request) -> tuple[Note, ...]:
        """Return what a request does not do: settings without effect, and of each sample the prompts that are cut."""
        many, found = request.images_per_prompt, list(request.notes)
        for texts in (request.prompts, request.negative_prompts or ()):
            for note in self.reader.cut(texts, request.max_sequence_length) if texts else ():
                first = (note.subject or 0) * many
                found += [attrs.evolve(note, subject=sample) for sample in range(first, first + many)]
        return tuple(found)

    # ------------------------------------------------------------------ a run

    def encode(self, request: Request) -> object:
        """Encode the prompts, each for `images_per_prompt` neighbouring samples of the batch.

        Returns:
            The conditioning of B = prompts x `images_per_prompt` samples, with negative prompts
            `Branches` of two such.

        Warns of settings without effect and of prompts that are cut.

        Raises:
            ValueError: a text cannot be read, or the model takes another number of pictures.
        """
        warn(self.notes(needed(request)))
        return self.conditioning(request)

    def noise(self, request: Request, seed: int | Sequence[int] = 42) -> torch.Tensor:
        """Return starting latents (B, ...), the same on every device.

        Args:
            request: its sizes, and its number of samples B.
            seed: one for the whole batch, or one for each sample, which makes its noise
                independent of the batch it is in; 0 to 2**63 - 1.

        Raises:
            TypeError: a seed is no whole number.
            ValueError: a seed is out of range, or the number of seeds is not B.
        """
        drawn = pure.gaussian((needed(request).batch, *self.shape(request)), seeds(seed), dtype=self.noise_dtype)
        return self.pack(drawn).to(self.device)

    @property
    def noise_dtype(self) -> torch.dtype:
        """Type of the latents."""
        return torch.float32 if self.fp32 else self.dtype

    def schedule(self, request: Request) -> tuple[Step, ...]:
        """Return the steps of the request, as diffusers' pipeline takes them; timesteps on the pipeline's device."""
        found = self.solver.schedule(needed(request).steps, self.tokens(request), self.step_dtype)
        # Moved here once: in the loop every step would wait for the copy.
        return tuple(attrs.evolve(step, timestep=step.timestep.to(self.device)) for step in found)

    @property
    def step_dtype(self) -> torch.dtype:
        """Type that timesteps are rounded to."""
        return torch.float32 if self.fp32 else self.dtype

    def begin(
        self, denoiser: AnyDenoiser, request: Request, seed: int | Sequence[int], keys: Sequence[K]
    ) -> batches.Batch[K]:
        """Return a batch of the request's samples before its first step; see `pure.models.batch`.

        Args:
            denoiser: guided as the request says; see `guide`.
            request: B samples.
            seed: see `noise`.
            keys: that the caller identifies each of the B samples by.

        Raises:
            ValueError: see `encode`, `noise` and `Denoiser.init`; or prompts cannot be in one batch.
        """
        texts = [text for text in request.prompts for _ in range(request.images_per_prompt)]
        each = [seed if len(texts) == 1 else None] * len(texts) if isinstance(seed, int) else seed
        noise, conditioning, steps = self.noise(request, seed), self.conditioning(request), self.schedule(request)
        members = [
            batches.Member(key=key, prompt=text, seed=one) for key, text, one in zip(keys, texts, each, strict=True)
        ]
        return batches.begin(denoiser, self.params, self.solver, conditioning, noise, steps, members)

    def pixels(self, latents: torch.Tensor, request: Request) -> torch.Tensor:
        """Decode latents (B, ...) to pixels (B, 3, H, W) or (B, F, 3, H, W) in 0 to 1.

        Raises:
            TypeError: the arguments are not latents and a request.
            ValueError: the latents have another size than the request, or are not finite.
        """
        wanted = self.pack(torch.empty((1, *self.shape(needed(request))), device="meta")).shape
        if not isinstance(latents, torch.Tensor):
            raise TypeError(f"latents are a tensor, got {type(latents).__name__}; the order is (latents, request)")
        if latents.shape[1:] != wanted[1:]:
            raise ValueError(
                f"latents of shape {tuple(latents.shape)} are not those of {request.height} x {request.width} pixels "
                f"and {request.frames} frames, {('B', *wanted[1:])}; pass the request they were made with"
            )
        if bad := [row for row, each in enumerate(latents) if not each.isfinite().all()]:
            raise ValueError(
                f"latents of samples {bad} are infinite or NaN, which would decode to black; in fp16 numbers above "
                "65504 overflow: load with dtype=torch.bfloat16, or lower the guidance scale"
            )
        return self.decoded(latents, request)

    def decode(self, latents: torch.Tensor, request: Request) -> list[Image.Image] | list[Video]:
        """Decode latents (B, ...) to B pictures, or to B videos; see `pixels`. All of them have `save(path)`."""
        return shown(self.pixels(latents, request))

    def generate(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        *,
        transform: Transforms = pure.identity,
        seed: int | Sequence[int] = 42,
        observe: Observer | None = None,
        progress: bool = False,
        checkpoint: bool = False,
        **options: Unpack[Options],
    ) -> Generation:
        """Make images or videos from prompts.

        Latents and pixels are differentiable where the parameters or the weights of a predictor ask for gradients.

        Args:
            prompt: see `request`.
            negative_prompt: see `request`; used if guidance is on.
            transform: of the denoiser, such as `pure.compose(dbcache(...), guided(...))`; of experts also a mapping.
            seed: see `noise`.
            observe: called with every `Frame`, such as a `pure.Recording`.
            progress: show the steps as they are taken, on a terminal or in a notebook.
            checkpoint: see `pure.sample`; for gradients in the memory of one step.
            options: see `Options`.

        Warns of settings without effect and of prompts that are cut; the result's notes say it too.

        Raises:
            TypeError: an argument has another type, or there is no such option.
            ValueError: an argument is out of range, or the transform sets another guidance scale.
            NotFiniteError: latents or pixels of some samples are infinite or NaN; it has those of the others.
        """
        if observe is not None and not callable(observe):
            raise TypeError(f"observe is called with every Frame, got {observe!r}")
        request = self.request(prompt, negative_prompt, **options)
        denoiser, request = self.guide(transformed(self.denoiser, transform), request)
        batch = self.begin(denoiser, request, seed, range(request.batch))
        notes, infos = (*self.notes(request), *denoiser.notes(batch.steps)), []
        warn(notes, stacklevel=3)
        with following(observe, progress, len(batch.steps)) as follow:
            for _ in batch.steps:
                batch, frame = batches.advance(batch, checkpoint)
                infos.append(frame.info)
                follow(frame)
        latents = self.finished(self.solver.latents(batch.carry), request)
        pixels = self.decoded(latents, request)
        wrong = batches.faults(batch, pixels, self.dtype, self.cfg)
        if wrong:
            raise NotFiniteError(wrong, pixels, latents)
        return Generation(pixels=pixels, latents=latents, infos=tuple(infos), notes=notes)

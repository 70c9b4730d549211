"""A whole text-to-image pipeline: prompt to conditioning, noise to latents, latents to pixels.

Shapes: B samples, T text tokens, N image tokens, S = T + N, C channels of a token, H x W pixels.
"""

import warnings
from collections.abc import Callable, Sequence

import attrs
import torch
from PIL import Image

import pure
from pure import Branches, Denoiser, Frame, Guidance, Info, Shared, Solver, Step
from pure.models import image
from pure.models.flux import Conditioning, Params
from pure.models.text import TextEncoder, negatives, prompts

GUIDANCE_WEIGHT = "time_text_embed.guidance_embedder.linear_1.weight"


@attrs.frozen(kw_only=True, eq=False)
class Generation:
    """What `Pipeline.generate` returns.

    Attributes:
        pixels: (B, 3, H, W) in 0 to 1.
        latents: (B, N, C), what they were decoded from.
        infos: for every step what was computed and skipped, and why.
    """

    pixels: torch.Tensor
    latents: torch.Tensor
    infos: tuple[Info, ...]


@attrs.frozen(kw_only=True, eq=False)
class Pipeline:
    """Everything that makes an image from a prompt; `load_pipeline` makes one from a checkpoint.

    Attributes:
        denoiser: the plain denoiser; transforms of it take the same parameters.
        params: its parameters, under the checkpoint's names.
        solver: turns predictions into the next latents.
        encoder: turns prompts into embeddings.
        decoder: turns latents into pixels.
    """

    denoiser: Denoiser
    params: Params = attrs.field(repr=False)
    solver: Solver
    encoder: TextEncoder = attrs.field(repr=False)
    decoder: image.ImageDecoder = attrs.field(repr=False)

    @property
    def dtype(self) -> torch.dtype:
        """Type of latents and embeddings: that of the parameters."""
        return self.params["x_embedder.weight"].dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.params["x_embedder.weight"].device

    def encode(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        *,
        guidance_scale: float = 3.5,
        images_per_prompt: int = 1,
        max_sequence_length: int = 512,
        height: int | None = None,
        width: int | None = None,
    ) -> Conditioning | Branches:
        """Encode prompts, each for `images_per_prompt` neighbouring samples of the batch.

        Args:
            prompt: one, or one for each image.
            negative_prompt: one for all prompts, or one for each; None for none.
            guidance_scale: embedded where the checkpoint embeds guidance, as FLUX.1-dev does, else unused.
            images_per_prompt: at least 1.
            max_sequence_length: T, 1 to 512.
            height: in pixels; None is the checkpoint's own size.
            width: likewise.

        Returns:
            The conditioning of B = prompts x `images_per_prompt` samples, with a negative prompt
            `Branches` of two such.

        Warns where a prompt is truncated.

        Raises:
            TypeError: a prompt is not a string.
            ValueError: numbers of prompts do not agree, or a size or length is not possible.
        """
        if images_per_prompt < 1:
            raise ValueError(f"images_per_prompt={images_per_prompt} should be at least 1")
        ids = Shared(
            value=image.positions(max_sequence_length, *self.decoder.grid(height, width)).to(self.device),
        )

        def conditioning(texts: list[str]) -> Conditioning:
            text, pooled = (
                embedding.to(self.device, self.dtype).repeat_interleave(images_per_prompt, dim=0)
                for embedding in self.encoder(texts, max_sequence_length)
            )
            scales = torch.full((len(pooled),), float(guidance_scale), device=self.device)
            return Conditioning(
                text=text, pooled=pooled, guidance=scales if GUIDANCE_WEIGHT in self.params else None, ids=ids
            )

        positive = prompts(prompt)
        if negative_prompt is None:
            return conditioning(positive)
        negative = negatives(negative_prompt, len(positive))
        return Branches(conditional=conditioning(positive), unconditional=conditioning(negative))

    def noise(
        self, seed: int | Sequence[int], *, height: int | None = None, width: int | None = None, batch: int = 1
    ) -> torch.Tensor:
        """Return starting latents (B, N, C), the same on every device.

        Args:
            seed: one for the whole batch, or one for each sample, which makes its noise
                independent of the batch it is in.
            height: in pixels; None is the checkpoint's own size.
            width: likewise.
            batch: B.

        Raises:
            ValueError: a size is not possible, or the number of seeds is not B.
        """
        rows, columns = self.decoder.grid(height, width)
        channels = self.params["x_embedder.weight"].shape[1] // image.PATCH**2
        shape = (batch, channels, rows * image.PATCH, columns * image.PATCH)
        return image.pack(pure.gaussian(shape, seed, dtype=self.dtype)).to(self.device)

    def schedule(self, count: int, *, height: int | None = None, width: int | None = None) -> tuple[Step, ...]:
        """Return the `count` steps of an image of this size, as `FluxPipeline` takes them.

        Raises:
            ValueError: a size is not possible, or `count` is below 1.
        """
        rows, columns = self.decoder.grid(height, width)
        steps = self.solver.schedule(count, rows * columns, self.dtype)
        # Moved here once: in the loop every step would wait for the copy.
        return tuple(attrs.evolve(step, timestep=step.timestep.to(self.device)) for step in steps)

    def pixels(self, latents: torch.Tensor, *, height: int | None = None, width: int | None = None) -> torch.Tensor:
        """Decode latents (B, N, C) to pixels (B, 3, H, W) in 0 to 1.

        Raises:
            ValueError: a size is not possible, or is not that of the latents.
        """
        rows, columns = self.decoder.grid(height, width)
        if latents.shape[1] != rows * columns:
            raise ValueError(
                f"latents of {latents.shape[1]} tokens are not an image of {rows} x {columns}; "
                "pass the height and width they were made with"
            )
        return self.decoder(image.unpack(latents, rows, columns))

    def decode(
        self, latents: torch.Tensor, *, height: int | None = None, width: int | None = None
    ) -> list[Image.Image]:
        """Decode latents (B, N, C) to B pictures; see `pixels`."""
        return self.decoder.images(self.pixels(latents, height=height, width=width))

    def generate(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        *,
        transform: Callable[[Denoiser], Denoiser] = pure.identity,
        steps: int = 28,
        guidance_scale: float = 3.5,
        true_cfg_scale: float = 1.0,
        seed: int | Sequence[int] = 42,
        height: int | None = None,
        width: int | None = None,
        images_per_prompt: int = 1,
        max_sequence_length: int = 512,
        observe: Callable[[Frame], None] | None = None,
    ) -> Generation:
        """Make images from prompts.

        Args:
            prompt: see `encode`.
            negative_prompt: see `encode`; used if guidance is on.
            transform: of the denoiser, for instance `pure.compose(dbcache(...), guided(...))`.
            steps: their number.
            guidance_scale: see `encode`.
            true_cfg_scale: above 1 and with a negative prompt: scale of classifier-free
                guidance, at the cost of two rows per sample.
            seed: see `noise`.
            height: see `encode`.
            width: see `encode`.
            images_per_prompt: see `encode`.
            max_sequence_length: see `encode`.
            observe: called with every `Frame`.

        Warns where of `true_cfg_scale` and `negative_prompt` one has no effect without the other.

        Raises:
            TypeError: a prompt is not a string.
            ValueError: an argument is out of range, or the transform sets another guidance scale.
        """
        denoiser = guide(transform(self.denoiser), true_cfg_scale, negative_prompt is not None)
        size = {"height": height, "width": width}
        conditioning = self.encode(
            prompt,
            negative_prompt if denoiser.guidance else None,
            guidance_scale=guidance_scale,
            images_per_prompt=images_per_prompt,
            max_sequence_length=max_sequence_length,
            **size,
        )
        latents = self.noise(seed, batch=len(prompts(prompt)) * images_per_prompt, **size)
        plan = self.schedule(steps, **size)
        run = pure.sample(denoiser, self.params, conditioning, latents, plan, self.solver, observe)
        return Generation(pixels=self.pixels(run.latents, **size), latents=run.latents, infos=run.infos)


def guide(denoiser: Denoiser, scale: float, negative: bool) -> Denoiser:
    """Return the denoiser with guidance on if `scale` is above 1 and there is a `negative` prompt.

    Warns where one comes without the other.

    Raises:
        ValueError: the denoiser is guided already, with another scale.
    """
    if denoiser.guidance is not None:
        if scale not in (1, denoiser.guidance.scale):
            raise ValueError(
                f"the transform guides with scale {denoiser.guidance.scale} and true_cfg_scale is {scale}; "
                "set one of them"
            )
        return denoiser
    if scale > 1 and negative:
        return attrs.evolve(denoiser, guidance=Guidance(scale=float(scale)))
    if scale != 1:
        cure = "give a negative prompt ('' will do)" if scale > 1 else "it must be above 1"
        warnings.warn(f"true_cfg_scale={scale} has no effect: {cure}", stacklevel=3)
    elif negative:
        warnings.warn("the negative prompt has no effect: set true_cfg_scale above 1", stacklevel=3)
    return denoiser

"""A FLUX transformer as diffusers' module and as ours, with one request: what several benchmarks measure.

Shapes: one sample, N image tokens, T text tokens.
"""

from collections.abc import Callable, Iterator

import attrs
import torch
from diffusers import FluxTransformer2DModel

import pure
from pure.models.common.image import positions
from pure.models.flux.denoiser import Conditioning, flux
from pure.transforms import dbcache, scm
from pure.transforms.scm import preset_mask

CONFIG = {
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 6,
    "num_single_layers": 12,
    "attention_head_dim": 32,
    "num_attention_heads": 12,
    "joint_attention_dim": 64,
    "pooled_projection_dim": 64,
    "guidance_embeds": True,
    "axes_dims_rope": (8, 12, 12),
}
STEPS = 28
FRONT = dbcache(front=1, threshold=1.0, warmup=0, max_continuous=None)
NEVER = dbcache(front=1, threshold=1e-9)
ULTRA = pure.compose(FRONT, scm(preset="ultra", policy="static"))
Contestant = Callable[[], Iterator[torch.Tensor]]


@attrs.frozen(eq=False)
class Bench:
    """The model under test, as diffusers' module and as ours, and one request."""

    module: FluxTransformer2DModel
    denoiser: pure.Denoiser
    params: dict[str, torch.Tensor]
    conditioning: Conditioning
    latents: torch.Tensor
    steps: tuple[pure.Step, ...]
    solver: pure.FlowMatchEuler

    def ours(self, transform: pure.Transform) -> "Ours":
        """Return runs of the transformed denoiser, which yield after every step; the first one includes `init`."""
        denoiser = transform(self.denoiser)
        return Ours(self, denoiser, denoiser.bind(self.params))

    def predict(self, latents: torch.Tensor, step: pure.Step) -> torch.Tensor:
        """Return the prediction of diffusers' transformer."""
        c, text = self.conditioning, self.conditioning.text.shape[1]
        with torch.no_grad():
            return self.module(
                hidden_states=latents,
                timestep=step.times(1),
                guidance=c.guidance,
                pooled_projections=c.pooled,
                encoder_hidden_states=c.text,
                txt_ids=c.ids.value[:text],
                img_ids=c.ids.value[text:],
                return_dict=False,
            )[0]

    def diffusers(self) -> Iterator[torch.Tensor]:
        """Run diffusers' transformer over the same trajectory."""
        latents = self.latents
        for step in self.steps:
            latents = self.solver.step(latents, self.predict(latents, step), step)
            yield latents


class Ours:
    """Runs of a transformed denoiser.

    Attributes:
        computed: of every step of the last run, whether it was computed.
    """

    def __init__(self, made: Bench, denoiser: pure.Denoiser, params: pure.Bound) -> None:
        self.made, self.denoiser, self.params = made, denoiser, params
        self.computed: tuple[bool, ...] = ()

    def __call__(self) -> Iterator[torch.Tensor]:
        """Run all steps."""
        made, self.computed = self.made, ()
        with torch.no_grad():
            state = self.denoiser.init(self.params, made.conditioning, made.latents, made.steps)
        carry = made.solver.init(made.latents)
        for frame in pure.unroll(self.denoiser, self.params, state, carry, made.steps, made.solver):
            self.computed += frame.info.computed
            yield frame.latents


def bench(module: FluxTransformer2DModel, side: int, text: int, seed: int = 1) -> Bench:
    """Return a bench of a module and a random request of side x side image tokens and `text` text tokens."""
    params = dict(module.state_dict())
    first, settings, tokens = next(iter(params.values())), module.config, side * side
    generator = torch.Generator(first.device).manual_seed(seed)
    draw = {"generator": generator, "device": first.device, "dtype": first.dtype}
    solver = pure.FlowMatchEuler(pure.Schedule(dynamic=True))
    return Bench(
        module=module,
        denoiser=flux(dict(settings)),
        params=params,
        conditioning=Conditioning(
            text=torch.randn(1, text, settings["joint_attention_dim"], **draw),
            pooled=torch.randn(1, settings["pooled_projection_dim"], **draw),
            guidance=torch.full((1,), 3.5, device=first.device),
            ids=pure.Shared(value=positions(text, side, side).to(first.device)),
        ),
        latents=torch.randn(1, tokens, settings["in_channels"], **draw),
        steps=tuple(
            attrs.evolve(step, timestep=step.timestep.to(first.device))
            for step in solver.schedule(STEPS, tokens, first.dtype)
        ),
        solver=solver,
    )


def block_limit(preset: str, blocks: int) -> float:
    """Return the speed-up of a static preset if blocks were all the work: one of them in front, the others skipped."""
    mask = preset_mask(preset, STEPS)
    assert mask is not None
    return STEPS * blocks / (sum(mask) * blocks + (STEPS - sum(mask)))

"""Train the autoencoder: 64 x 64 RGB to 16 x 16 latents of 8 channels and back.

Run ``python -m training.autoencoder --emoji DIR --work DIR --minutes 7``.

Run again after an interruption and it goes on where the last checkpoint was.
"""

import random
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from training import command, data
from training.budget import Run
from training.muon import Muon

CHECKPOINT = "autoencoder.pt"
CHANNELS = 8
SAVE_EVERY_S = 45.0
WARM_UP_STEPS = 30
KL_WEIGHT = 1e-4


def build() -> AutoencoderKL:
    """An untrained autoencoder; statistics of its latents are set on export."""
    levels = (32, 32, 32)
    blocks: dict[str, Any] = {  # diffusers annotates one of each
        "block_out_channels": levels,
        "down_block_types": ("DownEncoderBlock2D",) * len(levels),
        "up_block_types": ("UpDecoderBlock2D",) * len(levels),
    }
    return AutoencoderKL(
        **blocks,
        sample_size=data.RESOLUTION,
        layers_per_block=0,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def build_optimizers(vae: AutoencoderKL, *, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the kernels and matrices, AdamW for vectors and the outer layers."""
    inner, others = [], []
    for name, parameter in vae.named_parameters():
        outer = name in ("encoder.conv_in.weight", "decoder.conv_out.weight")
        (others if outer or parameter.ndim < 2 else inner).append(parameter)
    return [Muon(inner, lr=lr), torch.optim.AdamW(others, lr=lr, weight_decay=0.0)]


def loss(vae: AutoencoderKL, images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Squared plus absolute error, and a light pull of the latents to N(0, 1)."""
    posterior = cast(Any, vae.encode(images)).latent_dist
    decoded = cast(Any, vae.decode(posterior.sample(generator))).sample
    error = F.mse_loss(decoded, images) + 0.2 * F.l1_loss(decoded, images)
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    return error + KL_WEIGHT * kl


def psnr(decoded: Tensor, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio per image in dB; both (B, 3, H, W) in [-1, 1]."""
    error = (decoded.clamp(-1, 1) - images).square().mean((1, 2, 3)) / 4
    return -10 * error.log10()


@torch.no_grad()
def measure(vae: AutoencoderKL, emoji: Tensor, *, count: int = 96, seed: int = 10**6) -> float:
    """Mean PSNR over random pictures of held-out and seen pairs alike."""
    generator = torch.Generator().manual_seed(seed)
    chosen = random.Random(seed).sample(data.pairs(held_out=False) + data.pairs(held_out=True), count)
    pictures = data.images(emoji, chosen, generator=generator)
    means = [cast(Any, vae.encode(x)).latent_dist.mean for x in pictures.split(32)]
    decoded = torch.cat([cast(Any, vae.decode(x)).sample for x in means])
    return psnr(decoded, pictures).mean().item()


def begin(work: Path, *, seconds: float, lr: float) -> Run:
    """The run, at its beginning or where it was left."""
    torch.manual_seed(0)
    vae = build()
    bias = vae.encoder.conv_out.bias
    assert bias is not None
    torch.nn.init.constant_(bias.data[CHANNELS:], -6.0)
    return Run(work / CHECKPOINT, vae, build_optimizers(vae, lr=lr), seconds=seconds, warm_up=WARM_UP_STEPS)


def train(training: Run, emoji: Tensor, *, batch: int) -> None:
    """Train until the budget is spent."""
    seen = data.pairs(held_out=False)
    while training.fraction < 1:
        generator = torch.Generator().manual_seed(training.step)
        chosen = random.Random(training.step).choices(seen, k=batch)
        pictures = data.images(emoji, chosen, generator=generator)
        training.update(loss(cast(AutoencoderKL, training.module), pictures, generator=generator))
        if training.spent - training.saved > SAVE_EVERY_S or training.fraction >= 1:
            training.save()
            decibels = measure(cast(AutoencoderKL, training.module), emoji)
            print(f"step {training.step} {training.saved:.0f}s psnr {decibels:.2f} dB", flush=True)


def main() -> None:
    """Read the command line and train."""
    options = command.read(__doc__, "emoji", "work", minutes=7.0, batch=8, lr=2e-3)
    training = begin(options.work, seconds=60 * options.minutes, lr=options.lr)
    train(training, data.load_emoji(options.emoji), batch=options.batch)


if __name__ == "__main__":
    main()

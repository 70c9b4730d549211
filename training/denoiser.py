"""Train the denoiser and its text encoders on encoded pictures.

Run ``python -m training.denoiser --emoji DIR --work DIR --minutes 100``.

Run again after an interruption and it goes on where the last checkpoint was. The
learning rate falls to almost nothing as the budget ends.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training import autoencoder, command, data, latents, model, text, workers
from training.budget import Run, checkpoint
from training.muon import Muon

CHECKPOINT = "denoiser.pt"
SAVE_EVERY_S = 180.0
LOG_EVERY = 50
WARM_UP_STEPS = 100
EMPTY_PROMPTS = 0.1
AVERAGE_DECAY = 0.996
PADDED_LENGTHS = (text.TOKENS, 32, 128, 256, 512, 512)
"""Lengths of T5 prompts that a training step stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Token ids of every seen pair, (P, 2, TOKENS): without and with article.

    The last row is the empty prompt.
    """

    clip: Tensor
    t5: Tensor


def tokenize_pairs() -> Prompts:
    """The prompts of all seen pairs and the empty one."""
    rows = []
    for pair in data.pairs(held_out=False):
        name = list(data.EMOJI)[pair.emoji]
        colour = list(data.BACKGROUNDS)[pair.background]
        rows += [pair.prompt, data.prompt(name, colour, data.article(name))]
    rows += ["", ""]
    clip = text.tokenize(text.clip_tokenizer(), rows)
    t5 = text.tokenize(text.t5_tokenizer(), rows)
    return Prompts(clip=clip.view(-1, 2, text.TOKENS), t5=t5.view(-1, 2, text.TOKENS))


def draw(tokens: Tensor, prompts: Prompts, *, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    """A random training batch from pictures (P, V, T, C) and their prompts."""

    def integers(high: int) -> Tensor:
        return torch.randint(high, (batch,), generator=generator)

    pair, variant, article = integers(len(tokens)), integers(tokens.shape[1]), integers(2)
    picture = tokens[pair, variant].float()
    empty = torch.rand(batch, generator=generator) < EMPTY_PROMPTS
    row = torch.where(empty, len(tokens), pair)
    normal = torch.randn(batch, generator=generator)
    uniform = torch.rand(batch, generator=generator)
    rare = torch.rand(batch, generator=generator) < 0.1
    missing = torch.tensor(PADDED_LENGTHS) - text.TOKENS
    return {
        "picture": picture,
        "noise": torch.randn(picture.shape, generator=generator),
        "sigma": torch.where(rare, uniform, (normal + 0.3).sigmoid()).clamp(1e-3, 1),
        "clip_ids": prompts.clip[row, article],
        "t5_ids": prompts.t5[row, article],
        "missing": missing[integers(len(missing))],
    }


def optimizers(denoiser: model.Denoiser, *, lr: float, matrix_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for everything else."""
    matrices, others = [], []
    for name, parameter in denoiser.named_parameters():
        inside = "transformer_blocks." in name and parameter.ndim == 2
        (matrices if inside else others).append(parameter)
    return [
        Muon(matrices, lr=matrix_lr),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


class Training(Run):
    """Weights, their running average, optimisers and the clock of one run."""

    def __init__(self, work: Path, *, seconds: float, **rates: float) -> None:
        torch.manual_seed(0)
        self.denoiser = model.Denoiser()
        average = {k: v.clone() for k, v in self.denoiser.state_dict().items()}
        found = optimizers(self.denoiser, **rates)
        super().__init__(work / CHECKPOINT, self.denoiser, found, seconds=seconds, warm_up=WARM_UP_STEPS)
        self.average = self.begun.get("average", average)
        self.samples, self.curve = self.begun.get("samples", 0), self.begun.get("curve", [])

    def save(self, **more: Any) -> None:
        """Write everything that going on needs; one process does."""
        super().save(average=self.average, samples=self.samples, curve=self.curve, **more)

    def log(self, value: float) -> None:
        """Print a point of the loss curve and keep it."""
        self.curve.append([self.step, self.spent, value])
        if not workers.rank():
            print("step {} {:.0f}s loss {:.4f}".format(*self.curve[-1]), flush=True)

    def update(self, value: Tensor) -> float:
        """One optimiser step on a loss; returns the loss over all processes."""
        shown = super().update(value)
        text.keep_local(self.denoiser.t5)
        decay = min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.values()), list(self.denoiser.state_dict().values()), 1 - decay)
        return shown


def train(options: argparse.Namespace) -> None:
    """Train until the budget is spent; runs in every process."""
    tokens = checkpoint(options.work / latents.CACHE)["tokens"]
    rates = {"lr": options.lr, "matrix_lr": options.matrix_lr}
    training = Training(options.work, seconds=60 * options.minutes, **rates)
    training.denoiser.transformer.compile_repeated_blocks(dynamic=False)
    prompts, losses = tokenize_pairs(), []
    while training.fraction < 1:
        seed = training.step * workers.count() + workers.rank()
        generator = torch.Generator().manual_seed(seed)
        batch = draw(tokens, prompts, batch=options.batch, generator=generator)
        losses.append(training.update(model.loss(training.denoiser, batch)))
        training.samples += options.batch * workers.count()
        if training.step % LOG_EVERY == 0:
            training.log(sum(losses) / len(losses))
            losses.clear()
        if training.spent - training.saved > SAVE_EVERY_S:
            training.save()
    training.save()


def main() -> None:
    """Read the command line, encode the pictures if need be, and train."""
    rates = {"lr": 1e-3, "matrix_lr": 2.5e-3}
    options = command.read(__doc__, "emoji", "work", minutes=100.0, batch=32, processes=2, variants=20, **rates)
    vae = autoencoder.build().eval()
    vae.load_state_dict(checkpoint(options.work / autoencoder.CHECKPOINT)["model"])
    emoji = data.load_emoji(options.emoji)
    latents.cached(vae, emoji, options.work, variants=options.variants)
    workers.run(train, processes=options.processes, work=options.work, arguments=(options,))


if __name__ == "__main__":
    main()

"""Measure an exported pipeline and draw its contact sheet.

Every pair of emoji and background is sampled with two seeds: 28 steps, no guidance,
prompts without article, T5 padded to 16 tokens. Every third prompt of the contact
sheet is sampled once more as ``FluxPipeline`` does by default, padded to 512 tokens.
"""

import json
from typing import Any, cast

import torch
from diffusers import FluxPipeline
from torch import Tensor

from training import autoencoder, command, data, recognise, sheet

STEPS = 28
SEEDS = (0, 1)
BATCH = 42
SHORT, DEFAULT = 16, 512


def sample(pipeline: FluxPipeline, pairs: list[data.Pair], *, seed: int, length: int) -> Tensor:
    """One picture of each pair, (M, 3, 64, 64) in [0, 1].

    The noise of a pair depends on the pair and the seed, not on the batch.
    """
    pictures = []
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        numbers = [seed * 10**6 + p.emoji * 100 + p.background for p in batch]
        pictures.append(
            cast(Any, pipeline)(
                prompt=[pair.prompt for pair in batch],
                height=data.RESOLUTION,
                width=data.RESOLUTION,
                num_inference_steps=STEPS,
                max_sequence_length=length,
                generator=[torch.Generator().manual_seed(n) for n in numbers],
                output_type="pt",
            ).images
        )
    return torch.cat(pictures)


def judge(pictures: Tensor, pairs: list[data.Pair], sprites: Tensor) -> tuple[Tensor, Tensor]:
    """Whether emoji and background of each picture are the right ones, (M,) each."""
    emoji = torch.tensor([pair.emoji for pair in pairs])
    background = torch.tensor([pair.background for pair in pairs])
    return (
        recognise.emoji(pictures, sprites) == emoji,
        recognise.backgrounds(pictures) == background,
    )


def percent(right: Tensor) -> float:
    """Share of true entries, in per cent with two decimals."""
    return round(100 * right.float().mean().item(), 2)


def figures(pictures: list[Tensor], pairs: list[data.Pair], sprites: Tensor) -> dict:
    """Accuracy over the pairs, one list entry of pictures per seed."""
    every = pairs * len(pictures)
    emoji, background = judge(torch.cat(pictures), every, sprites)
    held_out = torch.tensor([pair.held_out for pair in every])
    wrong = {f"{pair.prompt} (sample {index // len(pairs)})" for index, pair in enumerate(every) if not emoji[index]}
    return {
        "samples": len(every),
        "emoji_seen": percent(emoji[~held_out]),
        "emoji_held_out": percent(emoji[held_out]),
        "background": percent(background),
        "background_held_out": percent(background[held_out]),
        "wrong_emoji": sorted(wrong),
    }


def controls(pipeline: FluxPipeline, sprites: Tensor) -> dict:
    """The autoencoder's PSNR, and the recogniser on true pictures it has decoded."""
    pairs = data.pairs(held_out=False)[::5] + data.pairs(held_out=True)
    generator = torch.Generator().manual_seed(10**6)
    true = data.images(sprites, pairs, generator=generator)
    with torch.no_grad():
        decoded = torch.cat(
            [pipeline.vae.decode(pipeline.vae.encode(x).latent_dist.mode()).sample for x in true.split(32)]
        )
    emoji, background = judge((decoded.clamp(-1, 1) + 1) / 2, pairs, sprites)
    return {
        "autoencoder_psnr_db": round(autoencoder.psnr(decoded, true).mean().item(), 2),
        "recogniser_on_decoded_truth": percent(emoji & background),
    }


def main() -> None:
    """Read the command line, sample, judge and write."""
    options = command.read(__doc__, "emoji", "pipeline", "metrics", "sheet", every=1)  # only each n-th pair
    sprites = data.load_emoji(options.emoji)
    pipeline = FluxPipeline.from_pretrained(options.pipeline)
    pipeline.set_progress_bar_config(disable=True)
    pairs = data.pairs(held_out=False)[:: options.every]
    pairs += data.pairs(held_out=True)[:: options.every]
    pictures = [sample(pipeline, pairs, seed=s, length=SHORT) for s in SEEDS]
    shown = sheet.one_per_emoji(pairs)
    rows = [pairs.index(pair) for pair in shown]
    sheet.draw(pictures[0][rows], shown).save(options.sheet, optimize=True)
    padded = sample(pipeline, shown[::3], seed=SEEDS[0], length=DEFAULT)
    change = (padded - pictures[0][rows[::3]]).abs().mean().item()
    found = {
        "steps": STEPS,
        "guidance": None,
        **controls(pipeline, sprites),
        f"padded_to_{SHORT}": figures(pictures, pairs, sprites),
        f"padded_to_{DEFAULT}": figures([padded], shown[::3], sprites),
        "mean_pixel_change_by_padding": round(change, 4),
    }
    options.metrics.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

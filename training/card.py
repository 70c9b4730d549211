"""Write the model card (``card.md``) from the measured figures.

Run ``python -m training.card --work DIR --pipeline models/emoji``.
"""

import json
from pathlib import Path
from string import Template

from training import autoencoder, command, data, denoiser, evaluate
from training.budget import checkpoint

CARD = Template((Path(__file__).parent / "card.md").read_text())
PROMISED = {"emoji_seen": 90, "emoji_held_out": 85, "background": 97}
PROMISED_PSNR = 28


def figures_table(metrics: dict) -> str:
    """Measured against promised, as a Markdown table."""
    found = metrics[f"padded_to_{evaluate.SHORT}"]
    names = {
        "emoji_seen": "right emoji, seen pairs",
        "emoji_held_out": "right emoji, held-out pairs",
        "background": "right background",
    }
    psnr = metrics["autoencoder_psnr_db"]
    rows = ["| figure | measured | promised | met |", "|---|---|---|---|"]
    for key, name in names.items():
        met = "yes" if found[key] >= PROMISED[key] else "**no**"
        rows.append(f"| {name} | {found[key]} % | {PROMISED[key]} % | {met} |")
    met = "yes" if psnr >= PROMISED_PSNR else "**no**"
    rows.append(f"| autoencoder, PSNR | {psnr} dB | {PROMISED_PSNR} dB | {met} |")
    return "\n".join(rows)


def curve_table(curve: list[list[float]], *, points: int = 10) -> str:
    """About ``points`` points of the loss curve, as a Markdown table."""
    chosen = curve[:: max(1, len(curve) // points)]
    if chosen[-1] != curve[-1]:
        chosen.append(curve[-1])
    rows = ["| step | minutes | loss |", "|---|---|---|"]
    rows += [f"| {step} | {s / 60:.0f} | {value:.3f} |" for step, s, value in chosen]
    return "\n".join(rows)


def mistakes(metrics: dict) -> str:
    """How often each emoji was missed, worst first."""
    found = metrics[f"padded_to_{evaluate.SHORT}"]["wrong_emoji"]
    names = [line.split(" on a ")[0] for line in found]
    counts = {name: names.count(name) for name in names}
    worst = sorted(counts, key=lambda name: (-counts[name], name))
    return ", ".join(f"{name} ({counts[name]})" for name in worst[:15]) or "none"


def megabytes(folder: Path) -> str:
    """Size of everything in a folder."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{size / 1e6:.1f}"


def render(work: Path, pipeline: Path, *, note: str) -> str:
    """The card's text, with a note on how the run ended."""
    metrics = json.loads((pipeline / "metrics.json").read_text())
    run, vae = checkpoint(work / denoiser.CHECKPOINT), checkpoint(work / autoencoder.CHECKPOINT)
    long = metrics[f"padded_to_{evaluate.DEFAULT}"]
    return CARD.substitute(
        emoji=", ".join(data.EMOJI),
        emoji_count=len(data.EMOJI),
        backgrounds=", ".join(data.BACKGROUNDS),
        pairs=len(data.EMOJI) * len(data.BACKGROUNDS),
        held_out=len(data.pairs(held_out=True)),
        steps=f"{run['step']:,}",
        samples=f"{run['samples']:,}",
        minutes=round(run["spent"] / 60),
        vae_steps=vae["step"],
        vae_minutes=round(vae["spent"] / 60),
        figures=figures_table(metrics),
        measured=metrics[f"padded_to_{evaluate.SHORT}"]["samples"],
        control=metrics["recogniser_on_decoded_truth"],
        long_samples=long["samples"],
        long_emoji_seen=long["emoji_seen"],
        long_emoji_held_out=long["emoji_held_out"],
        long_background=long["background"],
        change=metrics["mean_pixel_change_by_padding"],
        mistakes=mistakes(metrics),
        curve=curve_table(run["curve"]),
        schedule=note,
        size=megabytes(pipeline),
    )


def main() -> None:
    """Read the command line and write."""
    options = command.read(__doc__, "work", "pipeline", note="It ended with its schedule complete.")
    text = render(options.work, options.pipeline, note=options.note)
    (options.pipeline / "README.md").write_text(text)


if __name__ == "__main__":
    main()

"""How many of 28 steps every family skips by default, on tiny random pipelines of every real class.

    python -m benchmarks.skips --write

Random weights say nothing about a threshold's quality; they show that no default is a no-op.
A trained model follows the timestep smoothly, a random one jumps with every step, and guidance of
random predictions throws the latents about. So the time embedding reads only the slow half of its
waves, and the last layer of the head is damped to a tenth.
"""

import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

import pure
from benchmarks.command import parser, publish
from benchmarks.table import markdown
from pure.configs import build, configure
from pure.models import Pipeline, load_pipeline
from pure.transforms import dbcache, scm
from tests.support import chat_pipelines, hunyuan_video_pipelines, qwen_image_pipelines, tiny, wan_pipelines

STEPS = 28
TIME = re.compile(r"(timestep_embedder|time_embedder|t_embedder)\.(linear_1|mlp\.0)\.weight$")
HEAD = re.compile(r"^proj_out\.weight$|^all_final_layer\..*linear\.weight$")
IMAGE = {"height": 32, "width": 32, "max_sequence_length": 64}
VIDEO = {"height": 32, "width": 64, "frames": 5}
PRESETS = ("slow", "medium", "fast", "ultra")
Made = tuple[Callable[[Path], None], dict[str, Any]]


def saver(pipeline: Any) -> Callable[[Path], None]:
    """Return what saves a diffusers pipeline."""
    return lambda folder: pipeline.save_pretrained(folder)


def pipelines() -> Iterator[tuple[str, Made]]:
    """Yield how to save a tiny pipeline of every kind, and the options of a request."""
    yield "FLUX.1", (saver(tiny.pipeline()), IMAGE)
    yield "FLUX.2-dev", (saver(chat_pipelines.flux2_dev()), {**IMAGE, "max_sequence_length": 300})
    yield "FLUX.2-klein", (saver(chat_pipelines.flux2_klein()), IMAGE)
    yield "Z-Image", (saver(chat_pipelines.z_image_pipeline()), IMAGE)
    yield "Ovis-Image", (saver(chat_pipelines.ovis_pipeline()), IMAGE)
    for name, (kind, changes, pictures) in qwen_image_pipelines.KINDS.items():
        save = lambda folder, kind=kind, changes=changes: qwen_image_pipelines.save(folder, kind, **changes)  # noqa: E731
        yield f"Qwen-Image {name}", (save, {"height": 32, "width": 32, "images": list(pictures)})
    for name in wan_pipelines.KINDS:
        count = 2 if name.startswith("flf") else 1 if "i2v" in name or name == "ti2v" else 0
        pictures = [wan_pipelines.picture()] * count
        made = wan_pipelines.pipeline(name)
        yield f"Wan {name}", (saver(made), {**VIDEO, "images": pictures})
    for name in ("text", "concat", "replace"):
        pictures = [] if name == "text" else [hunyuan_video_pipelines.picture()]
        yield f"HunyuanVideo {name}", (saver(hunyuan_video_pipelines.pipeline(name)), {**VIDEO, "images": pictures})


def plans() -> dict[str, Any]:
    """Return the defaults of the library, of the environment, and of every preset."""
    effective = configure(environ={"SGLANG_CACHE_DIT_ENABLED": "true"})
    found: dict[str, Any] = {"dbcache()": dbcache(), "SGLANG_CACHE_DIT_ENABLED": build(effective)}
    for preset in PRESETS:
        found[preset] = pure.compose(dbcache(), scm(preset=preset))
    return found


def load(save: Callable[[Path], None], folder: Path) -> Pipeline:
    """Save a diffusers pipeline and load it; pictures to edit are kept small."""
    save(folder)
    pipeline = load_pipeline(folder)
    small = {"area": 32 * 32, "read_area": 32 * 32}
    known = {name: value for name, value in small.items() if getattr(pipeline, name, None) is not None}
    return attrs.evolve(pipeline, params=calmed(pipeline.params), **known)


def calmed(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters, or those of every expert, with slow time and a damped head."""
    if not all(isinstance(tensor, torch.Tensor) for tensor in params.values()):
        return {name: calmed(each) for name, each in params.items()}
    times = {name: tensor * _slow(tensor.shape[1]) for name, tensor in params.items() if TIME.search(name)}
    heads = {name: 0.1 * tensor for name, tensor in params.items() if HEAD.search(name)}
    assert times and heads, f"no time embedding or no head among {sorted(params)[:5]} ..."
    return {**params, **times, **heads}


def _slow(width: int) -> torch.Tensor:
    """Return 1 for the slow waves of a time embedding, 0 for the fast ones; cosines and sines each begin fast."""
    wave = torch.arange(width) % (width // 2)
    return (wave >= width // 3).float()


def skipped(pipeline: Pipeline, transform: Any, options: Mapping[str, Any]) -> dict[str, int]:
    """Return how many steps the conditional branch of each expert skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a preset too short for an expert says so
        made = pipeline.generate("a dog", transform=transform, steps=STEPS, seed=0, **options)
    counts: dict[str, int] = {}
    for decision in (info.decisions[0] for info in made.infos):
        counts[decision.expert] = counts.get(decision.expert, 0) + (not decision.computed)
    return counts


def measure() -> list[tuple[str, dict[str, dict[str, int]]]]:
    """Return the skipped steps by pipeline and plan."""
    results = []
    for name, (save, options) in pipelines():
        with tempfile.TemporaryDirectory() as folder:
            pipeline = load(save, Path(folder) / "model")
            found = {plan: skipped(pipeline, transform, options) for plan, transform in plans().items()}
            results.append((name, found))
    return results


def table(results: list[tuple[str, dict[str, dict[str, int]]]]) -> str:
    """Return the counts as a Markdown table; of two experts a sum."""
    names = list(results[0][1])
    rows = [(name, *(" + ".join(map(str, found[plan].values())) for plan in names)) for name, found in results]
    return markdown(("tiny pipeline", *(f"`{plan}`" for plan in names)), rows)


def main() -> None:
    """Print the table, and put it into the document."""
    options = parser(__name__, "models.md").parse_args()
    publish(options.write, "models.md", "skips", table(measure()))


if __name__ == "__main__":
    main()

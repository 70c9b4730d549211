"""Whole Wan pipelines against diffusers': the same frames."""

import functools
import json
import shutil
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from diffusers.pipelines.wan import pipeline_wan_i2v
from safetensors.torch import load_file, save_file

import pure
from pure import Branches, Experts, FlowMatchEuler, Schedule, UniPC
from pure.models import CheckpointError, Pipeline, load_pipeline
from pure.models.checkpoint.description import describe
from pure.models.request import Defaults
from pure.models.wan.denoiser import Conditioning
from pure.models.wan.pipeline import WanPipeline
from pure.models.wan.text import TextReader
from pure.transforms import dbcache, scm
from tests.support import wan_pipelines as tiny

TALL: dict[str, Any] = {"height": 32, "width": 64}  # of the models whose latents are 16 pixels
FRAMES = 9


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this optional library diffusers' image-to-video pipeline needs one function, which changes no good prompt."""
    nothing = types.SimpleNamespace(fix_text=lambda text: text)
    monkeypatch.setattr(pipeline_wan_i2v, "ftfy", nothing, raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wan")


@functools.cache
def saved(folder: Path, kind: str, euler: bool = False) -> tuple[Path, Any]:
    """A folder, and the diffusers pipeline that is in it."""
    made = tiny.pipeline(kind, tiny.euler() if euler else tiny.unipc(5.0))
    path = folder / f"{kind}-{euler}"
    made.save_pretrained(path)
    return path, made


@functools.cache
def loaded(folder: Path, kind: str, euler: bool = False) -> WanPipeline:
    found = load_pipeline(saved(folder, kind, euler)[0])
    assert isinstance(found, WanPipeline)
    return found


def options(kind: str, **changes: Any) -> dict[str, Any]:
    """Options of our `generate`: a small request of this kind."""
    size = TALL if kind.startswith("ti2v") else tiny.SIZE
    embeds = "image_dim" in tiny.KINDS[kind][1]
    count = {"flf2v-2.1": 2, "i2v-2.1": 1, "i2v-2.2": 1, "ti2v": 1}.get(kind, 0)
    made = {"steps": 4, "frames": FRAMES, "guidance_scale": 4.0, "max_sequence_length": 512 if embeds else 16, **size}
    return {**made, "images": [tiny.picture(seed) for seed in range(count)], **changes}


def theirs(pipe: Any, prompt: Any, negative: Any, seed: int, given: Mapping[str, Any]) -> tuple[torch.Tensor, Any]:
    """Pixels and latents of diffusers."""
    given = dict(given)
    images = given.pop("images")
    names = {"steps": "num_inference_steps", "frames": "num_frames", "images_per_prompt": "num_videos_per_prompt"}
    call = {names.get(name, name): value for name, value in given.items()}
    call |= dict(zip(("image", "last_image"), images, strict=False))
    found = [
        pipe(
            prompt=prompt,
            negative_prompt=negative,
            generator=torch.Generator().manual_seed(seed),
            output_type=kind,
            **call,
        ).frames
        for kind in ("pt", "latent")
    ]
    return found[0], found[1]


def compare(folder: Path, kind: str, prompt: Any, negative: Any = None, *, euler: bool = False, **changes: Any) -> Any:
    given = options(kind, **changes)
    pixels, latents = theirs(saved(folder, kind, euler)[1], prompt, negative, 5, given)
    made = loaded(folder, kind, euler).generate(prompt, negative, seed=5, **given)
    assert made.pixels.shape == pixels.shape and made.pixels.shape[1:3] == (FRAMES, 3)
    assert (made.pixels - pixels).abs().max() < 1e-4
    assert (made.latents - latents).abs().max() < 1e-4
    return made


@pytest.mark.parametrize("euler", [False, True])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_frames_are_those_of_diffusers(folder: Path, kind: str, euler: bool) -> None:
    compare(folder, kind, "a squirrel", "bad", euler=euler)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_without_guidance(folder: Path, kind: str) -> None:
    compare(folder, kind, "a squirrel", guidance_scale=1.0)


@pytest.mark.parametrize("kind", ["t2v-2.1", "ti2v-from-text", "t2v-2.2"])
def test_several_prompts_and_videos(folder: Path, kind: str) -> None:
    # Without a negative prompt the empty one guides.
    compare(folder, kind, ["a squirrel", "a white dog"], images_per_prompt=2, steps=2)


@pytest.mark.parametrize("kind", ["i2v-2.2", "ti2v"])
def test_several_videos_of_one_picture(folder: Path, kind: str) -> None:
    compare(folder, kind, "a squirrel", "bad", images_per_prompt=2, steps=2)


def test_several_prompts_for_one_embedded_picture(folder: Path) -> None:
    """Several videos of a prompt diffusers cannot make here: it repeats the embedded picture once per prompt only."""
    compare(folder, "i2v-2.1", ["a squirrel", "a white dog"], ["bad", "ugly"], steps=2)
    pipeline = loaded(folder, "i2v-2.1")
    many = pipeline.generate("a squirrel", seed=5, **options("i2v-2.1", steps=2, images_per_prompt=2))
    two = pipeline.generate(["a squirrel"] * 2, seed=5, **options("i2v-2.1", steps=2))
    assert torch.equal(many.pixels, two.pixels)


def test_a_last_picture(folder: Path) -> None:
    compare(folder, "i2v-2.2", "a squirrel", images=[tiny.picture(3), tiny.picture(4)])


@pytest.mark.parametrize("second", [None, 1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_experts_are_guided_each(folder: Path, steps: int, second: float | None) -> None:
    compare(folder, "t2v-2.2", "a squirrel", "bad", steps=steps, guidance_scale_2=second)


def test_experts_count_their_own_steps(folder: Path) -> None:
    pipeline = loaded(folder, "t2v-2.2")
    _, pipe = saved(folder, "t2v-2.2")
    pipe.scheduler.set_timesteps(8)
    high = int((pipe.scheduler.timesteps >= 875).sum())
    request = pipeline.request("", steps=8, frames=FRAMES, **tiny.SIZE)
    steps = pipeline.schedule(request)
    expected = [("high", i, high) for i in range(high)] + [("low", i, 8 - high) for i in range(8 - high)]
    assert [(step.expert, step.index, step.count) for step in steps] == expected and 0 < high < 8
    met = attrs.evolve(pipeline, boundary=float(steps[high].timestep)).schedule(request)
    assert [step.expert for step in met] == ["high"] * (high + 1) + ["low"] * (7 - high), "at the boundary it is high"
    assert [float(step.timestep) for step in steps] == pipe.scheduler.timesteps.tolist()


@pytest.mark.parametrize("kind", ["t2v-2.1", "i2v-2.2"])
def test_bfloat16(folder: Path, kind: str) -> None:
    path, made = saved(folder, kind)
    given = options(kind, steps=2)
    ours = load_pipeline(path, dtype=torch.bfloat16)
    assert {ours.dtype, ours.noise(ours.request("", **given), 1).dtype} == {torch.bfloat16, torch.float32}
    pipe = type(made).from_pretrained(path, dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    # One row at a time, as diffusers; in bf16 two rows may round otherwise than one.
    given["guidance_scale"] = 1.0
    pixels, latents = theirs(pipe, "a squirrel", None, 5, given)
    found = ours.generate("a squirrel", seed=5, **given)
    assert found.latents.dtype == latents.dtype == torch.float32
    assert (found.latents - latents).abs().max() < 1e-4
    assert (found.pixels.float() - pixels.float()).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["t2v-2.1", "i2v-2.1", "ti2v"])
def test_caches_skip(folder: Path, kind: str) -> None:
    pipeline, given = loaded(folder, kind), options(kind, steps=6)
    for transform in (dbcache(front=1, threshold=0.9, warmup=2), scm(mask="110100", policy="static")):
        found = pipeline.generate("a squirrel", "bad", seed=5, transform=transform, **given)
        computed = [flag for info in found.infos for flag in info.computed]
        assert len(computed) == 12 and not all(computed) and found.pixels.isfinite().all()


def test_each_expert_has_a_cache_of_its_own(folder: Path) -> None:
    pipeline, given = loaded(folder, "t2v-2.2"), options("t2v-2.2", steps=10)
    cached = {"low": dbcache(front=1, threshold=0.9, warmup=1)}
    found = pipeline.generate("a squirrel", "bad", seed=5, transform=cached, **given)
    skipped = {name: 0 for name in ("high", "low")}
    for decision in (each for info in found.infos for each in info.decisions):
        skipped[decision.expert] += not decision.computed
    assert skipped["high"] == 0 and skipped["low"] > 0


@pytest.mark.parametrize("kind", ["t2v-2.1", "t2v-2.2", "ti2v", "i2v-2.1"])
def test_the_loop_written_out_gives_the_same(folder: Path, kind: str) -> None:
    pipeline, given = loaded(folder, kind), options(kind, guidance_scale=1.0)
    request = pipeline.request("a squirrel", **given)
    conditioning, latents, steps = pipeline.encode(request), pipeline.noise(request, 5), pipeline.schedule(request)
    solver, params = pipeline.solver, pipeline.params
    denoiser: Any = pipeline.denoiser
    carry = solver.init(latents)
    with torch.no_grad():
        state = denoiser.init(params, conditioning, latents, steps)
        for step in steps:
            prediction, state, _ = denoiser.apply(params, state, pure.Inputs(solver.latents(carry), step))
            carry = solver.step(carry, prediction, step)
    made = pipeline.generate("a squirrel", seed=5, **given)
    assert torch.equal(pipeline.pixels(solver.latents(carry), request), made.pixels)
    frames: Any = pipeline.decode(made.latents, request)
    assert len(frames) == 1 and len(frames[0]) == FRAMES and frames[0][0].size == (given["width"], given["height"])


def test_ti2v_takes_a_picture_or_none(folder: Path) -> None:
    """One checkpoint; diffusers has two classes for it."""
    given, pictures = options("ti2v"), options("ti2v")["images"]
    pipeline, strict = loaded(folder, "ti2v-from-text"), loaded(folder, "ti2v")
    with_picture = pipeline.generate("a squirrel", seed=5, **given)
    assert torch.equal(with_picture.pixels, strict.generate("a squirrel", seed=5, **given).pixels)
    without = pipeline.generate("a squirrel", seed=5, **options("ti2v", images=[]))
    assert not torch.allclose(without.pixels, with_picture.pixels)
    with pytest.raises(ValueError, match=r"takes 0 to 1 input pictures, got 2; see images="):
        pipeline.encode(pipeline.request("a squirrel", **options("ti2v", images=pictures * 2)))


def test_pictures_are_encoded_once_for_both_branches(folder: Path) -> None:
    pipeline = loaded(folder, "i2v-2.1")
    found = pipeline.encode(pipeline.request("a squirrel", "bad", **options("i2v-2.1", images_per_prompt=2)))
    assert isinstance(found, Branches)
    one, two = found.conditional, found.unconditional
    assert one.beside.data_ptr() == two.beside.data_ptr() and one.image.data_ptr() == two.image.data_ptr()
    assert one.beside.shape == (2, 20, 3, 2, 4) and one.image.shape == (2, 5, 24)
    assert not torch.equal(one.text, two.text)


def test_sizes_follow_the_picture(folder: Path) -> None:
    pipeline = loaded(folder, "i2v-2.1")
    tall = tiny.picture().resize((30, 60))
    both = pipeline, loaded(folder, "ti2v-from-text")
    requests = [each.request("", images=[tall], frames=5) for each in both]
    assert [(each.height, each.width) for each in requests] == [(880, 432), (1312, 640)]
    assert (pipeline.request("", images=[tall], height=32, width=48).width, pipeline.request("").height) == (48, 480)


def test_prompts_are_cleaned_and_truncated_with_a_warning(folder: Path) -> None:
    pipeline = loaded(folder, "t2v-2.1")
    small = options("t2v-2.1", max_sequence_length=8)
    del small["images"]
    small["guidance_scale"] = 1.0
    plain, other = (pipeline.encode(pipeline.request(text, **small)) for text in ("a & b", " a  &amp;amp;\n b"))
    assert isinstance(plain, Conditioning) and isinstance(other, Conditioning)
    assert torch.equal(other.text, plain.text)
    assert plain.text.shape == (1, 8, 32) and (plain.text[0, -1] == 0).all()
    with pytest.warns(UserWarning, match=r"reads 8 tokens and the prompt 'abcdefghij' has \d+; it does not see 'ghij'"):
        pipeline.encode(pipeline.request("abcdefghij", **small))


DEFAULTS = {
    "t2v-2.1": (50, 3.0, None, 480, 832, 81, 16),
    "t2v-2.2": (40, 4.0, 3.0, 720, 1280, 81, 16),
    "ti2v-from-text": (50, 5.0, None, 704, 1280, 121, 24),
    "i2v-2.2": (40, 3.5, 3.5, 720, 1280, 81, 16),
    "ti2v": (50, 5.0, None, 704, 1280, 121, 24),
}


@pytest.mark.parametrize("kind", DEFAULTS)
def test_defaults_are_told_from_the_files(folder: Path, kind: str) -> None:
    found = describe(saved(folder, kind)[0]).defaults
    names = ("steps", "guidance_scale", "guidance_scale_2", "height", "width", "frames", "fps")
    expected: dict[str, Any] = dict(zip(names, DEFAULTS[kind], strict=True))
    assert found == Defaults(**expected, negative_prompt="")


@pytest.mark.parametrize(
    ("shift", "layers", "image", "scale", "height"),
    [(3.0, 40, True, 5.0, 480), (5.0, 40, True, 5.0, 720), (3.0, 40, False, 5.0, 720), (3.0, 30, False, 3.0, 480)],
)
def test_sizes_of_wan_2_1(folder: Path, tmp_path: Path, shift, layers, image, scale, height) -> None:
    path = copied(folder, "i2v-2.1" if image else "t2v-2.1", tmp_path)
    edit(path / "transformer" / "config.json", num_layers=layers)
    edit(path / "scheduler" / "scheduler_config.json", flow_shift=shift)
    found = describe(path).defaults
    assert (found.guidance_scale, found.height) == (scale, height)


def test_solvers_are_told_from_the_files(folder: Path) -> None:
    assert loaded(folder, "t2v-2.1").solver == UniPC(Schedule(shift=5.0, spacing="whole", unit=1))
    assert loaded(folder, "t2v-2.1", True).solver == FlowMatchEuler(Schedule(shift=7.0, spacing="train", unit=1))


def copied(folder: Path, kind: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved(folder, kind)[0], tmp_path / kind))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_tensors_that_nothing_reads_are_left_out(folder: Path, tmp_path: Path) -> None:
    """Public image-to-video checkpoints of Wan 2.1 have them."""
    path = copied(folder, "i2v-2.1", tmp_path)
    file = path / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(file), "blocks.0.attn2.norm_added_q.weight": torch.ones(48)}, file)
    assert load_pipeline(path).params.keys() == loaded(folder, "i2v-2.1").params.keys()


def test_experts_have_a_denoiser_each(folder: Path) -> None:
    one, two = loaded(folder, "t2v-2.1"), loaded(folder, "t2v-2.2")
    assert isinstance(two.denoiser, Experts) and set(two.denoiser.denoisers) == set(two.params) == {"high", "low"}
    assert not isinstance(one.denoiser, Experts) and isinstance(one.reader, TextReader)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("t2v-2.1", {"height": 24}, r"height=24 is not a positive multiple of 16 pixels; the nearest size is 32"),
        ("ti2v", {"width": 48}, r"width=48 is not a positive multiple of 32 pixels; the nearest size is 64"),
        ("t2v-2.1", {"frames": 8}, r"frames=8 is not 1 plus a multiple of 4; the nearest number is 9"),
        (
            "t2v-2.1",
            {"guidance_scale_2": 2.0},
            r"guidance_scale_2=2.0 is that of a second expert, .* leave it out",
        ),
        ("t2v-2.1", {"images": [tiny.picture()]}, r"this model takes no input pictures, got 1; see images="),
        ("i2v-2.1", {"images": []}, r"this model takes 1 input picture, got 0; see images="),
        ("flf2v-2.1", {"images": [tiny.picture()]}, r"this model takes 2 input pictures, got 1; see images="),
        ("i2v-2.2", {"images": [tiny.picture()] * 2, "frames": 1}, r"2 pictures do not fit into frames=1"),
        ("t2v-2.1", {"max_sequence_length": 513}, r"max_sequence_length=513 should be in 1 to 512"),
    ],
)
def test_what_cannot_be_made_is_refused(folder: Path, kind: str, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loaded(folder, kind).generate("a squirrel", **options(kind, **changes))


@pytest.mark.parametrize(
    ("kind", "file", "changes", "message"),
    [
        ("t2v-2.1", "scheduler/scheduler_config", {"solver_order": 3}, r"solver_order=3 \(supported: 2\), not impl"),
        ("t2v-2.1", "scheduler/scheduler_config", {"use_karras_sigmas": True}, r"use_karras_sigmas=True, not implem"),
        ("t2v-2.1", "scheduler/scheduler_config", {"use_flow_sigmas": False}, r"use_flow_sigmas=False \(supported: T"),
        ("t2v-2.1", "scheduler/scheduler_config", {"solver_type": "bh1"}, r"solver_type='bh1' \(supported: 'bh2'\)"),
        ("t2v-2.1", "scheduler/scheduler_config", {"disable_corrector": [0]}, r"disable_corrector=\[0\], not implem"),
        ("t2v-2.1", "scheduler/scheduler_config", {"_class_name": "DDIMScheduler"}, r"DDIMScheduler; supported: UniPC"),
        ("t2v-2.1", "model_index", {"boundary_ratio": 0.9}, r"boundary_ratio is 0.9 and the transformers are transf"),
        (
            "t2v-2.2",
            "model_index",
            {"boundary_ratio": None},
            r"boundary_ratio is None and .* transformer, transformer_2",
        ),
        (
            "t2v-2.1",
            "transformer/config",
            {"in_channels": 36},
            r"36 channels in, 16 out .* text-to-video .* needs 16, 16",
        ),
        (
            "i2v-2.2",
            "transformer_2/config",
            {"in_channels": 16},
            r"image-to-video with .* 16 channels needs 36, 16 and 1",
        ),
        ("t2v-2.1", "transformer/config", {"patch_size": [2, 2, 2]}, r"patches of 2 frames; .* needs 16, 16 and 1"),
        (
            "t2v-2.1",
            "transformer/config",
            {"image_dim": 24, "added_kv_proj_dim": 48},
            r"embeds a picture, and text-to-video has none; the pipeline should be a WanImageToVideoPipeline",
        ),
        (
            "i2v-2.1",
            "model_index",
            {"image_encoder": [None, None]},
            r"needs image_encoder and image_processor; there is image_processor",
        ),
    ],
)
def test_checkpoints_that_are_not_supported_are_refused(folder, tmp_path, kind, file, changes, message) -> None:
    path = copied(folder, kind, tmp_path)
    edit(path / f"{file}.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        load_pipeline(path)


def test_the_same_family_serves_all(folder: Path) -> None:
    for kind in tiny.KINDS:
        task = "image-to-video" if options(kind)["images"] else "text-to-video"
        found = describe(saved(folder, kind)[0])
        assert (found.family.name, found.kind.task) == ("Wan", task) and isinstance(loaded(folder, kind), Pipeline)


def test_a_preset_too_short_for_an_expert_is_off_for_that_expert(folder: Path) -> None:
    pipeline = loaded(folder, "t2v-2.2")
    asked = options("t2v-2.2", steps=7)
    shares = [step.expert for step in pipeline.schedule(pipeline.request("", steps=7, frames=FRAMES, **tiny.SIZE))]
    assert (shares.count("high"), shares.count("low")) == (3, 4)  # there is no mask of three steps, and one of four
    with (
        pytest.warns(UserWarning, match="nothing will be skipped"),
        pytest.warns(UserWarning, match="there is no mask"),
    ):
        made = pipeline.generate("a dog", transform=scm(preset="fast", policy="static"), seed=0, **asked)
    skipped = [info.decisions[0].expert for info in made.infos if not info.decisions[0].computed]
    assert skipped and set(skipped) == {"low"}

"""`puredit generate` on every kind of pipeline: images, edited images, videos, two experts."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.cli.test_video import read
from tests.support import chat_pipelines, hunyuan_video_pipelines, qwen_image_pipelines, tiny, wan_pipelines

SMALL = ("--num-inference-steps", "4", "--height", "32", "--width", "32")
VIDEO = ("--num-inference-steps", "4", "--height", "32", "--width", "64", "--num-frames", "5")
SKIPPING = ("--cache-dit-params", '{"residual_diff_threshold": 1, "max_warmup_steps": 1}')


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A tiny random checkpoint of several families."""
    folder = tmp_path_factory.mktemp("families")
    chat_pipelines.z_image_pipeline().save_pretrained(folder / "z-image")
    chat_pipelines.flux2_klein().save_pretrained(folder / "klein")
    for name in ("t2v-2.1", "t2v-2.2", "i2v-2.2"):
        wan_pipelines.pipeline(name).save_pretrained(folder / name)
    hunyuan_video_pipelines.pipeline("text").save_pretrained(folder / "hunyuan")
    kind, changes, _ = qwen_image_pipelines.KINDS["text-to-image"]
    qwen_image_pipelines.save(folder / "qwen", kind, **changes)
    return folder


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "first.png"
    wan_pipelines.picture().save(path)
    return path


@pytest.mark.parametrize("name", ["z-image", "klein", "qwen"])
def test_images(puredit, folders, tmp_path, name):
    words = ("--prompt", "a dog", *SMALL, *SKIPPING, "--output-file-path", "dog.png")
    code, out, err = puredit("generate", *words, model=folders / name)
    assert code == 0, err
    with Image.open(tmp_path / "dog.png") as image:
        assert image.size == (32, 32)
    assert "steps skipped" in out and "1 computed  3 skipped" in err


def test_an_edited_image_where_pictures_are_optional(puredit, folders, tmp_path):
    picture = tmp_path / "first.png"
    wan_pipelines.picture().resize((64, 64)).save(picture)
    words = ("--prompt", "a dog", *SMALL, "--output-file-path", "dog.png")
    with_picture = ("--prompt", "a dog", *SMALL, "--image-path", str(picture), "--output-file-path", "edited.png")
    for line in (words, with_picture):
        code, _, err = puredit("generate", *line, model=folders / "klein")
        assert code == 0, err
    assert (tmp_path / "dog.png").read_bytes() != (tmp_path / "edited.png").read_bytes()


@pytest.mark.parametrize("name", ["t2v-2.1", "hunyuan"])
def test_videos(puredit, folders, tmp_path, name):
    words = ("--prompt", "a dog runs", *VIDEO, *SKIPPING, "--fps", "12", "--output-file-path", "dog", "--save-frames")
    code, out, err = puredit("generate", *words, model=folders / name)
    assert code == 0, err
    assert out.splitlines()[:2] == ["dog.mp4", "dog-frames/"]
    frames, about = read(tmp_path / "dog.mp4")
    assert frames.shape == (5, 32, 64, 3) and "12 fps" in about
    written = sorted((tmp_path / "dog-frames").iterdir())
    assert len(written) == 5
    exact = np.stack([np.asarray(Image.open(path)) for path in written]).astype(float)
    assert np.abs(exact - frames).mean() < 12  # noise, compressed


def test_a_video_from_a_picture_with_two_experts(puredit, folders, tmp_path, picture, monkeypatch):
    """The second expert has settings of its own: here it may not skip, and the first one does."""
    for name, value in {"ENABLED": "true", "WARMUP": "1", "RDT": "1", "SECONDARY_RDT": "0"}.items():
        monkeypatch.setenv(f"SGLANG_CACHE_DIT_{name}", value)
    words = ("--prompt", "a dog", *VIDEO, "--num-inference-steps", "8", "--image-path", str(picture))
    code, _, err = puredit("generate", *words, "--perf-dump-path", "perf.json", model=folders / "i2v-2.2")
    assert code == 0, err
    (file,) = (tmp_path / "outputs").iterdir()
    assert file.suffix == ".mp4"
    read = json.loads((tmp_path / "perf.json").read_text())
    decided = [(d["expert"], d["computed"]) for d in read["images"][0]["decisions"] if d["branch"] == "conditional"]
    assert {name for name, _ in decided} == {"high", "low"}
    assert any(not computed for name, computed in decided if name == "high")
    assert all(computed for name, computed in decided if name == "low")


def test_a_comparison_of_videos(puredit, folders, tmp_path):
    words = ("--prompt", "a dog", *VIDEO, "--plot", "plot.png", "--output-file-path", "a.mp4")
    code, out, err = puredit("generate", *words, model=folders / "t2v-2.2")
    assert code == 0, err
    assert "PSNR" in out and (tmp_path / "a-without-cache.mp4").exists()
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.size[0] > 800


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("i2v-2.2", (), "a WanImageToVideoPipeline does image-to-video and needs a picture; give --image-path FILE"),
        ("i2v-2.2", ("--image-path", "nowhere.png"), "--image-path nowhere.png cannot be read: No such file"),
        ("i2v-2.2", ("--image-path", "bad.png"), "it is no picture we can read"),
        ("t2v-2.1", ("--image-path", "bad.png"), "a WanPipeline takes no pictures"),
        ("i2v-2.2", ("--image-path", *["a.png"] * 3), "reads 1 to 2 input pictures; --image-path names 3"),
        ("klein", ("--image-path", *["a.png"] * 11), "reads 0 to 10 input pictures; --image-path names 11"),
        ("t2v-2.1", ("--height", "8192", "--width", "4096"), "4096 x 8192 x 81 pixels are latents of"),
        ("qwen", ("--height", "16384", "--width", "16384"), "the most are 16,777,216"),
        ("t2v-2.1", ("--output-file-path", "a.png"), "this model makes videos, written as .mp4"),
        ("t2v-2.1", ("--guidance-scale-2", "3"), "this one has one"),
        ("qwen", ("--num-frames", "5"), "a QwenImagePipeline makes images, not videos"),
        ("qwen", ("--save-frames",), "a QwenImagePipeline makes images, not videos"),
    ],
)
def test_what_a_checkpoint_cannot_do(puredit, folders, unloaded, tmp_path, name, words, message):
    (tmp_path / "bad.png").write_text("not a picture")
    code, out, err = puredit("generate", "--prompt", "a", *words, model=folders / name)
    assert (code, out) == (2, "") and message in err and "Traceback" not in err


def test_a_picture_is_turned_and_what_it_loses_is_told(puredit, folders, tmp_path):
    exif, photo, upright = Image.Exif(), tmp_path / "photo.png", tmp_path / "upright.png"
    exif[0x0112] = 6
    stored = wan_pipelines.picture().resize((96, 64)).convert("RGBA")
    stored.putpixel((0, 0), (1, 2, 3, 0))
    stored.save(photo, exif=exif)
    stored.rotate(270, expand=True).convert("RGB").save(upright)
    made = []
    for path in (photo, upright):
        words = ("--prompt", "a", "--num-inference-steps", "1", "--width", "32", "--height", "32")
        output = tmp_path / f"of-{path.name}"
        code, _, err = puredit(
            "generate", *words, "--image-path", str(path), "--output-file-path", str(output), model=folders / "klein"
        )
        assert code == 0, err
        assert (f"{path}: the picture has transparent parts" in err.replace("\n", " ")) is (path == photo)
        made.append(Image.open(output).tobytes())
    assert made[0] == made[1]


def test_a_variant_of_the_files(puredit, tmp_path):
    tiny.pipeline().save_pretrained(tmp_path / "fp16", variant="fp16")
    words = ("--prompt", "a", "--num-inference-steps", "1", "--max-sequence-length", "8")
    for variant in ((), ("--variant", "fp16")):
        code, _, err = puredit("generate", *words, *variant, model=tmp_path / "fp16")
        assert code == 0, err
    code, out, err = puredit("generate", *words, "--variant", "bf16", model=tmp_path / "fp16")
    assert (code, out) == (2, "") and "has no weights of the variant 'bf16'; it has fp16" in err


def test_frames_that_do_not_fit(puredit, folders):
    words = ("--prompt", "a", *VIDEO[:-1], "8")
    code, out, err = puredit("generate", *words, model=folders / "t2v-2.1")
    assert (code, out) == (2, "") and "the nearest number is 9" in err

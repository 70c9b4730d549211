"""What a checkpoint says before it is loaded, how it is loaded, and its pictures, with stand-ins for the model."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pure.configs import Facts
from pure.engine import checkpoint as module
from pure.engine.checkpoint import Checkpoint, look, pictures
from pure.engine.errors import Misuse
from pure.engine.extras import require
from pure.engine.plans import find_plan
from pure.engine.saving import eight_bits
from pure.engine.video import write_frames
from pure.models import CheckpointError, PictureError
from pure.models.checkpoint.loading import LoadOptions
from pure.notes import Note


def described(
    task: str = "text-to-image", experts: int = 1, reads: Any = (0, 0), packed: bool = True, **defaults: Any
) -> Any:
    usual = {"height": 64, "width": 32, "frames": 1, "fps": 8, "steps": 7}
    return SimpleNamespace(
        kind=SimpleNamespace(pipeline="FluxPipeline", task=task),
        transformers=("transformer", "transformer_2")[:experts],
        denoisers={"high": SimpleNamespace(blocks=range(5)), "low": SimpleNamespace(blocks=range(3))},
        defaults=SimpleNamespace(**{**usual, **defaults}),
        sizes=SimpleNamespace(
            height=2,
            width=4,
            wrong=lambda name, value: "is odd" if value % 2 and name != "frames" else None,
            latents=lambda height, width, frames: height * width * frames // 4,
        ),
        family=SimpleNamespace(packed=packed),
        image_count=reads,
    )


def one(found: Any = None, **fields: Any) -> Checkpoint:
    return Checkpoint(path="a", found=found or described(), **fields)


@pytest.mark.parametrize(
    ("task", "video"),
    [("text-to-image", False), ("image-editing", False), ("text-to-video", True), ("image-to-video", True)],
)
def test_what_is_known_by_its_task(task, video):
    found = one(described(task, experts=2))
    assert (found.name, found.video, found.experts) == ("FluxPipeline", video, 2)
    assert (found.fps(None), found.fps(3)) == ((8, 3) if video else (None, None))


@pytest.mark.parametrize(
    ("precision", "gpu", "dtype"),
    [(None, False, "float32"), (None, True, None), ("bf16", False, "bfloat16"), ("fp16", True, "float16"),
     ("fp32", True, "float32")],
)  # fmt: skip
def test_facts_of_a_run(monkeypatch, precision, gpu, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    found = one(precision=precision)
    assert found.dtype == (None if dtype is None else getattr(torch, dtype))
    known: dict[str, Any] = {"dtype": dtype, "device": "cuda" if gpu else "cpu", "blocks": 5, "experts": 1}
    known |= {"packed": True, "denoiser": found.found.denoisers["high"]}
    assert found.facts(None) == Facts(steps=7, processes=1, sequence=None, groups=1, **known)
    assert found.facts(9, 4, 2, 3) == Facts(steps=9, processes=4, sequence=2, groups=3, **known)


def test_the_scale_of_a_second_expert_needs_one():
    one(described(experts=2)).check_expert_scale(0.0, "--guidance-scale-2")
    one().check_expert_scale(None, "--guidance-scale-2")
    with pytest.raises(Misuse, match="--guidance-scale-2 is for the second expert of a model") as error:
        one().check_expert_scale(0.0, "--guidance-scale-2")
    assert error.value.field == "--guidance-scale-2"


@pytest.mark.parametrize(
    ("sizes", "flag", "message", "field"),
    [
        ((7, None, None), None, "--height 7 is odd", "height"),
        ((None, 9, None), None, "--width 9 is odd", "width"),
        ((8, 9, None), "--sizes", "--sizes: width 9 is odd", "width"),
        (
            (8192, 8194, None),
            None,
            "--width 8194, --height 8192: 8194 x 8192 pixels are latents of 16,781,312 num",
            None,
        ),
        (
            (2**20, 66, None),
            "--sizes",
            "--sizes: 66 x 1048576 pixels are latents of 17,301,504 numbers, the most",
            None,
        ),
        ((2**22, None, None), None, "--width 32, --height 4194304: 32 x 4194304 pixels", None),
        ((None, 2**21, None), None, "--width 2097152, --height 64: 2097152 x 64 pixels", None),
        (
            (None, None, 2**16),
            None,
            "32 x 64 x 65536 pixels are latents of 33,554,432 numbers, the most are 16,777,216",
            None,
        ),
    ],
)
def test_sizes_that_cannot_be(sizes, flag, message, field):
    found = one()
    for fine in ((None, None, None), (8192, 8192, None), (8192, None, 2**8)):
        found.check_pixels(*fine)
    with pytest.raises(Misuse) as error:
        found.check_pixels(*sizes, flag=flag)
    assert message in error.value.message and error.value.field == field
    frames = one(described("text-to-video", frames=4, height=None, width=None))
    frames.check_pixels(4096, 4096, None)
    with pytest.raises(Misuse, match="4096 x 4096 x 5 pixels are latents of 20,971,520 numbers, the most are"):
        frames.check_pixels(4096, 4096, 5)
    with pytest.raises(Misuse, match="--width 4, --height 4194306: 4 x 4194306 x 4 pixels"):
        frames.check_pixels(2**22 + 2, None, None)
    with pytest.raises(Misuse, match="--width 8388610, --height 2: 8388610 x 2 x 4 pixels"):
        frames.check_pixels(None, 2**23 + 2, None)
    assert module._flag("frames", None) == module._flag("frames", "--sizes") == "--num-frames"


@pytest.mark.parametrize("path", [None, "a"])
def test_how_a_checkpoint_is_loaded(monkeypatch, path):
    calls: list[Any] = []
    monkeypatch.setattr(module, "quiet_libraries", lambda: calls.append("quiet"))
    monkeypatch.setattr("pure.models.embedded", lambda: "embedded")
    monkeypatch.setattr("pure.models.checkpoint.loading.load", lambda *each: calls.append(each))
    found = Checkpoint(path=path, found=described(), precision="bf16", variant="v")
    found.load(part=(1, 2), encoder_part=(3, 4))
    options = LoadOptions(variant="v", dtype=torch.bfloat16, device="cpu", part=(1, 2), encoder_part=(3, 4))
    assert calls == ["quiet", (found.found, path or "embedded", options)]

    def fail(*_: Any, **__: Any) -> None:
        raise CheckpointError("damaged")

    monkeypatch.setattr("pure.models.checkpoint.loading.load", fail)
    with pytest.raises(Misuse, match="damaged"):
        found.load()


@pytest.mark.parametrize("path", [None, "a"])
def test_how_a_checkpoint_is_described(monkeypatch, path):
    monkeypatch.setattr("pure.models.embedded", lambda: "embedded")
    monkeypatch.setattr("pure.models.checkpoint.hub.locate", lambda name, files: f"folder of {name}")
    monkeypatch.setattr("pure.models.checkpoint.description.describe", lambda folder: folder)
    found: Any = look(path, precision="fp16", compiled=True, variant="v")
    assert (found.path, found.found) == (path, "embedded" if path is None else "folder of a")
    assert (found.precision, found.compiled, found.variant) == ("fp16", True, "v")


@pytest.mark.parametrize(
    ("extra", "missing", "libraries"),
    [("plot", "matplotlib", "matplotlib and scikit-image"), ("plot", "skimage.metrics", "matplotlib and scikit-image"),
     ("video", "imageio_ffmpeg", "imageio with ffmpeg"), ("serve", "fastapi", "FastAPI and uvicorn"),
     ("serve", "uvicorn", "FastAPI and uvicorn"), ("serve", "python_multipart", "FastAPI and uvicorn")],
)  # fmt: skip
def test_what_an_extra_needs_is_named_with_the_way_to_get_it(monkeypatch, extra, missing, libraries):
    require(extra, "this")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(Misuse, match=rf"this needs {libraries} \(.*{missing}.*\); pip install 'puredit\[{extra}\]'"):
        require(extra, "this")
    with pytest.raises(ImportError, match="that needs"):
        require(extra, "that", ImportError)


def test_plans_are_files_or_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model" / "plans").mkdir(parents=True)
    found: Any = SimpleNamespace(folder=tmp_path / "model")
    with pytest.raises(
        Misuse, match="--plan slow: there is no such file; this checkpoint comes without plans; puredit tu"
    ):
        find_plan("slow", found)
    for name in ("slow", "fast"):
        (tmp_path / "model" / "plans" / f"{name}.yaml").touch()
    assert find_plan("slow", found) == tmp_path / "model" / "plans" / "slow.yaml"
    with pytest.raises(
        Misuse, match="--plan slo: there is no such file; plans of this checkpoint: fast, slow; puredit tu"
    ):
        find_plan("slo", found)
    (tmp_path / "slow").touch()
    assert str(find_plan("slow", found)) == "slow", "a file takes precedence"


# ------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize(("count", "wanted"), [((0, 0), "no"), ((1, 1), "1"), ((0, 3), "0 to 3"), ((1, 3), "1 to 3")])
def test_how_many_pictures_a_model_reads_is_said(count, wanted):
    found = one(described(reads=count))
    for number in range(6):
        if count[0] <= number <= count[1]:
            found.check_pictures(number)
            continue
        with pytest.raises(Misuse, match=f"a FluxPipeline reads {wanted} input pictures; this request has {number}"):
            found.check_pictures(number)


def test_pictures_are_for_models_that_read_some(monkeypatch):
    monkeypatch.setattr(module, "_opened", lambda path: f"picture {path}")
    edits = described("image-editing", reads=(1, 2))
    assert pictures(["a", "b"], edits) == ("picture a", "picture b")
    with pytest.raises(Misuse, match="a FluxPipeline does image-editing and needs a picture; give --image-path FILE"):
        pictures([], edits)
    with pytest.raises(Misuse, match="a FluxPipeline reads 1 to 2 input pictures; --image-path names 3"):
        pictures(["a", "b", "c"], edits)
    assert pictures([], described()) == () and pictures(["a"], described(reads=(0, 3))) == ("picture a",)
    with pytest.raises(Misuse, match=r"--image-path a b: a FluxPipeline takes no pictures \(task: text-to-image\)"):
        pictures(["a", "b"], described())


def test_pictures_that_cannot_be_read(monkeypatch, tmp_path):
    found = described("image-editing", reads=(1, 3))
    with pytest.raises(
        Misuse, match=r"--image-path nowhere.png cannot be read: No such file or directory; give a local"
    ):
        pictures(["nowhere.png"], found)
    error: list[Exception] = [OSError("without a number"), PictureError("too large")]
    monkeypatch.setattr("pure.models.open_picture", lambda path: (_ for _ in ()).throw(error.pop(0)))
    for reason in ("without a number", "too large"):
        with pytest.raises(Misuse, match=f"--image-path x cannot be read: {reason}; give"):
            pictures(["x"], found)
    named = SimpleNamespace(named=lambda text: Note(text))
    monkeypatch.setattr("pure.models.open_picture", lambda path: named)
    assert pictures(["x"], found) == (Note("--image-path x"),)


def test_frames_become_pictures_of_their_own(tmp_path):
    frames = np.stack([np.full((2, 4, 3), shade, np.float32) for shade in (0.0, 0.999)])
    write_frames(tmp_path / "a-frames", eight_bits(frames))
    found = sorted((tmp_path / "a-frames").iterdir())
    assert [path.name for path in found] == ["frame-0000.png", "frame-0001.png"]
    shown = []
    for path in found:
        with Image.open(path) as opened:
            shown.append((opened.size, opened.getpixel((0, 0))))
    assert shown == [((4, 2), (0, 0, 0)), ((4, 2), (255, 255, 255))]

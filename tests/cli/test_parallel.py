"""Several processes make the picture that one makes, say everything once, and leave nothing behind."""

import json
import multiprocessing
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.structure.source import ROOT
from tests.support import qwen_image_pipelines, wan_pipelines

FEW = ("--num-inference-steps", "8", "--max-sequence-length", "8")
# A random model changes much from step to step: some steps are skipped and some are not.
EXTRA = ("--extra-parallel-modules", "text_encoder", "vae")
CACHE = ("--cache-dit-params", '{"residual_diff_threshold": 0.3, "max_warmup_steps": 2}')


@pytest.fixture(autouse=True)
def nobody_is_left():
    yield
    assert not multiprocessing.active_children()


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def decisions(path: Path) -> list:
    """What every step of every image did; the changes are compared by closeness."""
    read = json.loads(path.read_text())
    return [[(d["step"], d["branch"], d["computed"], d["reason"].split(" (")[0]) for d in image["decisions"]]
            for image in read["images"]]  # fmt: skip


@pytest.fixture
def one_and_several(puredit, tmp_path):
    """Make a picture in one process and in several; return both pictures, decisions, and what was said."""

    def call(words, several, model=None):
        found = []
        for name, added in (("one", ()), ("several", several)):
            files = ("--output-file-path", f"{name}.png", "--perf-dump-path", f"{name}.json")
            kind = {} if model is None else {"model": model}
            code, out, err = puredit("generate", "--prompt", "a dog", *words, *files, *added, **kind)
            assert code == 0, err
            found.append((pixels(tmp_path / f"{name}.png"), decisions(tmp_path / f"{name}.json"), out, err))
        return found

    return call


def same(one, several) -> None:
    """Expect equal decisions, and pixels within a level.

    Sums over ranks are added in another order, which rounds differently in the seventh digit, and
    such a difference may lie on the edge between two levels.
    """
    assert np.abs(one[0] - several[0]).max() <= 1
    assert one[1] == several[1]


@pytest.mark.parametrize(
    ("several", "axes"),
    [
        (("--num-gpus", "2"), "2 processes on the CPU, as there is no GPU: ulysses 2"),
        (("--num-gpus", "3"), "ulysses 3"),
        (("--num-gpus", "2", "--ring-degree", "2"), "ring 2"),
        (("--num-gpus", "2", "--tp-size", "2"), "tp 2"),
        (("--num-gpus", "4", "--sp-degree", "4", "--ulysses-degree", "2", "--ring-degree", "2"), "ring 2 x ulysses 2"),
        (("--num-gpus", "4", "--tp-size", "2"), "ulysses 2 x tp 2"),
    ],
)
def test_several_processes_make_the_picture_of_one(one_and_several, several, axes):
    one, more = one_and_several((*FEW, *CACHE), several)
    same(one, more)
    computed = [entry[2] for entry in one[1][0]]
    assert 0 < sum(computed) < len(computed), "the cache neither skipped nor computed all"
    assert f"note: {axes}" in more[3] or f": {axes}\n" in more[3]


def test_text_encoders_and_the_decoder_are_shared(one_and_several, tmp_path):
    """The CLIP of the checkpoint stays whole, which is said; table and report have what a process holds."""
    words = ("--num-gpus", "2", "--cache-dit-config", "parallel_extra.yaml")
    one, more = one_and_several((*FEW, *CACHE), words)
    same(one, more)
    said = " ".join(more[3].split())
    assert "has no effect" not in said
    assert "text_encoder stays whole in every process, as a CLIPTextModel is not split" in said
    assert "weights of process 0" not in one[2]
    (row,) = (line for line in more[2].splitlines() if "weights of process 0" in line)
    found = re.search(r"text_encoder_2 (\d+\.\d) of (\d+\.\d) MB", row)
    assert found, row
    held, whole = map(float, found.groups())
    assert whole / 2 <= held < 0.6 * whole
    weights = json.loads((tmp_path / "several.json").read_text())["settings"]["weights"]
    assert list(weights) == ["transformer", "text_encoder", "text_encoder_2", "vae"]
    assert weights["text_encoder_2"]["bytes"] < 0.6 * weights["text_encoder_2"]["of"]
    assert all(each["bytes"] == each["of"] for name, each in weights.items() if name != "text_encoder_2")


def test_everything_is_said_once(one_and_several):
    words = (*FEW, *CACHE, "--negative-prompt", "a cat")
    one, several = one_and_several(words, ("--num-gpus", "3"))

    def timeless(text):
        return re.sub(r"\d+\.\d+ (denoising|with)", "", text.replace("several", "one")).split("\n")

    assert timeless(several[2]) == timeless(one[2])
    assert several[3].count("the negative prompt has no effect: set true_cfg_scale above 1") == 1
    extra = [line for line in several[3].splitlines() if line not in one[3].splitlines()]
    assert extra == ["note: 3 processes on the CPU, as there is no GPU: ulysses 3"]


def test_guidance_and_several_images(puredit, tmp_path):
    words = (
        "--prompt",
        "a dog",
        "a cat",
        "--seed",
        "1",
        "2",
        *FEW,
        *CACHE,
        "--true-cfg-scale",
        "2",
        "--negative-prompt",
        "",
    )
    made = []
    for folder, added in (("one", ()), ("several", ("--num-gpus", "2"))):
        code, out, err = puredit(
            "generate", *words, "--output-path", folder, "--perf-dump-path", f"{folder}.json", *added
        )
        assert code == 0, err
        listed = [line for line in out.splitlines() if line.startswith(folder)]
        assert sorted(listed) == sorted(f"{folder}/{file.name}" for file in (tmp_path / folder).iterdir())
        made.append([pixels(tmp_path / line) for line in listed])
    assert len(made[0]) == 4 and np.abs(np.stack(made[0]) - np.stack(made[1])).max() <= 1
    assert decisions(tmp_path / "one.json") == decisions(tmp_path / "several.json")


def test_a_comparison_and_its_plot(puredit, tmp_path):
    words = ("--prompt", "a dog", *FEW, *CACHE, "--output-file-path", "a.png", "--plot", "p.png", "--num-gpus", "2")
    words = (*words, "--extra-parallel-modules", "vae", "--perf-dump-path", "r.json")
    code, out, err = puredit("generate", *words)
    assert code == 0, err
    assert out.splitlines()[:2] == ["a.png", "a-without-cache.png"] and "PSNR" in out
    assert pixels(tmp_path / "p.png").shape[1] > 800
    read = json.loads((tmp_path / "r.json").read_text())
    assert read["images"][0]["without_cache"]["skipped_steps"] == []
    assert read["settings"]["processes"] == 2
    assert read["settings"]["parallel"]["sizes"] == {"ring": 1, "ulysses": 2, "tp": 1, "cfg": 1, "dp": 1}


def test_warm_up(puredit):
    words = ("--prompt", "a dog", *FEW, *CACHE, "--warmup", "--warmup-resolutions", "64x32", "--num-gpus", "2")
    code, out, err = puredit("generate", *words)
    assert code == 0, err
    assert len(out.splitlines()) > 3 and "8/8" in err


def test_quiet_runs_list_files_only(puredit):
    code, out, err = puredit("generate", "--prompt", "a", *FEW, "--num-gpus", "2", "--log-level", "warning",
                             "--output-file-path", "a.png")  # fmt: skip
    assert (code, out, err) == (0, "a.png\n", "")


def test_float8_communication_changes_little(one_and_several, tmp_path):
    """Keys and values are rounded to 3 bits behind the comma in every attention of every step."""
    (tmp_path / "f8.yaml").write_text("parallelism_config: {ulysses_size: auto, ulysses_float8: true}")
    one, several = one_and_several(FEW, ("--num-gpus", "2", "--cache-dit-config", "f8.yaml"))
    error = np.mean((one[0] - several[0]) ** 2.0)
    assert 0 < error < 255**2 / 10**2.5, "below 25 dB"


@pytest.mark.parametrize("options", ["ulysses_async: true", "ring_size: 2, ring_rotate_method: allgather"])
def test_options_that_change_no_result(one_and_several, tmp_path, options):
    (tmp_path / "p.yaml").write_text(f"parallelism_config: {{{options}}}")
    same(*one_and_several((*FEW, *CACHE), ("--num-gpus", "2", "--cache-dit-config", "p.yaml")))


@pytest.mark.alone
def test_compiled(one_and_several):
    same(*one_and_several((*FEW, *CACHE, "--enable-torch-compile"), ("--num-gpus", "2")))


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    wan_pipelines.pipeline("t2v-2.2").save_pretrained(folder / "wan")
    qwen_image_pipelines.save(folder / "qwen", "QwenImagePipeline")
    return folder


def test_another_family_and_guidance(one_and_several, families):
    words = ("--num-inference-steps", "8", "--height", "48", "--width", "40", *CACHE)
    guided = ("--true-cfg-scale", "3", "--negative-prompt", "")
    several = ("--num-gpus", "4", "--tp-size", "2", *EXTRA)
    one, more = one_and_several((*words, *guided), several, families / "qwen")
    same(one, more)
    assert "text_encoder is split over groups of 2 processes, which its 2 heads" in " ".join(more[3].split())
    (row,) = (line for line in more[2].splitlines() if "weights of process 0" in line)
    held, loaded = map(float, re.findall(r"transformer (\d+\.\d) of (\d+\.\d) MB", row)[0])
    assert held < 0.7 * loaded


def test_a_video_with_two_experts(puredit, families, tmp_path):
    words = (
        "--num-inference-steps",
        "6",
        "--height",
        "32",
        "--width",
        "64",
        "--num-frames",
        "5",
        *CACHE,
        "--save-frames",
    )
    made = []
    for name, added in (("one", ()), ("several", ("--num-gpus", "2", *EXTRA))):
        files = ("--output-file-path", f"{name}.mp4", "--perf-dump-path", f"{name}.json")
        code, _, err = puredit("generate", "--prompt", "a", *words, *files, *added, model=families / "wan")
        assert code == 0, err
        made.append(np.stack([pixels(path) for path in sorted((tmp_path / f"{name}-frames").iterdir())]))
    assert np.abs(made[0] - made[1]).max() <= 1
    assert decisions(tmp_path / "one.json") == decisions(tmp_path / "several.json")


def test_experts_quantised_apart(puredit, families, tmp_path):
    """Each has settings of its own, and each process quantises its part."""
    (tmp_path / "q.yaml").write_text(
        "quantize_config: {quant_type: int8_weight_only, components_to_quantize: [transformer_2]}\n"
    )
    words = ("--num-inference-steps", "4", "--height", "32", "--width", "64", "--num-frames", "5", "--save-frames")
    made = []
    words = (*words, "--cache-dit-config", "q.yaml")
    for name, added in (("one", ()), ("several", ("--num-gpus", "2", "--tp-size", "2"))):
        code, _, err = puredit("generate", "--prompt", "a", *words, *added, "--output-file-path", f"{name}.mp4",
                               model=families / "wan")  # fmt: skip
        assert code == 0, err
        assert err.count("note: quantised ") == 1
        made.append(np.stack([pixels(path) for path in sorted((tmp_path / f"{name}-frames").iterdir())]))
    # Rows that are split over processes have a scale in each: another rounding, of 1 in 254 at most.
    assert np.mean((made[0] - made[1]) ** 2.0) < 255**2 / 10**3


@pytest.mark.slow
def test_processes_that_were_not_forked(one_and_several, monkeypatch):
    """A process with other threads is not forked; those of GPUs never are."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        same(*one_and_several((*FEW, *CACHE), ("--num-gpus", "2")))
    finally:
        done.set()
        thread.join()

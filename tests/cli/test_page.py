"""Every command of the users' page, with `puredit` for `sglang` and local folders for the hub ids."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.configs.page import PAGE
from tests.support import qwen_image_pipelines, tiny

BLOCKS = re.findall(r"```bash\n(.*?)```", Path(__file__).with_name("page.md").read_text(encoding="utf-8"), re.DOTALL)
COMMANDS = [shlex.split(block.replace("\\\n", " ")) for block in BLOCKS]
HUB_IDS = {words[words.index("--model-path") + 1] for words in COMMANDS}


def config_of(words):
    return words[words.index("--cache-dit-config") + 1] if "--cache-dit-config" in words else ""


def name(words):
    """What tells a command from the others: its file, or the last variable in front of it."""
    return config_of(words) or words[words.index("sglang") - 1]


pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """A folder for every hub id of the page, with a tiny random model in it."""
    folder = tmp_path_factory.mktemp("hub")
    for name in HUB_IDS:
        tiny.pipeline(num_layers=1, num_single_layers=2).save_pretrained(folder / name)
    return folder


@pytest.fixture
def type_in(puredit, hub, tmp_path, monkeypatch):
    """Type a command of the page, the environment in front of it included."""
    for name in {name.split("/")[0] for name in HUB_IDS}:
        (tmp_path / name).symlink_to(hub / name)
    for name, text in PAGE.items():
        (tmp_path / name).write_text(text)

    def call(words):
        program = words.index("sglang")
        for assignment in words[:program]:
            monkeypatch.setenv(*assignment.split("=", 1))
        return puredit(*words[program + 1 :], model=None)

    return call


def test_a_command_of_the_page_with_a_model_of_that_class(puredit, tmp_path, monkeypatch):
    """The other commands run on small FLUX folders; a Qwen-Image pipeline makes a megapixel by default.

    4,100 tokens attend to each other: one head is enough.
    """
    words = next(words for words in COMMANDS if "Qwen/Qwen-Image" in words and not config_of(words))
    qwen_image_pipelines.save(tmp_path / "Qwen/Qwen-Image", "QwenImagePipeline", num_layers=2, num_attention_heads=1)
    program = words.index("sglang")
    for assignment in words[:program]:
        monkeypatch.setenv(*assignment.split("=", 1))
    code, out, err = puredit(*words[program + 1 :], model=None)
    assert code == 0, err
    assert len(images(tmp_path)) == 1 and "50/50" in err and "steps computed (unconditional)" in out


def images(folder):
    found = sorted((folder / "outputs").iterdir()) if (folder / "outputs").exists() else []
    for file in found:
        with Image.open(file) as image:
            image.load()
    return found


def test_the_page_is_read():
    assert len(COMMANDS) == 8 and all("sglang" in words for words in COMMANDS)
    assert HUB_IDS == {"Qwen/Qwen-Image", "black-forest-labs/FLUX.1-dev"}


@pytest.mark.parametrize("words", COMMANDS, ids=name)
def test_a_command_of_the_page_runs(type_in, tmp_path, words):
    code, out, err = type_in(words)
    assert code == 0, err
    (file,) = images(tmp_path)
    assert f"outputs/{file.name}" in out
    assert "50/50" in err and "of 50" in out
    assert ("4 processes on the CPU" in err) == ("--num-gpus" in words)


@pytest.mark.parametrize("config", ["cache_scm.yaml", "cache_scm_cfg.yaml", "hybrid.yaml", "parallel.yaml"])
def test_other_files_of_the_page_on_one_device(type_in, tmp_path, config):
    words = next(words for words in COMMANDS if config_of(words) == "cache.yaml")
    few = ["--num-inference-steps", "28", "--true-cfg-scale", "2", "--negative-prompt", ""]
    code, _, err = type_in([config if word == "cache.yaml" else word for word in words] + few)
    assert code == 0, err
    assert len(images(tmp_path)) == 1 and "28/28" in err


# Every file of the page for several processes, with the processes it is for and the axes they form.
SEVERAL = {
    "parallel.yaml": (4, "ulysses 4"),
    "parallel_2d.yaml": (4, "ulysses 2 x tp 2"),
    "parallel_3d.yaml": (8, "ring 2 x ulysses 2 x tp 2"),
    "parallel_uaa.yaml": (4, "ulysses 4"),
    "parallel_fp8.yaml": (4, "ulysses 4"),
    "parallel_async.yaml": (4, "ulysses 4"),
    "parallel_extra.yaml": (4, "ulysses 4"),
    "hybrid.yaml": (4, "ulysses 4"),
    "combined.yaml": (4, "ulysses 4"),
}


def test_no_file_for_several_processes_is_left_out():
    assert {name for name, text in PAGE.items() if "parallelism_config" in text} == set(SEVERAL)


@pytest.fixture(scope="session")
def qwen(tmp_path_factory):
    """A tiny Qwen-Image folder; its attention has 4 heads."""
    folder = tmp_path_factory.mktemp("qwen")
    qwen_image_pipelines.save(folder, "QwenImagePipeline", num_attention_heads=4)
    return folder


@pytest.mark.alone
@pytest.mark.parametrize("config", SEVERAL)
def test_several_processes_make_the_picture_of_one(puredit, qwen, tmp_path, config):
    """With the caching of the file, and without guidance as the page has it.

    Sums over processes are added in another order and differ in the seventh digit, which can move
    an 8-bit pixel by a level. In float8, which has 3 bits behind the comma, that is what is compared:
    communication rounds in several processes only, weights and activations in one as well.
    """
    count, axes = SEVERAL[config]
    (tmp_path / "one.yaml").write_text(re.sub("parallelism_config:\n(  .*\n)*", "", PAGE[config]) or "{}")
    words = ("--prompt", "a sunset", "--backend", "diffusers", "--height", "56", "--width", "40")
    words = (*words, "--num-inference-steps", "16")
    cached = ()
    if "cache_config" in PAGE[config]:
        cached = ("--cache-dit-config", "one.yaml")
        words = (*words, "--cache-dit-params", '{"residual_diff_threshold": 0.95}')  # a random model changes by about 1
    found = []
    for file, added in (("one", cached), ("more", ("--num-gpus", str(count), "--cache-dit-config", config))):
        files = ("--output-file-path", f"{file}.png", "--perf-dump-path", f"{file}.json")
        code, _, err = puredit("generate", *words, *files, *added, model=qwen)
        assert code == 0, err
        read = json.loads((tmp_path / f"{file}.json").read_text())
        with Image.open(tmp_path / f"{file}.png") as image:
            found.append((np.asarray(image).astype(int), read["computed_steps"], read["skipped_steps"]))
    assert f"{count} processes on the CPU, as there is no GPU: {axes}" in err
    (one, *decided), (more, *decided_by_several) = found
    assert decided == decided_by_several
    assert bool(cached) == bool(decided[1]), "a cache that never skips shows nothing"
    if "float8" in PAGE[config]:
        assert 0 < np.mean((one - more) ** 2) < 255**2 / 10**2.5  # at least 25 dB
    else:
        assert np.abs(one - more).max() <= 1


@pytest.mark.alone
def test_hybrid_on_the_embedded_checkpoint(puredit, tmp_path):
    """A trained model, and the file as it stands: the threshold decides."""
    words = (
        "--prompt",
        "a red apple on a blue background",
        "--max-sequence-length",
        "16",
        "--perf-dump-path",
        "a.json",
    )
    found = []
    for file, added in (("cache.yaml", ()), ("hybrid.yaml", ("--num-gpus", "4"))):
        code, _, err = puredit(
            "generate", *words, "--cache-dit-config", file, "--output-file-path", "a.png", *added, model=None
        )
        assert code == 0, err
        read = json.loads((tmp_path / "a.json").read_text())
        with Image.open(tmp_path / "a.png") as image:
            found.append(
                (np.asarray(image).astype(int), [(d["step"], d["computed"]) for d in read["images"][0]["decisions"]])
            )
    assert found[0][1] == found[1][1] and 0 < sum(computed for _, computed in found[0][1]) < 28
    assert np.abs(found[0][0] - found[1][0]).max() <= 1


NEEDS = {
    "parallel_2d.yaml": "start with --num-gpus 2",
    "parallel_3d.yaml": "start with --num-gpus 8",
    "attention.yaml": "write one that does: native, ",
}


@pytest.mark.parametrize("config", sorted(PAGE))
def test_packaged_files_by_name_on_the_embedded_checkpoint(puredit, tmp_path, config):
    words = ("--prompt", "a red apple on a blue background", "--max-sequence-length", "16")
    code, _, err = puredit("generate", *words, "--cache-dit-config", config, model=None)
    if config in NEEDS:
        assert code == 2 and NEEDS[config] in err and images(tmp_path) == []
        return
    assert code == 0 and len(images(tmp_path)) == 1 and "28/28" in err
    assert f"{config}: the file packaged with puredit" in err
    if "parallel" in config or config == "hybrid.yaml":
        assert "auto is 1 here, as the run has 1 process" in err
    if "cache" in config or config == "hybrid.yaml":
        assert "0 skipped" not in err

"""Every command of the users' page, with `puredit` for `sglang` and local folders for the hub ids."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from tests.configs.page import PAGE
from tests.support import qwen_image_pipelines, tiny

BLOCKS = re.findall(r"```bash\n(.*?)```", Path(__file__).with_name("page.md").read_text(encoding="utf-8"), re.DOTALL)
COMMANDS = [shlex.split(block.replace("\\\n", " ")) for block in BLOCKS]
HUB_IDS = {words[words.index("--model-path") + 1] for words in COMMANDS}
# What a later version will do; until then these commands are refused, with the reason.
LATER = {"parallel.yaml": "--num-gpus 4", "hybrid.yaml": "--num-gpus 4", "quantize.yaml": "quantisation"}


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
    """The other commands run on small FLUX folders; a Qwen-Image pipeline makes a megapixel by default."""
    words = next(words for words in COMMANDS if "Qwen/Qwen-Image" in words and not config_of(words))
    qwen_image_pipelines.save(tmp_path / "Qwen/Qwen-Image", "QwenImagePipeline", num_layers=2)
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


@pytest.mark.parametrize("words", [words for words in COMMANDS if config_of(words) not in LATER], ids=name)
def test_a_command_of_the_page_runs(type_in, tmp_path, words):
    code, out, err = type_in(words)
    assert code == 0, err
    (file,) = images(tmp_path)
    assert f"outputs/{file.name}" in out
    assert "50/50" in err and "of 50" in out


@pytest.mark.parametrize("words", [words for words in COMMANDS if config_of(words) in LATER], ids=name)
def test_a_command_for_a_later_version_says_so(type_in, tmp_path, words):
    code, out, err = type_in(words)
    assert (code, out) == (2, "") and LATER[config_of(words)] in err and images(tmp_path) == []


@pytest.mark.parametrize("config", ["cache_scm.yaml", "cache_scm_cfg.yaml", "hybrid.yaml", "parallel.yaml"])
def test_other_files_of_the_page_on_one_device(type_in, tmp_path, config):
    words = next(words for words in COMMANDS if config_of(words) == "cache.yaml")
    few = ["--num-inference-steps", "28", "--true-cfg-scale", "2", "--negative-prompt", ""]
    code, _, err = type_in([config if word == "cache.yaml" else word for word in words] + few)
    assert code == 0, err
    assert len(images(tmp_path)) == 1 and "28/28" in err


NEEDS = {
    "parallel_2d.yaml": "start with --num-gpus 2",
    "parallel_3d.yaml": "start with --num-gpus 8",
    "attention.yaml": "write native",
    "quantize.yaml": "remove quantize_config",
    "combined.yaml": "remove quantize_config",
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

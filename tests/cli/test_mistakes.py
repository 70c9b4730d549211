"""Mistakes and mishaps: what was wrong, where, and the cure; nothing finished is lost."""

import os
import re
import signal
import sys
import time

import pytest
from PIL import Image

import pure.cli.generate
import pure.engine.denoising
from pure.cli import interruption
from tests.support.forked import command

FEW = ("--num-inference-steps", "3", "--max-sequence-length", "8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "there is no prompt; give --prompt"),
        (("--promt", "a"), "did you mean --prompt?"),
        (("--prompt", "a", "--num_inference_steps", "3"), "--num-inference-steps"),
        (
            ("--prompt", "a", "--num-inference-steps", "0"),
            "'0' is not a whole number from 1 to 10000",
        ),
        (("--prompt", "a", "--seed", "1", "-2"), "'--seed': '-2' is not a whole number of at least 0"),
        (("--prompt", "a", "--backend", "vllm"), "--backend"),
        (("--prompt", "a", "b", "--output-file-path", "x.png"), "2 images cannot all be called x.png"),
        (("--prompt", "a", "--output-file-path", "x.mp4"), "--output-file-path x.mp4: .mp4 is a video"),
        (("--prompt", "a", "--output-file-path", "x/"), "ends in a folder"),
        (("--prompt", "a", "--output-file-path", "x.png", "--output-file-name", "y"), "give only one of the two"),
        (("--prompt", "a", "--plot", "x.pdf"), "let the name end in .png"),
        (("--prompt", "a", "--prompt-file-path", "missing.txt"), "--prompt-file-path missing.txt cannot be read"),
        (("--prompt", "a", "--config", "missing.yaml"), "--config missing.yaml cannot be read"),
        (("--prompt", "a", "--cache-dit-config", "missing.yaml"), "missing.yaml: found no such file"),
        (("--prompt", "a", "--cache-dit-params", '{"Fn_compute_block": 1}'), "did you mean Fn_compute_blocks?"),
        (("--prompt", "a", "--cache-dit-params", "{"), "--cache-dit-params"),
        (("--prompt", "a", "--warmup-resolutions", "64x64"), "add --warmup-mode request"),
        (("--prompt", "a", "--warmup", "--warmup-resolutions", "64"), "write WIDTHxHEIGHT"),
        (("--prompt", "a", "--warmup", "false", "--warmup-mode", "request"), "contradicts --warmup-mode request"),
        (("--prompt", "a", "--compare", "--enable-cache-dit", "false"), "--enable-cache-dit false switches it off"),
        (("--prompt", "a", "--dit-precision", "fp32", "--vae-precision", "bf16"), "all parts have one precision"),
        (("--prompt", "a", "--vae-precision", "fp16"), "choose --dit-precision fp16 for all"),
    ],
)
def test_misuse_is_found_before_loading(puredit, unloaded, words, message):
    code, out, err = puredit("generate", *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--cfg-parallel-size", "2"), "cfg_size: 2 needs 2 processes, this run has 1; start with --num-gpus 2"),
        (("--enable-cfg-parallel",), "cfg_size: 2 needs 2 processes, this run has 1; start with --num-gpus 2"),
        (
            ("--enable-cfg-parallel", "false", "--cfg-parallel-size", "2"),
            "contradicts --cfg-parallel-size 2; give only",
        ),
        (("--dit-cpu-offload",), "stays on its device"),
        (("--dit-layerwise-offload", "true"), "stays on its device"),
        (("--vae-tiling",), "one piece"),
        (("--cache-dit-params", '{"cache_type": "SeaCache"}'), "this model packs them into tokens; write cache_type"),
        (("--cache-dit-params", '{"cache_type": "FORA", "cache_options": {"interval": 0}}'), "the interval must be a"),
        (("--enable-teacache", "--plan", "fast"), "--plan both say which steps to compute"),
        (("--enable-teacache", "--enable-cache-dit", "false"), "contradicts --enable-cache-dit false"),
        (("--trust-remote-code",), "never run"),
        (("--lora-path", "x"), "LoRA"),
        (("--image-path", "x.png"), "takes no pictures"),
        (("--num-frames", "81"), "images, not videos"),
        (("--fps", "24"), "images, not videos"),
        (("--profile",), "--perf-dump-path"),
        (("--return-frames",), "library"),
        (("--warmup-mode", "server"), "--warmup-mode request"),
        (("--diffusers-kwargs", '{"a": 1}'), "diffusers pipeline"),
        (("--revision", "fp16"), "revision"),
        (("--attention-backend", "flash"), "native"),
    ],
)
def test_what_is_not_there_yet_is_refused_before_loading(puredit, unloaded, words, reason):
    code, out, err = puredit("generate", "--prompt", "a", *words)
    assert (code, out) == (2, "")
    assert words[0] in err and reason in err and "Traceback" not in err


def test_all_that_is_refused_is_told_at_once(puredit, unloaded):
    code, out, err = puredit("generate", "--prompt", "a", "--vae-tiling", "--lora-path", "x", "--profile")
    assert (code, out) == (2, "")
    told = {line.removeprefix("error: ").split(" is ")[0] for line in err.splitlines()}
    assert told == {"--profile", "--vae-tiling", "--lora-path x"}


def test_a_server_is_told_all_at_once_too(puredit, unloaded):
    code, _, err = puredit("serve", "--pin-cpu-memory", "--vae-tiling", "--lora-path", "x")
    assert code == 2 and len(err.splitlines()) == 3
    assert all(flag in err for flag in ("--pin-cpu-memory", "--lora-path x", "--vae-tiling"))


@pytest.mark.parametrize(
    "model", ["./nothere", "../not/there", "/not/there", "~/nothere", "~nobody.here", "owner/name/", "nothere/."]
)
def test_a_path_is_never_looked_up_at_the_hub(puredit, unloaded, monkeypatch, model):
    def download(*_, **__):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    code, out, err = puredit("generate", "--prompt", "a", model=model)
    assert (code, out) == (2, "") and f"there is no folder {model!r}" in err


def test_what_asks_for_nothing_is_accepted(puredit):
    off = "dit-cpu-offload text-encoder-cpu-offload vae-cpu-offload enable-teacache trust-remote-code warmup".split()
    one = "num-gpus tp-size sp-degree ulysses-degree ring-degree dp-size num-frames".split()
    words = [word for name in off for word in (f"--{name}", "false")] + [word for n in one for word in (f"--{n}", "1")]
    code, _, err = puredit("generate", "--prompt", "a", *FEW, *words, "--attention-backend", "native")
    assert code == 0, err


def test_a_wrong_key_of_the_cache_file(puredit, unloaded, tmp_path):
    (tmp_path / "cache.yaml").write_text("cache_config:\n  residual_dif_threshold: 0.1\n")
    code, _, err = puredit("generate", "--prompt", "a", "--cache-dit-config", "cache.yaml")
    assert code == 2
    assert "cache.yaml:2:3" in err and "did you mean residual_diff_threshold?" in err


def test_a_lenient_look_at_the_cache_file(puredit, tmp_path):
    (tmp_path / "cache.yaml").write_text("cache_config:\n  residual_dif_threshold: 0.1\n  Fn_compute_blocks: 1\n")
    words = ("--cache-dit-config", "cache.yaml", "--lenient-config")
    code, _, err = puredit("generate", "--prompt", "a", *FEW, *words)
    assert code == 0 and "residual_dif_threshold is unknown and has no effect" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--height", "30"), "the nearest size is 32"),
        (("--max-sequence-length", "600"), "600"),
        (("--enable-cache-dit", "--cache-dit-params", '{"Fn_compute_blocks": 7}'), "the denoiser has 6"),
    ],
)
def test_what_only_the_model_knows(puredit, words, message):
    code, out, err = puredit("generate", "--prompt", "a", *FEW, *words)
    assert (code, out) == (2, "") and message in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("model", "message"), [("nowhere", "there is no folder 'nowhere'"), (".", "model_index.json is missing")]
)
def test_a_wrong_model(puredit, model, message):
    code, _, err = puredit("generate", "--prompt", "a", model=model)
    assert code == 2 and message in err and "Traceback" not in err


def test_an_unknown_command(puredit):
    assert "did you mean generate?" in puredit("genrate")[2]


@pytest.mark.parametrize("flag", ["--output-path", "--plot", "--perf-dump-path"])
def test_a_folder_that_cannot_be_written(puredit, unloaded, tmp_path, flag):
    (tmp_path / "file").touch()
    name = {"--output-path": "file/x", "--plot": "file/x.png", "--perf-dump-path": "file/x.json"}[flag]
    code, out, err = puredit("generate", "--prompt", "a", flag, name)
    assert (code, out) == (1, "")
    assert f"{flag} file" in err and "choose another folder" in err


def test_devices_are_left_alone(puredit, unloaded):
    code, _, err = puredit("generate", "--prompt", "a", "--perf-dump-path", "/dev/full")
    assert code == 1 and "no ordinary file" in err


def test_without_the_libraries_of_the_plot(puredit, unloaded, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = puredit("generate", "--prompt", "a", "--plot", "x.png")
    assert code == 2 and "pip install 'puredit[plot]'" in err


def test_a_disk_that_fills_up_keeps_what_is_finished(puredit, full_disk, tmp_path):
    code, out, err = puredit("generate", "--prompt", "a", "--seed", "1", "2", "3", *FEW)
    assert code == 1 and "No space left on device; free some space" in err and "Traceback" not in err
    (file,) = (tmp_path / "outputs").iterdir()
    assert out.splitlines()[0] == f"outputs/{file.name}" and "3 of 3" in out


def test_an_interruption_keeps_what_is_finished(puredit, monkeypatch, tmp_path):
    real, calls = pure.engine.denoising.denoise, []

    def denoise(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr("pure.engine.denoising.denoise", denoise)
    code, out, err = puredit("generate", "--prompt", "a", "--seed", "1", "2", "3", "--batch-size", "1", *FEW)
    assert code == 130 and "interrupted after 1 of 3 images" in err
    (file,) = (tmp_path / "outputs").iterdir()
    assert file.name in out


def test_a_mistake_of_ours_says_where_it_is_on_demand(puredit, monkeypatch):
    def load(*_):
        raise RuntimeError("something broke")

    monkeypatch.setattr("pure.cli.generate.load", load)
    code, _, err = puredit("generate", "--prompt", "a")
    assert (code, err) == (1, "error: RuntimeError: something broke; --debug shows where\n")
    code, _, err = puredit("generate", "--prompt", "a", "--debug")
    assert code == 1 and "Traceback" in err


@pytest.mark.slow
def test_control_c_in_a_process_of_its_own(checkpoint, tmp_path):
    words = ["generate", "--model-path", str(checkpoint), "--prompt", "a", "--num-outputs", "5000", *FEW]
    with command(words, tmp_path) as process:
        while len(process.out.read_text().splitlines()) < 2:
            assert process.poll() is None, process.err.read_text()
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        code, err = process.wait(), process.err.read_text()
    assert code == 130, err
    assert "error: interrupted after" in err and "Traceback" not in err
    listed = [line for line in process.out.read_text().splitlines() if line.startswith("outputs/")]
    assert sorted(listed) == sorted(f"outputs/{name}" for name in os.listdir(tmp_path / "outputs"))
    for name in listed:
        with Image.open(tmp_path / name) as image:
            image.load()


def test_all_flags_that_are_not_supported_are_told_at_once(puredit, unloaded):
    code, _, err = puredit("generate", "--prompt", "a", "--vae-tiling", "--profile", "--revision", "fp16")
    assert code == 2
    assert all(flag in err for flag in ("--vae-tiling is", "--profile is", "--revision fp16 is"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--num-outputs-per-prompt", "1000000000"), "1000000000 results; at most 100000"),
        (("--seed", "9" * 5000), r"9{60}'\.\.\. \(5000 characters\) is not a whole number"),
        (("--num-inference-steps", "10001"), "'10001' is not a whole number from 1 to 10000"),
        (("--guidance-scale", "1e308"), "'1e308' is not a finite number of at least 0 and at most 1000"),
        (("--true-cfg-scale", "1e30"), "'1e30' is not a finite number"),
        (("--prompt", "\udcff"), "what is no character"),
        (("--negative-prompt", "a\ud800"), "what is no character"),
    ],
)
def test_extremes_are_refused_in_a_few_words(puredit, unloaded, words, message):
    code, _, err = puredit("generate", "--prompt", "a cat", *words)
    assert code == 2 and re.search(message, err) and len(err) < 400, err


@pytest.mark.parametrize(("name", "text"), [("deep.yaml", "a: " + "[" * 5000), ("deep.json", "[" * 100_000)])
def test_a_file_of_flags_that_is_nested_too_deeply(puredit, unloaded, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    code, _, err = puredit("generate", "--prompt", "a cat", "--config", tmp_path / name)
    assert code == 2 and "nested too deeply" in err and len(err) < 400


def test_a_thread_that_was_left_is_not_waited_for(monkeypatch):
    """`sys.exit` would take the interpreter down under it."""
    left = []
    monkeypatch.setattr(interruption, "abandoned", [])
    monkeypatch.setattr(interruption.os, "_exit", left.append)
    with pytest.raises(SystemExit) as end:
        interruption.leave(3)
    assert end.value.code == 3 and not left
    interruption.abandon()
    with pytest.raises(SystemExit):  # of which a process that has left sees nothing
        interruption.leave(130)
    assert left == [130]

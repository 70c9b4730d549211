"""`puredit serve` as it is typed: flags, the port, signals, and who wins."""

import json
import signal
import socket
import sys

import httpx2
import pytest

from pure.cli.main import run

LONG = {"prompt": "a cat", "num_inference_steps": 5000}


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    """Type `puredit serve` with words that end at once; return exit code and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = run(["serve", *map(str, words)])
        return code, capsys.readouterr().err

    return call


@pytest.fixture
def unloaded(monkeypatch):
    """Nothing may be loaded: what is wrong has to be found before."""

    def load(*_, **__):
        raise AssertionError("a checkpoint was loaded before the mistake was found")

    monkeypatch.setattr("pure.cli.serve.open_engine", load)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere/nothing"], "nowhere/nothing"),
        (["a", "--model-path", "b"], "a and --model-path both name the model"),
        (["--prompt", "a cat"], "there is no flag --prompt"),
        (["--port", "70000"], "from 0 to 65535"),
        (
            ["--num-gpus", "3", "--dp-size", "2"],
            "3 processes cannot be divided into 2 equal groups; write --num-gpus 4",
        ),
        (["--dp-size", "2"], "--dp-size 2: 1 process cannot be divided into 2 equal groups; write --num-gpus 2"),
        (["--tp-size", "2"], "tp_size: 2 needs 2 processes, this run has 1; start with --num-gpus 2"),
        (["--enable-cfg-parallel"], "cfg_size: 2 needs 2 processes"),
        (["--lora-path", "x"], "LoRA is not supported in this version"),
        (["--cache-dit-config", "nothing.yaml"], "nothing.yaml"),
        (["--cache-dit-params", '{"Fn_compute_block": 2}'], "did you mean Fn_compute_blocks"),
        (["--cache-dit-params", '{"Fn_compute_blocks": 99}'], "99"),
        (["--host", "no.such.host.invalid", "--port", "0"], "--host no.such.host.invalid is unknown"),
    ],
    ids=lambda value: "-".join(value)[:40] if isinstance(value, list) else "",
)
def test_mistakes_are_found_before_anything_is_loaded(typed, unloaded, words, message):
    code, err = typed(*words)
    assert code == 2 and message in err and "Traceback" not in err


def test_a_wrong_environment_is_found_before_anything_is_loaded(typed, unloaded, monkeypatch):
    monkeypatch.setenv("SGLANG_CACHE_DIT_FN", "two")
    code, err = typed("--port", 0)
    assert code == 2 and "SGLANG_CACHE_DIT_FN" in err


def test_a_busy_port_is_an_error_and_no_other_port_is_taken(typed, unloaded):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, err = typed("--port", port)
    assert code == 1 and f"cannot listen on 127.0.0.1:{port}: Address already in use" in err
    assert "choose another with --port" in err


def test_folders_are_checked_before_anything_is_loaded(typed, unloaded, tmp_path):
    (tmp_path / "file").write_text("")
    code, err = typed("--output-path", tmp_path / "file", "--port", 0)
    assert code == 1 and "--output-path" in err


@pytest.mark.parametrize(
    "words", [["--warmup", "--warmup-mode", "off"], ["--warmup-resolutions", "64x64", "--warmup-mode", "off"]]
)
def test_warm_up_flags_that_contradict_each_other(typed, words):
    code, err = typed("--port", 0, *words)
    assert code == 2 and "--warmup" in err


def test_a_warm_up_of_a_size_that_is_not_possible(typed):
    code, err = typed("--port", 0, "--warmup-resolutions", "63x63")
    assert code == 2 and "--warmup-resolutions: height 63 is not a positive multiple of 8 pixels" in err


def test_without_the_extra_the_message_says_how_to_get_it(typed, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, err = typed("--port", 0)
    assert code == 2 and "pip install 'puredit[serve]'" in err


@pytest.mark.slow
def test_flags_and_file_count_below_the_request_and_ctrl_c_is_an_interruption(serve, tmp_path):
    (tmp_path / "cache.yaml").write_text(
        "cache_config:\n  residual_diff_threshold: 0.3\n  max_warmup_steps: 2\n  Fn_compute_blocks: 1\n"
    )
    (tmp_path / "serve.yaml").write_text(f"cache_dit_config: {tmp_path / 'cache.yaml'}\nwarmup_mode: request\n")
    params = json.dumps({"residual_diff_threshold": 0.2})
    server = serve("flux", "--config", tmp_path / "serve.yaml", "--cache-dit-params", params, SGLANG_CACHE_DIT_MC="1")
    server.ready()
    names = ("residual_diff_threshold", "max_warmup_steps", "max_continuous_cached_steps")

    def cache(**fields):
        settings = post(server, num_inference_steps=3, **fields).json()["puredit"]["cache_settings"]
        return [settings[name]["value"] for name in names]

    assert cache() == [0.2, 2, 1]
    assert cache(cache_dit_params={"residual_diff_threshold": 0.1}) == [0.1, 2, 1]
    code = server.end(signal.SIGINT)
    said = "\n".join(server.said)
    assert code == 130 and "Traceback" not in said and "interrupted; the server has stopped" in said
    assert "warmed up in" in said


def post(server, **fields):
    return httpx2.post(f"{server.url}/v1/images/generations", json={**LONG, **fields}, timeout=60)


def test_all_flags_that_a_server_does_not_support_are_told_at_once(typed, unloaded):
    code, err = typed("--vae-tiling", "--pin-cpu-memory", "--num-gpus", 1, "--lora-path", "x")
    assert code == 2
    for words in ("--vae-tiling is not", "--pin-cpu-memory is not", "--lora-path x"):
        assert words in err
    assert "--num-gpus" not in err

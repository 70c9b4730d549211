"""Several processes make the picture that one makes, say everything once, and leave nothing behind."""

import errno
import json
import multiprocessing
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

import pure.cli.generate
from pure.cli.errors import Misuse
from pure.cli.main import puredit as group
from pure.distributed import Sizes
from tests.structure.source import ROOT
from tests.support import qwen_image_pipelines, wan_pipelines

FEW = ("--num-inference-steps", "8", "--max-sequence-length", "8")
# A random model changes much from step to step: some steps are skipped and some are not.
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
    code, out, err = puredit("generate", *words, "--perf-dump-path", "r.json")
    assert code == 0, err
    assert out.splitlines()[:2] == ["a.png", "a-without-cache.png"] and "PSNR" in out
    assert pixels(tmp_path / "p.png").shape[1] > 800
    read = json.loads((tmp_path / "r.json").read_text())
    assert read["images"][0]["without_cache"]["skipped_steps"] == []
    assert read["settings"]["processes"] == 2
    assert read["settings"]["parallel"]["sizes"] == {"ring": 1, "ulysses": 2, "tp": 1}


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


@pytest.mark.slow
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
    same(*one_and_several((*words, *guided), ("--num-gpus", "4", "--tp-size", "2"), families / "qwen"))


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
    for name, added in (("one", ()), ("several", ("--num-gpus", "2"))):
        files = ("--output-file-path", f"{name}.mp4", "--perf-dump-path", f"{name}.json")
        code, _, err = puredit("generate", "--prompt", "a", *words, *files, *added, model=families / "wan")
        assert code == 0, err
        made.append(np.stack([pixels(path) for path in sorted((tmp_path / f"{name}-frames").iterdir())]))
    assert np.abs(made[0] - made[1]).max() <= 1
    assert decisions(tmp_path / "one.json") == decisions(tmp_path / "several.json")


# ------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tp-size", "2"), "tp_size: 2 needs 2 processes, this run has 1; start with --num-gpus 2"),
        (("--num-gpus", "4", "--ulysses-degree", "2"), "needs 2 processes, this run has 4; start with --num-gpus 2"),
        (("--num-gpus", "4", "--sp-degree", "2"), "or add --tp-size 2"),
        (("--num-gpus", "4", "--sp-degree", "4", "--ulysses-degree", "2", "--ring-degree", "1"),
         "ulysses 2 x ring 1 is 2, not 4; write --sp-degree 2"),
        (("--num-gpus", "8", "--tp-size", "8"), "the attention has 4 heads, fewer than the 8 ranks"),
        (("--num-gpus", "0"), "'0' is not a whole number of at least 1"),
        (("--num-gpus", "3", "--cache-dit-config", "parallel_2d.yaml"), "parallel_2d.yaml:3:12"),
        (("--num-gpus", "4", "--enable-cfg-parallel"), "the branches of guidance run as one batch"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_found_before_anything_starts(puredit, unloaded, words, message):
    code, out, err = puredit("generate", "--prompt", "a", *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("error:") == 1 and message in err and "Traceback" not in err


def test_more_processes_than_gpus(puredit, unloaded, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    code, out, err = puredit("generate", "--prompt", "a", "--num-gpus", "4")
    assert (code, out) == (2, "")
    assert "--num-gpus 4: this machine shows 2 GPUs; write --num-gpus 2 or leave it out" in err


def test_what_only_the_model_knows_is_said_once(puredit):
    code, out, err = puredit("generate", "--prompt", "a", *FEW, "--height", "30", "--num-gpus", "3")
    assert (code, out) == (2, "")
    assert err.count("error:") == 1 and "the nearest size is 32" in err and "Traceback" not in err


def test_an_error_on_another_rank_is_said_once(puredit, monkeypatch):
    def fail(*_):
        raise RuntimeError("something broke")

    monkeypatch.setattr("pure.cli.generate.take_part", fail)
    words = ("generate", "--prompt", "a", *FEW, "--num-gpus", "3")
    code, out, err = puredit(*words)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "error: RuntimeError: something broke; --debug shows where"
    assert err.count("error:") == 1 and "Traceback" not in err
    code, _, err = puredit(*words, "--debug")
    assert code == 1 and re.search(r"in process [12] of 3:\s+Traceback", err)


def test_a_killed_rank_ends_the_run_and_what_is_finished_stays(puredit, monkeypatch, tmp_path):
    real = pure.cli.generate.take_part

    def die(*arguments):
        if arguments[-1] == 2 and dist.get_rank() == 1:  # the seed
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        real(*arguments)

    monkeypatch.setattr("pure.cli.generate.take_part", die)
    code, out, err = puredit("generate", "--prompt", "a", "--seed", "1", "2", *FEW, "--num-gpus", "3")
    assert code == 1
    assert "error: RuntimeError: process 1 of 3 was killed by SIGKILL; the machine may be out of memory" in err
    assert err.count("error:") == 1 and "Traceback" not in err
    (file,) = (tmp_path / "outputs").iterdir()
    assert out.splitlines()[0] == f"outputs/{file.name}"


def test_a_disk_that_fills_up_keeps_what_is_finished(puredit, monkeypatch, tmp_path):
    real, calls = os.fsync, []

    def fsync(handle):
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr("pure.cli.writing.os.fsync", fsync)
    code, out, err = puredit("generate", "--prompt", "a", "--seed", "1", "2", "3", *FEW, "--num-gpus", "2")
    assert code == 1 and "No space left on device; free some space" in err and "Traceback" not in err
    (file,) = (tmp_path / "outputs").iterdir()
    assert out.splitlines()[0] == f"outputs/{file.name}" and "8 of 8" in out


# ------------------------------------------------------------------------------ other processes


def job_of(puredit, monkeypatch, *words):
    jobs = []
    monkeypatch.setattr("pure.cli.generate.execute", jobs.append)
    assert puredit("generate", "--prompt", "a", *words)[0] == 0
    return jobs[0]


def test_a_job_can_be_sent_to_a_process_that_was_not_forked(puredit, monkeypatch):
    """As it is where every process has a GPU of its own."""
    job = job_of(puredit, monkeypatch, "--num-gpus", "4", "--tp-size", "2", "--enable-cache-dit")
    assert job.parallel.sizes == Sizes(ulysses=2, tp=2)
    assert pickle.loads(pickle.dumps(job)) == job
    for function in (pure.cli.generate.perform, pure.cli.generate.follow):
        assert pickle.loads(pickle.dumps(function)) is function


def test_a_mistake_survives_the_way_to_the_parent():
    error = pickle.loads(pickle.dumps(Misuse("wrong")))
    assert isinstance(error, Misuse) and (error.format_message(), error.exit_code) == ("wrong", 2)


LAUNCHED = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def test_a_launcher_says_how_many_processes_there_are(puredit, monkeypatch):
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    assert job_of(puredit, monkeypatch).parallel.sizes == Sizes(ulysses=2)
    code, _, err = puredit("generate", "--prompt", "a", "--num-gpus", "4")
    assert code == 2 and "--num-gpus 4: the launcher started 2 processes; leave --num-gpus out" in err
    monkeypatch.setenv("RANK", "1")
    assert puredit("generate", "--prompt", "a", "--num-gpus", "4") == (2, "", "")


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


@pytest.mark.slow
def test_under_a_launcher(checkpoint, tmp_path):
    """What torchrun does: the same command in every process, with the rank in the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = ["generate", "--model-path", str(checkpoint), "--prompt", "a", *FEW, "--output-file-path", "a.png"]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "pure.cli.main", *words], cwd=tmp_path, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env=environment(**{**LAUNCHED, "RANK": str(rank), "MASTER_PORT": port}),
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=120) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], said
    assert said[0][0].startswith("a.png\n") and (tmp_path / "a.png").exists()
    assert "2 processes on the CPU" in said[0][1] and said[1][0] == ""
    assert not [line for line in said[1][1].splitlines() if line.startswith(("note:", "warning:", "error:"))]


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "to_all"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_an_interruption_keeps_what_is_finished(checkpoint, tmp_path, sent, to_all):
    """Ctrl-C reaches every process of a terminal; a request to terminate only the one that was started."""
    words = ["generate", "--model-path", str(checkpoint), "--prompt", "a", "--num-outputs", "5000", *FEW]
    process = subprocess.Popen(
        [sys.executable, "-m", "pure.cli.main", *words, "--num-gpus", "2"],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    listed = [process.stdout.readline() for _ in range(2)]
    os.killpg(process.pid, sent) if to_all else process.send_signal(sent)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err.count("error:") == 1 and re.search(r"error: interrupted after \d+ of 5000 images", err)
    assert "Traceback" not in err
    listed = [line.strip() for line in [*listed, *out.splitlines()] if line.startswith("outputs/")]
    assert sorted(listed) == sorted(f"outputs/{name}" for name in os.listdir(tmp_path / "outputs"))
    for name in listed:
        pixels(tmp_path / name)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody of its group is left


def test_a_configuration_shows_the_sizes(puredit):
    words = ("config", "--show", "--num-gpus", "4", "--cache-dit-config", "parallel_2d.yaml")
    code, out, _ = puredit(*words)
    assert code == 0
    assert re.search(r"parallelism_config.ulysses_size\s+2\s+file parallel_2d.yaml:2:17 \(auto, 4", out)


def test_the_command_lists_the_flags(puredit):
    help_text = puredit("generate", "--help")[1]
    assert "Several processes" in help_text and "--num-gpus" in help_text
    assert set(group.commands) >= {"generate", "config", "models"}

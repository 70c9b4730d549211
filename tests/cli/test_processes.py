"""What goes wrong in one of several processes is said once, and nobody is left behind; launchers; interruptions."""

import multiprocessing
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
import torch.distributed as dist

import pure.cli.generate
import pure.engine.denoising
from pure.cli.main import puredit as group
from pure.distributed import Sizes
from pure.engine.errors import Misuse
from tests.cli.test_parallel import FEW, pixels
from tests.structure.source import ROOT
from tests.support.forked import command

THREE = ("--num-gpus", "3")


@pytest.fixture(autouse=True)
def nobody_is_left():
    yield
    assert not multiprocessing.active_children()


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
        (("--num-gpus", "0"), "'0' is not a whole number from 1 to "),
        (("--num-gpus", "3", "--cache-dit-config", "parallel_2d.yaml"), "parallel_2d.yaml:3:12"),
        (("--num-gpus", "4", "--enable-cfg-parallel", "--tp-size", "1", "--ulysses-degree", "1"), "this run has 4"),
        (("--num-gpus", "3", "--enable-cfg-parallel"), "cfg_size: 2 needs 2 processes, this run has 3"),
        (("--num-gpus", "4", "--cfg-parallel-size", "4"), "allowed: a whole number from 1 to 2"),
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


@pytest.fixture
def forked(monkeypatch):
    """Ranks are forked and so have what a test has replaced, even if earlier tests have left threads behind."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)


@pytest.mark.usefixtures("forked")
def test_an_error_on_another_rank_is_said_once(puredit, monkeypatch):
    real = pure.engine.denoising.denoise

    def fail(*arguments):
        if dist.get_rank() == 0:
            return real(*arguments)
        raise RuntimeError("something broke")

    monkeypatch.setattr("pure.engine.denoising.denoise", fail)
    words = ("generate", "--prompt", "a", *FEW, "--num-gpus", "3")
    code, out, err = puredit(*words)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "error: RuntimeError: something broke; --debug shows where"
    assert err.count("error:") == 1 and "Traceback" not in err
    code, _, err = puredit(*words, "--debug")
    assert code == 1 and re.search(r"in process [12] of 3:\s+Traceback", err)


@pytest.mark.usefixtures("forked")
def test_a_killed_rank_ends_the_run_and_what_is_finished_stays(puredit, monkeypatch, tmp_path):
    real = pure.engine.denoising.denoise

    def die(*arguments):
        if [sample.seed for sample in arguments[2]] == [2] and dist.get_rank() == 1:
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    monkeypatch.setattr("pure.engine.denoising.denoise", die)
    code, out, err = puredit(
        "generate", "--prompt", "a", "--seed", "1", "2", "--batch-size", "1", *FEW, "--num-gpus", "3"
    )
    assert code == 1
    assert "error: RuntimeError: process 1 of 3 was killed by SIGKILL; the machine may be out of memory" in err
    assert err.count("error:") == 1 and "Traceback" not in err
    (file,) = (tmp_path / "outputs").iterdir()
    assert out.splitlines()[0] == f"outputs/{file.name}"


@pytest.mark.usefixtures("forked")
def test_a_disk_that_fills_up_keeps_what_is_finished(puredit, full_disk, tmp_path):
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
    assert isinstance(error, Misuse) and error.message == "wrong"


GUIDED = ("--negative-prompt", "b", "--true-cfg-scale", "2")


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("words", [("2", "--enable-cfg-parallel"), ("4", "--cfg-parallel-size", "2")])
def test_a_branch_of_guidance_a_process_is_the_picture_of_one(puredit, tmp_path, words):
    common = ("generate", "--prompt", "a", *FEW, *GUIDED, "--enable-cache-dit", "true", "--output-file-path")
    assert puredit(*common, "one.png")[0] == 0
    code, _, err = puredit(*common, "several.png", "--num-gpus", *words)
    assert code == 0 and "cfg 2" in err, err
    # Rounding in another order may move a number across the edge between two of 256 levels.
    one, several = (pixels(tmp_path / name).astype(int) for name in ("one.png", "several.png"))
    assert abs(one - several).max() <= 1


@pytest.mark.usefixtures("forked")
def test_processes_for_branches_without_guidance_are_noted(puredit):
    code, _, err = puredit("generate", "--prompt", "a", *FEW, "--num-gpus", "2", "--enable-cfg-parallel")
    assert code == 0 and "have no effect, as nothing is guided: all do the same work" in " ".join(err.split())


LAUNCHED = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def test_a_launcher_says_how_many_processes_there_are(puredit, monkeypatch):
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    assert job_of(puredit, monkeypatch).parallel.sizes == Sizes(ulysses=2)
    code, _, err = puredit("generate", "--prompt", "a", "--num-gpus", "4")
    assert code == 2 and "--num-gpus 4: the launcher started 2 processes; leave --num-gpus out" in err
    monkeypatch.setenv("RANK", "1")
    assert puredit("generate", "--prompt", "a", "--num-gpus", "4") == (2, "", "")
    monkeypatch.setenv("RANK", "x")
    code, _, err = puredit("generate", "--prompt", "a")
    assert code == 2 and "environment RANK='x' is no number; start with torchrun, or unset it" in err
    monkeypatch.delenv("MASTER_PORT")
    assert job_of(puredit, monkeypatch).parallel.sizes == Sizes()


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


@pytest.mark.slow
def test_under_torchrun_on_two_hosts(checkpoint, tmp_path):
    """Two agents of torchrun, each of which starts one process and passes on what it prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = ["generate", "--model-path", str(checkpoint), "--prompt", "a", *FEW, "--output-file-path", "a.png"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    where = ["--master-addr", "127.0.0.1", "--master-port", port, "-m", "pure.cli.main"]
    agents = [
        subprocess.Popen(
            [*launcher, "--node-rank", str(host), *where, *words, "--tp-size", "2"], cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        )
        for host in range(2)
    ]  # fmt: skip
    said = [agent.communicate(timeout=120) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert said[0][0].startswith("a.png\n") and (tmp_path / "a.png").exists()
    assert "2 processes on the CPU, as there is no GPU: tp 2" in said[0][1] and said[1][0] == ""
    assert not [line for line in said[1][1].splitlines() if line.startswith(("note:", "warning:", "error:"))]


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "to_all"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGTERM, True)])
def test_an_interruption_keeps_what_is_finished(checkpoint, tmp_path, sent, to_all):
    """Ctrl-C reaches every process of a terminal; a request to terminate the one that was started, or all of them."""
    words = ["generate", "--model-path", str(checkpoint), "--prompt", "a", "--num-outputs", "5000", *FEW]
    with command([*words, "--num-gpus", "2"], tmp_path) as process:
        while len(process.out.read_text().splitlines()) < 2:
            assert process.poll() is None, process.err.read_text()
            time.sleep(0.01)
        (os.killpg if to_all else os.kill)(process.pid, sent)
        code, err = process.wait(), process.err.read_text()
    assert code == 130, err
    assert err.count("error:") == 1 and re.search(r"error: interrupted after \d+ of 5000 images", err)
    assert "Traceback" not in err
    listed = [line for line in process.out.read_text().splitlines() if line.startswith("outputs/")]
    assert sorted(listed) == sorted(f"outputs/{name}" for name in os.listdir(tmp_path / "outputs"))
    for name in listed:
        pixels(tmp_path / name)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody of its group is left


def test_a_configuration_shows_the_sizes(puredit):
    words = ("config", "--show", "--num-gpus", "4", "--cache-dit-config", "parallel_2d.yaml")
    code, out, _ = puredit(*words)
    assert code == 0
    assert re.search(r"parallelism_config.ulysses_size\s+2\s+file parallel_2d.yaml:2:17 \(auto,\s+4 processes\)", out)


def test_the_command_lists_the_flags(puredit):
    help_text = puredit("generate", "--help")[1]
    assert "Several processes" in help_text and "--num-gpus" in help_text
    assert set(group.commands) >= {"generate", "config", "models"}

"""Two hosts make the picture of one process; here each is a process of this machine."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import numpy as np
import pytest

import pure.engine.denoising
from pure.cli.main import run
from pure.distributed.launch import _import_what_ranks_need
from tests.cli.test_parallel import CACHE, FEW, pixels
from tests.distributed.test_hosts import free_address
from tests.structure.source import ROOT

LIMIT = 90.0


@pytest.fixture
def hosts(checkpoint, tmp_path, monkeypatch):
    """Start a command on two hosts, each in a folder of its own; return how they ended, or how to wait for that."""
    _import_what_ranks_need()
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    for name in [name for name in os.environ if name.startswith("SGLANG_")]:
        monkeypatch.delenv(name)
    started = []

    def be(index, words):
        folder = tmp_path / f"host{index}"
        folder.mkdir()
        os.chdir(folder)
        for name, number in (("out", 1), ("err", 2)):
            os.dup2(os.open(f"../{name}{index}", os.O_WRONLY | os.O_CREAT), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        code = run(words)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)

    def call(command, *words, own=((), ()), wait=True):
        address = "{}:{}".format(*free_address())
        common = (command, "--model-path", str(checkpoint), *words, "--nnodes", "2", "--dist-init-addr", address)
        for index in (0, 1):
            each = [*map(str, common), "--node-rank", str(index), *own[index]]
            started.append(multiprocessing.get_context("fork").Process(target=be, args=(index, each)))
            started[-1].start()
        return ended() if wait else (started, ended)

    def ended():
        for process in started:
            process.join(LIMIT)
        return [
            (process.exitcode, *((tmp_path / f"{name}{index}").read_text() for name in ("out", "err")))
            for index, process in enumerate(started)
        ]

    yield call
    for process in started:
        process.kill()
        process.join()


MAKE = ("--prompt", "a dog", *FEW, *CACHE, "--output-file-path", "a.png", "--perf-dump-path", "a.json")


@pytest.mark.parametrize("sizes", [("--tp-size", "2"), ("--num-gpus", "4", "--dp-size", "2")])
def test_two_hosts_make_the_picture_of_one_process_and_the_first_one_saves_it(puredit, hosts, tmp_path, sizes):
    code, _, err = puredit("generate", *MAKE)
    assert code == 0, err
    first, second = hosts("generate", *MAKE, *sizes)
    assert (first[0], second) == (0, (0, "", "")), first
    assert first[1].startswith("a.png\n") and first[1].endswith("report: a.json\n")
    # Sums over processes are rounded otherwise, perhaps across the edge between two of 256 levels.
    assert np.abs(pixels(tmp_path / "a.png") - pixels(tmp_path / "host0" / "a.png")).max() <= 1
    assert not list((tmp_path / "host1").iterdir())
    reports = [json.loads((folder / "a.json").read_text())["images"][0] for folder in (tmp_path, tmp_path / "host0")]
    assert reports[0]["skipped_steps"] == reports[1]["skipped_steps"] != []


def test_hosts_that_were_started_otherwise_end_at_once(hosts, tmp_path):
    found = hosts("generate", *MAKE, own=(("--seed", "1"), ("--seed", "2")))
    for code, out, err in found:
        assert (code, out) == (2, "") and err.count("error:") == 1 and "Traceback" not in err
        assert "error: host 1 has other settings than host 0; --seed: [1] on host 0, [2] on host 1; the prompts" in err
    assert not list((tmp_path / "host0").iterdir())


def test_a_killed_process_of_the_second_host_ends_both_commands(hosts, monkeypatch):
    real = pure.engine.denoising.step

    def step(*arguments):
        if os.environ.get("GLOO_SOCKET_IFNAME") and pure.engine.denoising.torch.distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    monkeypatch.setattr("pure.engine.denoising.step", step)
    for code, out, err in hosts("generate", *MAKE):
        assert (code, out) == (1, "")
        assert err.splitlines()[-1].startswith("error: RuntimeError: process 1 of 2 was killed by SIGKILL")
        assert err.count("error:") == 1 and "Traceback" not in err


def test_a_server_on_two_hosts(hosts, tmp_path):
    """The first one listens; a request to terminate it ends both orderly."""
    started, ended = hosts("serve", "--port", "0", "--dp-size", "2", wait=False)
    until = time.monotonic() + LIMIT
    said = tmp_path / "out0"
    while not (said.exists() and "http://" in said.read_text()) and time.monotonic() < until:
        assert started[0].exitcode is None, (tmp_path / "err0").read_text()
        time.sleep(0.05)
    url = said.read_text().split()[-1]
    body = {"prompt": "a cat", "num_inference_steps": 2, "response_format": "b64_json"}
    answers = [httpx2.post(f"{url}/v1/images/generations", json=body, timeout=60) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert len(httpx2.get(f"{url}/health").json()["groups"]) == 2
    os.kill(started[0].pid, signal.SIGTERM)
    first, second = ended()
    assert (first[0], second[:2]) == (0, (0, "")), (first, second)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--nnodes", "2"), "--nnodes 2 needs --dist-init-addr HOST:PORT: the address of host 0, the same on all"),
        (("--nnodes", "2", "--node-rank", "2", "--dist-init-addr", "a:1"),
         "--node-rank 2: with --nnodes 2 hosts have the numbers 0 to 1"),
        (("--node-rank", "1"), "--node-rank 1: with --nnodes 1 hosts have the numbers 0"),
        (("--nnodes", "2", "--dist-init-addr", "10.0.0.1"), "--dist-init-addr '10.0.0.1': write HOST:PORT, such as"),
        (("--nnodes", "2", "--dist-init-addr", "fd00::1:20000"), "or [fd00::1]:20000"),
        (("--nnodes", "2", "--dist-init-addr", "a:99999"), "--dist-init-addr 'a:99999': write HOST:PORT"),
        (("--nnodes", "2", "--num-gpus", "3", "--dist-init-addr", "a:1"),
         "--num-gpus 3 is for all 2 hosts (--nnodes), which have equal numbers of them; write 4"),
        (("--nnodes", "2", "--node-rank", "1", "--dist-init-addr", "127.0.0.1:9", "--dist-timeout", "1"),
         "host 0 cannot be reached at 127.0.0.1:9 within 1 seconds: Connection refused; is it started with"),
    ],
)  # fmt: skip
def test_hosts_that_cannot_be_are_found_before_anything_is_loaded(puredit, unloaded, words, message):
    code, out, err = puredit("generate", "--prompt", "a", *words)
    assert (code, out) == (1 if "reached" in message else 2, "")
    assert message in " ".join(err.split()) and err.count("error:") == 1 and "Traceback" not in err


def test_hosts_under_a_launcher(puredit, unloaded, monkeypatch):
    environment = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, _, err = puredit("generate", "--prompt", "a", "--nnodes", "2", "--dist-init-addr", "a:1")
    assert code == 2 and "the launcher says how many hosts there are; leave --nnodes and --node-rank out" in err


@pytest.mark.slow
def test_two_network_namespaces(puredit, checkpoint, tmp_path):
    """Hosts that share no network but a cable, with two processes each; on one network where that is not permitted."""
    code, _, err = puredit("generate", *MAKE)
    assert code == 0, err
    words = ["generate", "--model-path", str(checkpoint), *MAKE, "--num-gpus", "4", "--tp-size", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = [str(Path(__file__).with_name("two_hosts.sh")), str(tmp_path), sys.executable, *words]
    subprocess.run(["bash", *script], env=environment, timeout=300, check=True)
    said = [(tmp_path / host / "said").read_text() for host in "01"]
    assert [(tmp_path / host / "code").read_text() for host in "01"] == ["0\n"] * 2, said
    assert "a.png\n" in said[0] and "a.png" not in said[1] and not (tmp_path / "1" / "a.png").exists()
    assert np.abs(pixels(tmp_path / "a.png") - pixels(tmp_path / "0" / "a.png")).max() <= 1

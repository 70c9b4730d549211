"""Groups of processes with prompts of their own: files, order and pictures of one; none waits for another."""

import json
import multiprocessing
import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest
import torch.distributed as dist

import pure.engine.denoising
from pure.cli.dealing import Dealer
from pure.engine.maker import Hand, Maker
from pure.models import NotFiniteError
from tests.cli.test_parallel import CACHE, FEW, decisions, pixels

PROMPTS = ("--prompt", "a dog", "a cat", "a pear", "--seed", "1", "2", "--batch-size", "1")


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    """Ranks are forked and so have what a test has replaced; nobody is left."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    yield
    assert not multiprocessing.active_children()


def test_groups_make_the_pictures_of_one_process_in_its_order(puredit, tmp_path):
    """A group of one process does the same operations: the same bits."""
    listed, reports = [], []
    for folder, added in (("one", ()), ("several", ("--num-gpus", "2", "--dp-size", "2"))):
        words = (*PROMPTS, *FEW, *CACHE, "--output-path", folder, "--perf-dump-path", f"{folder}.json", *added)
        code, out, err = puredit("generate", *words)
        assert code == 0, err
        listed.append([line for line in out.splitlines() if line.startswith(folder)])
        reports.append(json.loads((tmp_path / f"{folder}.json").read_text()))
    assert len(listed[1]) == 6 and "note: 2 processes on the CPU, as there is no GPU: dp 2" in err
    for one, other in zip(*listed, strict=True):
        assert np.array_equal(pixels(tmp_path / one), pixels(tmp_path / other))
    assert [image["prompt"] for image in reports[1]["images"]] == [image["prompt"] for image in reports[0]["images"]]
    assert decisions(tmp_path / "one.json") == decisions(tmp_path / "several.json")
    assert reports[1]["settings"]["processes"] == 2


def test_no_group_waits_for_another(puredit, monkeypatch, tmp_path):
    """The first group stands still in its first batch until the second has made all others: it takes what is free."""
    real, made = pure.engine.denoising.denoise, tmp_path / "made"
    made.mkdir()

    def denoise(*arguments):
        until = time.monotonic() + 60
        while dist.get_rank() == 0 and len(list(made.iterdir())) < 5 and time.monotonic() < until:
            time.sleep(0.01)
        assert time.monotonic() < until, "the second group waits for the first"
        done = real(*arguments)
        if dist.get_rank() == 1:
            (made / str(time.monotonic_ns())).touch()
        return done

    monkeypatch.setattr("pure.engine.denoising.denoise", denoise)
    code, out, err = puredit("generate", *PROMPTS, *FEW, "--num-gpus", "2", "--dp-size", "2", "--output-path", "all")
    assert code == 0, err
    assert len([line for line in out.splitlines() if line.startswith("all/")]) == 6


def test_a_group_that_dies_ends_the_run_and_what_is_finished_stays(puredit, monkeypatch, tmp_path):
    real, calls = pure.engine.denoising.denoise, []

    def die(*arguments):
        """The second group dies once the first has a file; then that does nothing more."""
        until = time.monotonic() + 60
        while (dist.get_rank() or calls) and time.monotonic() < until:
            if dist.get_rank() and list(tmp_path.glob("outputs/*.png")):
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.01)
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr("pure.engine.denoising.denoise", die)
    code, _, err = puredit("generate", *PROMPTS, *FEW, "--num-gpus", "2", "--dp-size", "2")
    assert code == 1 and "error: RuntimeError: process 1 of 2 was killed by SIGKILL" in err
    assert err.count("error:") == 1 and "Traceback" not in err
    assert len(list((tmp_path / "outputs").iterdir())) == 1


def test_a_comparison_and_a_warm_up_in_groups(puredit):
    words = ("--prompt", "a dog", "a cat", *FEW, *CACHE, "--batch-size", "1", "--compare", "--warmup")
    code, out, err = puredit("generate", *words, "--num-gpus", "2", "--dp-size", "2", "--output-path", "all")
    assert code == 0, err
    listed = [line.removeprefix("all/") for line in out.splitlines() if line.startswith("all/")]
    assert [name[:5] for name in listed] == ["a_dog", "a_dog", "a_cat", "a_cat"] and "PSNR" in out
    assert ["without-cache" in name for name in listed] == [False, True] * 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--num-gpus", "3", "--dp-size", "2"), "--dp-size 2: 3 processes cannot be divided into 2 equal groups; "
         "write --num-gpus 4, or leave --dp-size out"),
        (("--dp-size", "4"), "--dp-size 4: 1 process cannot be divided into 4 equal groups; write --num-gpus 4"),
        (("--num-gpus", "4", "--dp-size", "2", "--tp-size", "4"),
         "tp_size: 4 needs 4 processes, this run has 2 in each of 2 groups (dp); start with --num-gpus 8"),
        (("--num-gpus", "4", "--dp-size", "0"), "'0' is not a whole number from 1"),
    ],
)  # fmt: skip
def test_groups_that_do_not_fit_are_found_before_anything_is_loaded(puredit, unloaded, words, message):
    code, out, err = puredit("generate", "--prompt", "a", *words)
    assert (code, out) == (2, "") and message in " ".join(err.split()) and "Traceback" not in err


def test_samples_that_are_not_finite_are_told_to_another_process():
    error = pickle.loads(pickle.dumps(NotFiniteError({1: "the second is not"})))
    assert error.samples == {1: "the second is not"} and str(error) == "the second is not"


def test_what_others_finished_is_there_when_the_first_is_stopped():
    """The first hand is stopped in the second batch; the other one makes all others meanwhile."""
    first, second = (Hand(Maker(None)) for _ in range(2))  # type: ignore[arg-type]
    taken, begun, done = (threading.Event() for _ in range(3))

    def make(hand, batch):
        if hand is first:
            begun.set()
            assert done.wait(10)
            raise KeyboardInterrupt
        taken.set()
        assert begun.wait(10)
        return [[batch]]

    class Marked(dict):
        def __setitem__(self, number, made):
            super().__setitem__(number, made)
            if len(self) == 3:
                done.set()

    def prepare(hand):
        """The first hand begins once the second has taken a batch."""
        assert hand is second or taken.wait(10)

    dealer = Dealer([first, second], [0, 1, 2, 3], prepare, make)
    dealer._made = Marked()
    with pytest.raises(KeyboardInterrupt):
        list(dealer)
    assert [list(runs) for runs in dealer.left()] == [[[0]], [[2]], [[3]]]

"""Each denoiser of a checkpoint is built once per load, whatever is asked of it: counted."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from pure.configs import configure
from pure.distributed.mesh import Sizes
from pure.engine.caching import Caching
from pure.engine.checkpoint import look
from pure.engine.engine import Order, open_engine
from pure.engine.ranks import check_shares
from pure.models.flux import flux
from pure.models.wan.denoiser import wan
from tests.support import wan_pipelines


def count(function: Callable[..., Any], work: Callable[[], object]) -> int:
    """How often a function is called while something is done."""
    calls = 0

    def watch(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code is function.__code__

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


def test_a_command_builds_its_denoiser_once(puredit):
    words = ("--prompt", "a", "--num-inference-steps", "1", "--enable-cache-dit", "--true-cfg-scale", "2")
    assert count(flux, lambda: puredit("generate", *words, "--negative-prompt", "b")) == 1


def test_the_description_of_a_checkpoint_builds_its_denoiser_once(puredit, checkpoint):
    assert count(flux, lambda: puredit("models", "--model-path", checkpoint)) == 1


@pytest.mark.parametrize(("name", "experts"), [("t2v-2.1", 1), ("t2v-2.2", 2)])
def test_every_expert_is_built_once(tmp_path, name, experts):
    wan_pipelines.pipeline(name).save_pretrained(tmp_path)

    def work() -> None:
        checkpoint = look(str(tmp_path))
        check_shares(Sizes(), checkpoint.found)
        caching = Caching.of(configure(facts=checkpoint.facts(2)))
        engine = open_engine(checkpoint, caching.effective, lambda text, kind: None)
        for steps in (2, 3):
            engine.recipe(Order(options={"steps": steps, "height": 16, "width": 32, "frames": 5}), caching)

    assert count(wan, work) == experts

"""What a saved state is of: it is loaded into nothing else."""

import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch

import pure
from pure import Origin, load_state, origin_of, read_origin, save_state
from pure.engine.tuned import fingerprint
from pure.models import embedded, load_pipeline
from pure.testing import EXPERTS, RANDOM, Situation, random_model
from pure.transforms import dbcache, fora, guided, taylorseer
from tests.structure.source import ROOT

RUN = Situation(model=RANDOM, transform=dbcache(front=1, threshold=0.5), seeds=(0, 1), count=8)


def of(situation: Situation, step: int | None = None, **schedule: int) -> Origin:
    return origin_of(situation.denoiser, situation.model.params, situation.schedule(**schedule), step)


def test_what_is_saved_says_what_it_is_of(tmp_path: Path) -> None:
    file, entry = tmp_path / "state.safetensors", RUN.trace()[3]
    save_state((entry.before, entry.carry), file, origin=of(RUN, 3))
    saved = read_origin(file)
    assert saved is not None and saved == of(RUN, 3) and saved.step == 3
    assert saved.model is not None and re.fullmatch("[0-9a-f]{16}", saved.model)
    assert "Threshold(value=0.5)" in saved.plan and saved.schedule.startswith("8 steps from 1.0000 to 0.0000 (")
    like = RUN.start(), RUN.carry()
    for origin in (None, of(RUN), of(RUN, 3)):
        state, _ = load_state(file, like=like, origin=origin)
        assert isinstance(state, pure.State)


OTHERS = {
    "model": (
        attrs.evolve(RUN, model=random_model(seed=1)),
        r"state is of model [0-9a-f]{16}, this is model [0-9a-f]{16}",
    ),
    "plan": (
        attrs.evolve(RUN, transform=dbcache(front=1, threshold=0.4)),
        r"of plan .*value=0\.5.*, this is plan .*value=0\.4",
    ),
    "rule": (attrs.evolve(RUN, transform=fora(interval=3)), r"of plan .*value=0\.5.*, this is plan Plan\(span=None"),
    "predictor": (
        attrs.evolve(RUN, transform=pure.compose(*RUN.parts, taylorseer(order=0))),
        r"of plan .*predictor=None.*, this is plan .*predictor=taylorseer\(order=0",
    ),
    "guidance": (
        attrs.evolve(RUN, transform=pure.compose(*RUN.parts, guided(scale=2.0))),
        r"of plan .*guidance None, this is plan .*guidance .*scale=2\.0",
    ),
    "schedule": (attrs.evolve(RUN, count=9), r"of schedule 8 steps .*, this is schedule 9 steps "),
    "levels": (
        attrs.evolve(RUN, model=attrs.evolve(RANDOM, solver=pure.FlowMatchEuler(pure.Schedule(shift=3.0)))),
        r"of schedule 8 steps .*, this is schedule 8 steps ",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_state_is_loaded_into_nothing_else(name: str, tmp_path: Path) -> None:
    other, match = OTHERS[name]
    save_state(RUN.start(), tmp_path / "state", origin=of(RUN, 0))
    with pytest.raises(ValueError, match=rf"(?s)state does not fit the state it is loaded into:\n.*{match}"):
        load_state(tmp_path / "state", like=RUN.start(), origin=of(other))


def test_another_step_is_refused(tmp_path: Path) -> None:
    save_state(RUN.start(), tmp_path / "state", origin=of(RUN, 3))
    with pytest.raises(ValueError, match=r"the state is of step 3, this is step 4"):
        load_state(tmp_path / "state", like=RUN.start(), origin=of(RUN, 4))


def test_files_that_do_not_say_are_loaded(tmp_path: Path) -> None:
    save_state(RUN.start(), tmp_path / "state")
    assert read_origin(tmp_path / "state") is None
    load_state(tmp_path / "state", like=RUN.start(), origin=of(RUN))


def test_experts_have_a_plan_and_weights_each() -> None:
    run = attrs.evolve(RUN, model=EXPERTS)
    one = of(run)
    assert "high: Plan(" in one.plan and "; low: Plan(" in one.plan
    swapped = attrs.evolve(EXPERTS, params={"high": EXPERTS.params["low"], "low": EXPERTS.params["high"]})
    assert of(attrs.evolve(run, model=swapped)).model != one.model
    assert origin_of(run.denoiser, run.denoiser.bind(EXPERTS.params), run.schedule()).model == one.model


def test_it_is_the_fingerprint_of_tuned_plans_in_every_type_of_number() -> None:
    pipeline = load_pipeline(embedded())
    steps = pipeline.schedule(pipeline.request("a dog", steps=4))
    model = origin_of(pipeline.denoiser, pipeline.params, steps).model
    assert model is not None and model == fingerprint(pipeline)
    narrow = {name: leaf.to(torch.bfloat16) for name, leaf in pipeline.params.items()}
    assert origin_of(pipeline.denoiser, narrow, steps).model == model
    reordered = {name: pipeline.params[name] for name in reversed(list(pipeline.params))}
    assert origin_of(pipeline.denoiser, reordered, steps).model == model


def test_it_is_the_same_in_another_process(capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import pure\nfrom tests.support.faulty import ruled\nfrom pure.testing import RANDOM, Situation\n"
        "from pure.plan import Probe\nimport attrs\nfrom pure.testing.toys import random_head\n"
        "run = Situation(model=RANDOM, transform=ruled(), seeds=(0,), count=3)\n"
        "plan = attrs.evolve(run.denoiser.plan, probe=Probe(of=random_head))\n"
        "print(pure.origin_of(attrs.evolve(run.denoiser, plan=plan), RANDOM.params, run.schedule()))"
    )
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    exec(code, {})
    here = capsys.readouterr().out
    assert here == other and "function random_head" in here and "0x" not in here


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="step is 9 of a run of 8; give how many of its steps were taken"):
        of(RUN, 9)
    with pytest.raises(FileNotFoundError, match=r"there is no saved state at .*nowhere"):
        read_origin(tmp_path / "nowhere")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="text is not a saved state: "):
        read_origin(tmp_path / "text")

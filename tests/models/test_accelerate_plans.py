"""A tuned plan in `pure.accelerate`: what it does, and what is said where a call is another than it was made for."""

import warnings
from pathlib import Path
from typing import Any

import attrs
import diffusers
import pytest
import torch

import pure
from pure.configs.tuned import TunedFor
from pure.engine.tuning.loading import LoadedPlan
from pure.models import embedded
from pure.models.accelerate.plans import facts_of
from pure.origin import fingerprint
from pure.transforms import dbcache, scm
from tests.support import tiny
from tests.support.pipelines import make, picture

STEPS = 4


@pytest.fixture(scope="module")
def flux():
    pipe, call = make("flux")
    call |= {"num_inference_steps": STEPS}
    picture(pipe, call)
    sigmas = pipe.scheduler.sigmas
    made_for = TunedFor(
        model=fingerprint(pipe.transformer.state_dict()),
        steps=STEPS,
        height=call["height"],
        width=call["width"],
        frames=1,
        guidance=call.get("guidance_scale", 3.5),
        solver=f"FlowMatchEuler, {float(sigmas[0]):.4f} to {float(sigmas[STEPS - 1]):.4f}",
    )
    return pipe, call, made_for


def plan(made_for: TunedFor | None) -> LoadedPlan:
    mask = scm(mask=(1, 1, 0, 1), policy="static")
    return LoadedPlan(transform=pure.compose(dbcache(front=1, threshold=1.0, warmup=0), mask), made_for=made_for)


def test_a_call_that_a_plan_was_made_for_has_nothing_to_say(flux):
    pipe, call, made_for = flux
    for given in (plan(made_for), plan(None)):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            with pure.accelerate(pipe, given) as report:
                picture(pipe, call)
        assert [info.computed[0] for infos in report.last.branches.values() for info in infos] == [
            True,
            True,
            False,
            True,
        ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"guidance": 1.5}, "guidance 1.5, not "),
        ({"height": 512}, "512 pixels, not "),
        ({"solver": "UniPC, 1.0000 to 0.1000"}, "the solver UniPC, 1.0000 to 0.1000, not FlowMatchEuler"),
        ({"model": "0" * 16}, "other weights"),
        ({"steps": 28}, "28 steps, not 4"),
    ],
)
def test_what_differs_is_said_and_what_holds_anyway(flux, change, words):
    pipe, call, made_for = flux
    with (
        pytest.warns(UserWarning, match="the plan was tuned for .*; the same steps are computed with the same weights"),
        pure.accelerate(pipe, plan(attrs.evolve(made_for, **change))) as report,
    ):
        picture(pipe, call)
    (note,) = report.last.notes
    assert words in note.text


@pytest.mark.parametrize(
    ("name", "embeds", "changes", "expected"),
    [
        ("flux", True, {}, 3.5),
        ("flux", False, {}, None),
        ("flux", False, {"true_cfg_scale": 2.0}, None),
        ("flux", False, {"true_cfg_scale": 2.0, "negative_prompt": "bad"}, 2.0),
        ("wan21", None, {"guidance_scale": 3.0}, 3.0),
        ("wan21", None, {"guidance_scale": 1.0}, None),
    ],
)
def test_the_scale_that_counts_is_one_that_is_read(name, embeds, changes, expected):
    pipe, call = make(name)
    if embeds is not None:
        vars(pipe)["transformer"] = tiny.transformer(guidance_embeds=embeds)
    call |= {"num_inference_steps": 2, "output_type": "latent", **changes}
    picture(pipe, call)
    assert facts_of(pipe, type(pipe).__call__, (), call, [pipe.transformer], 2)["guidance"] == expected


def test_a_plan_of_the_checkpoint_in_the_package_says_nothing_of_a_scale_that_it_does_not_read():
    pipe: Any = diffusers.FluxPipeline.from_pretrained(embedded())
    pipe.set_progress_bar_config(disable=True)
    with pure.accelerate(pipe, pure.load_plan(f"{embedded()}/plans/fast.yaml")) as report:
        options = {"num_inference_steps": 28, "height": 64, "width": 64, "output_type": "latent"}
        pipe("a red apple", max_sequence_length=16, **options)
    assert report.last.notes == () and report.last.computed == 11


def test_a_plan_is_read_from_its_file(flux, tmp_path: Path):
    pipe, call, made_for = flux
    known = "".join(f"  {name}: {value!r}\n" for name, value in made_for.plain().items())
    mask = "cache_config: {Fn_compute_blocks: 1, residual_diff_threshold: 1, max_warmup_steps: 0, "
    mask += "steps_computation_mask: '1101', steps_computation_policy: static}\n"
    file = tmp_path / "plan.yaml"
    file.write_text(f"tuned:\n{known}{mask}")
    found = pure.load_plan(file)
    assert found.made_for == made_for
    with pure.accelerate(pipe, found) as read:
        one = picture(pipe, call)
    with pure.accelerate(pipe, plan(made_for)):
        assert torch.equal(picture(pipe, call), one)
    assert not read.last.notes and read.last.skipped == 1

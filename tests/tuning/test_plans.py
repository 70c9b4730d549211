"""The plans that come with the checkpoint in the package."""

import pytest
import torch

import pure
from pure.configs import ConfigError, build, configure
from pure.engine.checkpoint import look
from pure.engine.errors import Misuse
from pure.engine.plans import find_plan
from pure.engine.tuned import differences, fingerprint
from pure.models import Pipeline, embedded, load_pipeline

PLANS = {"slow": (18, 48.0), "medium": (15, 46.0), "fast": (11, 44.0), "ultra": (8, 40.0)}
PROMPTS = ["an owl on a yellow background", "pizza on a blue background"]  # of neither list


@pytest.fixture(scope="module")
def emoji() -> Pipeline:
    return load_pipeline(embedded())


@pytest.fixture(scope="module")
def plain(emoji: Pipeline) -> torch.Tensor:
    return emoji.generate(PROMPTS, seed=[1, 2]).pixels


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_computes_its_steps_and_comes_near(emoji: Pipeline, plain: torch.Tensor, name: str) -> None:
    effective = configure(file=find_plan(name, look(None).found))
    computed, least = PLANS[name]
    assert effective.tuned is not None and not effective.notes
    assert (effective.tuned.computed, effective.tuned.steps) == (computed, 28)
    assert effective.tuned.model == fingerprint(emoji)
    assert differences(effective.tuned, emoji, emoji.denoiser, emoji.request("an owl")) == ()
    made = emoji.generate(PROMPTS, seed=[1, 2], transform=build(effective))
    assert sum(info.computed[0] for info in made.infos) == computed
    off = (made.pixels - plain).square().flatten(1).mean(1)
    assert float(-10 * off.log10().mean()) > least


def test_another_size_or_guidance_is_told(emoji: Pipeline) -> None:
    effective = configure(file=find_plan("fast", look(None).found))
    denoiser, request = emoji.guide(emoji.denoiser, emoji.request("an owl", "", true_cfg_scale=3.0, height=128))
    (note,) = differences(effective.tuned, emoji, denoiser, request)
    assert "tuned for guidance none, not 3.0," in note.text and "64 x 64 pixels, not 64 x 128;" in note.text


def test_a_plan_that_is_not_there_is_told_which_are() -> None:
    with pytest.raises(Misuse, match=r"--plan quick: there is no such file; plans of this checkpoint: fast, medium,"):
        find_plan("quick", look(None).found)


def test_packaged_plans_are_loaded_by_name() -> None:
    found = pure.load_plan("ultra")
    assert found.made_for is not None and found.made_for.computed == 8
    assert found == pure.load_plan(find_plan("ultra", look(None).found))
    with pytest.raises(ConfigError, match=r"the plans fast, medium, slow, ultra, or one of .*did you mean fast\?"):
        pure.load_plan("fsat")


def test_other_blocks_than_those_of_a_plan_are_told() -> None:
    effective = configure(params={"Fn_compute_blocks": 2}, file=find_plan("ultra", look(None).found))
    (note,) = effective.notes
    assert note.startswith("cache_dit_params: the plan was made with Fn_compute_blocks: 0 (")
    assert "ultra.yaml:14:22), not 2;" in note

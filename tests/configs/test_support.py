"""What has no effect is noted, what cannot be done is refused, each only where that is so."""

from typing import Any

import pytest

from pure.configs import ConfigError, Facts, load_text, read_request, resolve
from pure.configs.report import Problem, did_you_mean


def notes(params: dict[str, Any], **facts: Any) -> tuple[str, ...]:
    return resolve(request=read_request(params), facts=Facts(**facts)).notes


def refused(cache: str, **facts: Any) -> list[str]:
    return [
        str(problem) for problem in resolve(file=load_text(f"cache_config: {cache}"), facts=Facts(**facts)).refusals
    ]


def test_only_what_a_source_says_can_be_without_effect():
    """SGLang's defaults are other ones than the library's, and nobody has written them."""
    assert notes({"scm_preset": "fast", "scm_policy": "static"}) == ()
    (note,) = notes({"scm_preset": "fast", "scm_policy": "static", "residual_diff_threshold": 0.1})
    assert note == "cache_dit_params: residual_diff_threshold has no effect: a static mask skips whatever it says"


def test_a_mask_that_is_none_is_no_mask():
    bins = {"scm_compute_bins": [2], "scm_cache_bins": [2]}
    assert notes({"scm_preset": "none", **bins}) == ()
    (note,) = notes({"scm_preset": "fast", **bins})
    assert note.endswith("steps_computation_mask has no effect: the bins win over a preset")
    (note,) = notes({"scm_preset": "none", "scm_policy": "static"})
    assert note.endswith("steps_computation_policy has no effect: there is no mask")


def test_one_expert_is_told_only_of_what_is_the_others():
    file = load_text("cache_config: {Bn_compute_blocks: 1}", "c.yaml")
    request = read_request({"secondary": {"Fn_compute_blocks": 3}})
    found = resolve(file=file, request=request, facts=Facts(experts=1))
    assert found.notes == ("cache_dit_params: no effect, as the model has one expert",)


@pytest.mark.parametrize(("blocks", "count"), [(10, 0), (9, 0), (8, 1), (None, 0)])
def test_front_and_back_may_be_all_blocks_and_no_more(blocks, count):
    found = refused("{Fn_compute_blocks: 8, Bn_compute_blocks: 1}", blocks=blocks)
    assert len(found) == count and all("8 first and 1 last blocks, but the denoiser has 8" in text for text in found)


@pytest.mark.parametrize(
    ("steps", "experts", "count"), [(1, None, 1), (2, None, 0), (3, None, 1), (None, None, 0), (3, 1, 1), (3, 2, 0)]
)
def test_a_mask_has_an_entry_for_every_step(steps, experts, count):
    """Of two experts each has steps of its own, which are not known yet."""
    found = refused("{steps_computation_mask: '10'}", steps=steps, experts=experts)
    assert len(found) == count and all(f"2 entries, but the run has {steps} steps" in text for text in found)


def test_a_preset_of_a_request_is_a_name():
    for mask in ("110", [1, 1, 0]):
        with pytest.raises(ConfigError, match=r"cache_dit_params\.scm_preset: found .*; allowed: one of none, slow"):
            read_request({"scm_preset": mask})


def test_a_problem_is_told_once_and_a_hint_names_what_is_there():
    problem = Problem(place="c.yaml:1:1", path="a", found="b", allowed="c")
    assert ConfigError([problem, problem]).problems == (problem,)
    assert did_you_mean("warmup", ["max_warmup_steps"]) == "did you mean max_warmup_steps?"
    assert did_you_mean("warmup", ["Fn_compute_blocks"]) == ""


def test_what_either_expert_asks_for_is_refused():
    file = load_text("cache_config: {Fn_compute_blocks: 9}", "c.yaml")
    request = read_request({"secondary": {"Fn_compute_blocks": 1}})
    (problem,) = resolve(file=file, request=request, facts=Facts(blocks=8, experts=2)).refusals
    assert (problem.place, problem.path) == ("c.yaml:1:35", "cache_config.Fn_compute_blocks")


def test_notes_and_refusals_are_of_both_experts_where_there_are_two():
    text = "cache_config: {warmup_interval: 2}\nsecondary: {cache_config: {dmd_rank: 2, cache_type: MagCache}}"
    both = resolve(file=load_text(text, "c.yaml"), facts=Facts(experts=2))
    assert [problem.place for problem in both.refusals] == ["c.yaml:2:53"]
    assert any("dmd_rank has no effect" in note for note in both.notes)
    assert not resolve(file=load_text(text), facts=Facts(experts=1)).refusals


@pytest.mark.parametrize("name", ["processes", "groups", "sequence", "steps", "blocks", "experts"])
def test_a_fact_that_counts_is_a_whole_number_from_1(name):
    make: Any = Facts
    assert getattr(make(**{name: 1}), name) == 1
    for wrong in (0, -1, True, 1.0, "1"):
        with pytest.raises(ValueError, match=rf"Facts\({name}="):
            make(**{name: wrong})


@pytest.mark.parametrize("facts", [{"device": 3}, {"dtype": 3}, {"packed": 1}])
def test_a_fact_is_of_its_kind(facts: dict[str, Any]):
    with pytest.raises((TypeError, ValueError), match=r"Facts\("):
        Facts(**facts)


def test_a_default_that_is_written_out_is_no_setting_without_effect():
    found = resolve(file=load_text("cache_config: {dmd_rank: 0, cfg_compute_first: false, taylorseer_order: 1}"))
    assert found.notes == () and found.refusals == ()


def test_the_key_that_asks_for_too_many_blocks_is_named():
    (problem,) = refused("{Fn_compute_blocks: 0, Bn_compute_blocks: 9, residual_diff_threshold: 1}", blocks=8)
    assert "cache_config.Bn_compute_blocks: 0 first and 9 last blocks" in problem


def test_the_order_of_branches_is_refused_only_where_it_would_matter():
    (problem,) = refused("{cfg_compute_first: true, cfg_diff_compute_separate: false}")
    assert "cache_config.cfg_compute_first: with cfg_diff_compute_separate: false" in problem
    assert refused("{cfg_compute_first: true}") == []
    (note,) = resolve(file=load_text("cache_config: {cfg_compute_first: true}")).notes
    assert note.endswith("cfg_compute_first has no effect: branches are named, so their order does not matter")


def test_a_key_of_other_calibrators_is_without_effect_where_one_is_on():
    file = load_text("cache_config: {enable_taylorseer: true, calibrator_cache_type: hidden_states}")
    (note,) = resolve(file=file).notes
    assert "calibrator_cache_type has no effect: it belongs to DMD and FoCa; TaylorSeer has" in note


@pytest.mark.parametrize("name", ["newton", "hermite"])
def test_weights_of_taylorseer_have_no_effect_beside_another_predictor(name):
    cache = (
        f"cache_config: {{calibrator_type: {name}, taylorseer_order: 2, calibrated_weights: [[[2, 0], 3, [2, -1]]]}}"
    )
    (note,) = resolve(file=load_text(cache, "c.yaml")).notes
    assert note.endswith(f"calibrated_weights has no effect: they replace TaylorSeer's, and {name} is on")


def test_notes_stand_in_the_order_of_the_file():
    keys = ("dmd_rank: 3", "enable_sperate_cfg: true", "num_inference_steps: 12", "enable_encoder_foca: true")
    more = ("cfg_compute_first: true", "non_prune_block_ids: [1]", "warmup_interval: 2", "cache_type: DBPrune")
    found = resolve(file=load_text("\n".join((*keys, *more)), "c.yaml"))
    assert [int(note.split(":")[1]) for note in found.notes] == [1, 2, 2, 3, 4, 5, 7]

"""Methods by name: what `cache_type` and `cache_options` become, and what is refused."""

import pytest

import pure
from pure.configs import ConfigError, Facts, build, load_text, read_request, resolve
from pure.transforms import (
    adams,
    budget,
    dbcache,
    dbprune,
    dmd,
    easycache,
    foca,
    fora,
    magcache,
    newton,
    scm,
    seacache,
    speca,
    taylorseer,
    teacache,
)
from tests.support.adder import adder


def load(section, values):
    return resolve(file=load_text(str({section: values}).replace("None", "null"), "c.yaml"))


def cached(**values):
    return build(load("cache_config", values))


@pytest.mark.parametrize(
    ("values", "recipe"),
    [
        ({"cache_type": "FORA"}, fora()),
        ({"cache_type": "DBPrune"}, dbprune(front=8, threshold=0.08, warmup=8)),
        ({"cache_type": "DBPrune", "residual_diff_threshold": -1}, dbprune(front=8, threshold=0.0, warmup=8)),
        (
            {
                "cache_type": "DBPrune",
                "Fn_compute_blocks": 0,
                "Bn_compute_blocks": 1,
                "residual_diff_threshold": 0.2,
                "non_prune_block_ids": [3, 4],
                "max_cached_steps": 9,
                "max_continuous_cached_steps": 2,
                "cfg_diff_compute_separate": False,
                "enable_taylorseer": True,
            },
            pure.compose(
                dbprune(
                    front=0,
                    back=1,
                    threshold=0.2,
                    keep=(3, 4),
                    warmup=8,
                    max_cached=9,
                    max_continuous=2,
                    follow="conditional",
                ),
                taylorseer(order=1),
            ),
        ),
        ({"cache_type": "FORA", "cache_options": {"interval": 4, "warmup": 2}}, fora(interval=4, warmup=2)),
        (
            {"cache_type": "FORA", "Fn_compute_blocks": 1, "Bn_compute_blocks": 2, "enable_taylorseer": True},
            pure.compose(
                dbcache(front=1, back=2, threshold=1.0, warmup=0, max_continuous=None), fora(), taylorseer(order=1)
            ),
        ),
        (
            {"cache_type": "MagCache", "cache_options": {"ratios": [1.0, 0.9], "threshold": 0.1}},
            magcache(ratios=(1.0, 0.9), threshold=0.1),
        ),
        ({"cache_type": "TeaCache"}, teacache()),
        ({"cache_type": "TeaCache", "cache_options": {"polynomial": [1, 0]}}, teacache(polynomial=(1, 0))),
        ({"cache_type": "EasyCache", "cache_options": {"threshold": 0.1}}, easycache(threshold=0.1)),
        (
            {"cache_type": "SeaCache", "calibrator_type": "newton", "cache_options": {"max_continuous": None}},
            pure.compose(seacache(max_continuous=None), newton(order=1)),
        ),
        ({"cache_type": "SpeCa", "enable_taylorseer": True}, pure.compose(speca(), taylorseer(order=1))),
        (
            {"cache_type": "Budget", "cache_options": {"late": 0.5}, "steps_computation_mask": "fast"},
            pure.compose(budget(late=0.5), scm(preset="fast")),
        ),
    ],
)
def test_methods_are_named_by_their_type(values, recipe):
    assert cached(**values) == recipe
    assert not load("cache_config", values).notes
    request = {"scm_preset" if key == "steps_computation_mask" else key: value for key, value in values.items()}
    if "enable_taylorseer" not in values and values["cache_type"] != "DBPrune":  # whose defaults are other ones
        assert build(resolve(request=read_request(request))) == recipe


def test_keys_of_dbcache_have_no_effect_on_another_method():
    (note,) = load("cache_config", {"cache_type": "EasyCache", "residual_diff_threshold": 0.2}).notes
    assert note.endswith("residual_diff_threshold has no effect: it belongs to DBCache; EasyCache has cache_options")
    (note,) = load("cache_config", {"enable_dmd": True, "dmd_svd_precision": "high"}).notes
    assert note.endswith("dmd_svd_precision has no effect: what is decomposed are inner products, in float64")


@pytest.mark.parametrize(
    ("values", "predictor"),
    [
        ({"calibrator_type": "adams", "taylorseer_order": 2}, adams(order=2)),
        ({"enable_dmd": True}, dmd(streams="all")),
        ({"calibrator_type": "dmd", "enable_encoder_dmd": False}, dmd()),
        (
            {"enable_dmd": True, "dmd_history": 5, "dmd_rank": 2, "dmd_ridge": 1e-4, "enable_encoder_dmd": True},
            dmd(history=5, rank=2, ridge=1e-4, streams="all"),
        ),
        ({"enable_foca": True}, foca()),
        ({"enable_foca": True, "calibrator_cache_type": "hidden_states"}, foca(on="hidden")),
        ({"calibrator_type": "foca", "enable_encoder_foca": True}, foca(streams="all")),
        ({"enable_foca": True, "enable_encoder_calibrator": True}, foca(streams="all")),
        ({"enable_dmd": True, "enable_encoder_dmd": False, "enable_encoder_calibrator": True}, dmd(streams="all")),
    ],
)
def test_calibrators_of_every_name(values, predictor):
    base = dbcache(front=8, threshold=0.08, warmup=8, max_continuous=None)
    assert cached(**values) == pure.compose(base, predictor)
    assert not load("cache_config", values).notes


@pytest.mark.parametrize(
    ("values", "facts", "wanted"),
    [
        (
            {"cache_type": "DBPrune", "enable_dynamic_prune_threshold": True},
            Facts(),
            "the threshold would follow changes of other blocks at the same step",
        ),
        (
            {"cache_type": "DBPrune", "Fn_compute_blocks": 1, "non_prune_block_ids": [1, 4]},
            Facts(blocks=4),
            "non_prune_block_ids: [1, 4], but the denoiser has 4 blocks, the first of them 0; give indices of 0 to 3",
        ),
        (
            {"cache_type": "DBPrune", "Fn_compute_blocks": 1, "non_prune_block_ids": [1, 2, 3]},
            Facts(blocks=4),
            "1 first and 0 last blocks and non_prune_block_ids [1, 2, 3] leave none of 4 to prune",
        ),
        (
            {"cache_type": "FORA", "scm_compute_bins": [1], "scm_cache_bins": [1]},
            Facts(),
            "FORA is a mask itself, and there is another",
        ),
        ({"cache_type": "DBPrune"}, Facts(blocks=8), "8 first and 0 last blocks leave none of 8 to prune; make them f"),
        (
            {"cache_type": "DBPrune", "Fn_compute_blocks": 1, "non_prune_block_ids": [1, 3, 2]},
            Facts(blocks=4),
            "non_prune_block_ids: 1 first and 0 last blocks and non_prune_block_ids [1, 3, 2] leave none of 4 to prune",
        ),
        (
            {"cache_type": "EasyCache", "cache_options": {"threshold": "1e-2"}},
            Facts(),
            "use 0 to compute every step; YAML reads 1e-2 as text; write 1.0e-2",
        ),
        ({"cache_type": "SpeCa", "cache_options": {"least": 9, "most": 2}}, Facts(), "give at most 2, or raise most"),
        (
            {"cache_type": "FORA", "cache_options": {"interval": 0}},
            Facts(),
            "cache_options: fora(interval=0): the inter",
        ),
        ({"cache_type": "FORA", "cache_options": {"intervall": 2}}, Facts(), "did you mean 'interval'?"),
        ({"cache_type": "MagCache"}, Facts(), "of diffusers prints; write cache_options: {ratios: [1.0, ...]}"),
        ({"cache_type": "SeaCache"}, Facts(packed=True), "this model packs them into tokens; write cache_type: EasyCa"),
        (
            {"cache_type": "FORA", "steps_computation_mask": "fast"},
            Facts(),
            "FORA is a mask itself, and there is another (c.yaml:1:",
        ),
        (
            {"cache_type": "TeaCache"},
            Facts(experts=2),
            "none was published for two experts; give threshold and polynom",
        ),
        (
            {"cache_type": "TeaCache"},
            Facts(denoiser=adder([1.0])[0]),
            "teacache measures the modulated input of the",
        ),
        (
            {"cache_type": "Budget", "cache_options": {"back": 2}},
            Facts(denoiser=adder([1.0])[0]),
            "asks for blocks that always run, but the denoiser has 1",
        ),
    ],
)
def test_refusals_of_methods(values, facts, wanted):
    effective = resolve(file=load_text(str({"cache_config": values}), "c.yaml"), facts=facts)
    with pytest.raises(ConfigError) as caught:
        build(effective)
    assert wanted in str(caught.value)


def test_every_fault_of_the_options_is_listed():
    options = {"early": "0.1", "front": 0, "laet": 1, "back": 0}
    with pytest.raises(ConfigError, match="3 problems in the configuration") as caught:
        cached(cache_type="Budget", cache_options=options)
    wanted = (
        "budget(early='0.1'): the limit",
        "budget(front=0): the number",
        "did you mean 'late'?",
        "write 0.1 without",
    )
    assert all(words in str(caught.value) for words in wanted)

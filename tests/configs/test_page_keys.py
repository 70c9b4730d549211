"""No key of the page of users is without effect, but for those that say so: each is taken away or changed."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pure.configs import ConfigError, Effective, Facts, build, configure, parallel, quantizations
from pure.models import Pipeline, embedded, load_pipeline
from tests.configs.page import PAGE

CACHE = yaml.safe_load(PAGE["cache_scm_cfg.yaml"])["cache_config"]
# What a run shows that is made without a key; the others state the default, and are changed to show theirs.
SHOWN = {
    "warmup_interval": "decisions",
    "max_continuous_cached_steps": "decisions",
    "Fn_compute_blocks": "decisions",
    "residual_diff_threshold": "decisions",
    "enable_taylorseer": "latents",
    "steps_computation_mask": "decisions",
}
CHANGED = {
    "max_warmup_steps": (2, "decisions"),
    "max_cached_steps": (3, "decisions"),
    "Bn_compute_blocks": (1, "blocks"),
    "taylorseer_order": (2, "latents"),
}


def effective(folder: Path, content: Any, processes: int = 1) -> Effective:
    path = folder / "file.yaml"
    path.write_text(yaml.safe_dump(content))
    return configure(file=path, environ={}, facts=Facts(processes=processes, device="cpu", steps=28, blocks=12))


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline(embedded())


def run(pipeline: Pipeline, found: Effective) -> dict[str, Any]:
    made = pipeline.generate("a red apple", steps=28, transform=build(found))
    decisions = [decision for info in made.infos for decision in info.decisions]
    return {
        "decisions": [(each.computed, each.reason) for each in decisions],
        "blocks": [each.blocks for each in decisions],
        "latents": made.latents,
    }


@pytest.fixture(scope="module")
def whole(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(pipeline, effective(tmp_path_factory.mktemp("whole"), {"cache_config": CACHE}))


def without(key: str) -> dict[str, Any]:
    return {"cache_config": {name: value for name, value in CACHE.items() if name != key}}


def test_every_key_of_a_cache_is_looked_at() -> None:
    assert set(CACHE) == {*SHOWN, *CHANGED, "num_inference_steps", "enable_sperate_cfg"}


@pytest.mark.parametrize("key", SHOWN)
def test_a_key_taken_away_is_missed(key: str, pipeline: Pipeline, whole: dict[str, Any], tmp_path: Path) -> None:
    assert differs(run(pipeline, effective(tmp_path, without(key))), whole, SHOWN[key])


@pytest.mark.parametrize("key", CHANGED)
def test_a_key_that_states_the_default(key: str, pipeline: Pipeline, whole: dict[str, Any], tmp_path: Path) -> None:
    value, what = CHANGED[key]
    assert build(effective(tmp_path, without(key))) == build(effective(tmp_path, {"cache_config": CACHE}))
    changed = effective(tmp_path, {"cache_config": {**CACHE, key: value}})
    assert differs(run(pipeline, changed), whole, what)


def differs(one: dict[str, Any], other: dict[str, Any], what: str) -> bool:
    return not torch.equal(one[what], other[what]) if what == "latents" else one[what] != other[what]


def test_the_number_of_steps_is_what_a_mask_is_held_against(tmp_path: Path) -> None:
    """A run of another length says so only where the file names the length."""
    mask = "the mask 'fast' is meant for 28 steps; this run of 20 has its own"
    for content, said in (({"cache_config": CACHE}, True), (without("num_inference_steps"), False)):
        denoiser = build(effective(tmp_path, content))(load_pipeline(embedded()).denoiser)
        notes = denoiser.notes(load_pipeline(embedded()).solver.schedule(20, 64))
        assert any(mask in note.text for note in notes) is said


def test_separate_guidance_says_that_it_is_so_anyway(tmp_path: Path) -> None:
    notes = effective(tmp_path, {"cache_config": CACHE}).notes
    assert any("enable_separate_cfg has no effect: branches are named" in str(note) for note in notes)
    assert not effective(tmp_path, without("enable_sperate_cfg")).notes


OTHERS = [
    (file, section, key)
    for file, text in PAGE.items()
    for section, keys in yaml.safe_load(text).items()
    if section != "cache_config"
    for key in (keys if isinstance(keys, dict) else [""])
]
OTHER_VALUES = {
    **{"ulysses_size": 3, "ring_size": 3, "tp_size": 3, "attention_backend": "_native_math"},
    **{"quant_type": "int8_weight_only", "verbose": True},
}


@pytest.mark.parametrize(("file", "section", "key"), OTHERS)
def test_a_key_of_sizes_kernels_or_weights_changes_what_is_built(
    file: str, section: str, key: str, tmp_path: Path
) -> None:
    content = yaml.safe_load(PAGE[file])
    processes = 8 if file == "parallel_3d.yaml" else 4 if "parallelism_config" in content else 1
    changed = copy.deepcopy(content)
    if not key:
        del changed[section]
    elif key in OTHER_VALUES:
        changed[section][key] = OTHER_VALUES[key]
    else:
        del changed[section][key]
    assert outcome(tmp_path, changed, processes) != outcome(tmp_path, content, processes)


def outcome(folder: Path, content: Any, processes: int) -> object:
    """What is built, or why nothing is; that any number of heads and tokens works anyway is said."""
    try:
        found = effective(folder, content, processes)
        said = ["ulysses_anything has no effect" in note for note in found.notes]
        return (
            parallel(found),
            quantizations(found),
            found.attention_backend,
            getattr(found.quantize, "verbose", None),
            any(said),
        )
    except ConfigError as error:
        return str(error)

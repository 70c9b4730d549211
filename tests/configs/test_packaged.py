"""Every YAML of the users' page is shipped, loads by its name, and does what the page says in one process."""

from importlib import resources

import pytest
import torch

import pure
from pure.configs import ConfigError, Facts, build, load_config, names, resolve
from pure.configs.load import dump, load_text
from pure.transforms import dbcache, scm, taylorseer
from tests.configs.page import PAGE
from tests.support.adder import adder

CACHE = dbcache(front=1, back=0, threshold=0.12, warmup=8, warmup_interval=2, max_continuous=2)
TAYLOR = taylorseer(order=1)
FAST = scm(preset="fast", steps=28)
RECIPES = {
    "cache.yaml": pure.compose(CACHE, TAYLOR),
    "cache_scm.yaml": pure.compose(CACHE, TAYLOR, FAST),
    "cache_scm_cfg.yaml": pure.compose(CACHE, TAYLOR, FAST),
    "hybrid.yaml": pure.compose(CACHE, TAYLOR),
    "combined.yaml": pure.compose(CACHE, TAYLOR),
    "quantize.yaml": pure.identity,  # it changes parameters, see test_quantization.py
    "parallel.yaml": pure.identity,
    "parallel_uaa.yaml": pure.identity,
    "parallel_fp8.yaml": pure.identity,
    "parallel_async.yaml": pure.identity,
    "parallel_extra.yaml": pure.identity,
}
REFUSED = {
    "parallel_2d.yaml": "tp_size: 2 needs 2 processes, this run has 1; start with --num-gpus 2, or remove the sizes",
    "parallel_3d.yaml": "needs 8 processes, this run has 1; start with --num-gpus 8",
    "attention.yaml": "attention.yaml:1:20: attention_backend: flash does not run here: there is no package ",
}


def test_all_are_shipped():
    assert names() == sorted(PAGE)
    assert sorted(PAGE) == sorted([*RECIPES, *REFUSED])


@pytest.mark.parametrize("name", list(PAGE))
def test_the_text_is_the_pages(name):
    assert (resources.files("pure.configs") / name).read_text(encoding="utf-8") == PAGE[name]


@pytest.mark.parametrize("name", list(PAGE))
def test_loads_by_name_and_round_trips(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no file of that name is
    layer = load_config(name)
    assert layer == load_config(name.removesuffix(".yaml"))
    assert layer == load_text(dump(layer)) == load_text(dump(layer, "json"), "x.json")
    assert layer.notes[0] == f"{name}: the file packaged with puredit"


def test_a_file_of_that_name_wins_over_the_packaged_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cache.yaml").write_text("cache_config: {Fn_compute_blocks: 3}")
    layer = load_config("cache.yaml")
    assert layer.settings["cache_config.Fn_compute_blocks"].value == 3 and not layer.notes


@pytest.mark.parametrize("name", list(RECIPES))
def test_translates_in_one_process(name):
    assert build(resolve(file=load_config(name), facts=Facts(processes=1))) == RECIPES[name]


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused_before_work_starts_with_the_reason_and_the_cure(name):
    with pytest.raises(ConfigError) as refusal:
        build(resolve(file=load_config(name)))
    assert REFUSED[name] in str(refusal.value)
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize("name", [name for name in PAGE if "ulysses_size: auto" in PAGE[name]])
def test_auto_says_what_it_resolves_to(name):
    effective = resolve(file=load_config(name))
    assert effective.parallelism is not None and effective.parallelism.ulysses_size == 1
    assert any("auto is 1 here, as the run has 1 process" in note for note in effective.notes)
    assert "auto, 1 process" in effective.origins["parallelism_config.ulysses_size"]


def test_the_misspelled_key_is_read_and_noted():
    effective = resolve(file=load_config("cache_scm_cfg.yaml"))
    assert effective.cache.enable_separate_cfg is True
    assert any("enable_sperate_cfg is read as enable_separate_cfg" in note for note in effective.notes)
    assert any("enable_separate_cfg has no effect" in note for note in effective.notes)


@pytest.mark.parametrize("key", ["ulysses_async", "ulysses_float8", "ulysses_anything", "extra_parallel_modules"])
def test_what_one_process_cannot_use_is_noted(key):
    name = next(name for name, text in PAGE.items() if key in text)
    assert any(f"{key} has no effect: there is one process" in n for n in resolve(file=load_config(name)).notes)


@pytest.mark.parametrize("name", list(RECIPES))
def test_runs(name):
    """On a toy here; on the embedded checkpoint in the tests of the command line."""
    denoiser, params = adder([1.0, 2.0, 3.0])
    cached = build(resolve(file=load_config(name), facts=Facts(blocks=3, steps=28)))(denoiser)
    solver = pure.FlowMatchEuler()
    conditioning, latents = torch.zeros(1, 1, 2, dtype=torch.float64), torch.ones(1, 3, 2, dtype=torch.float64)
    run = pure.sample(cached, params, conditioning, latents, solver.schedule(28, tokens=3), solver)
    skipped = 28 - sum(info.computed[0] for info in run.infos)
    assert (skipped > 0) == (RECIPES[name] != pure.identity)

"""All sources at once."""

import pytest

from pure.configs import ConfigError, Facts, configure, load_config, read_environment, read_request, resolve


def test_it_is_the_readers_and_resolve():
    environ = {"SGLANG_CACHE_DIT_RDT": "0.3"}
    facts = Facts(steps=28)
    whole = configure(params={"max_warmup_steps": 2}, file="cache.yaml", environ=environ, facts=facts)
    layers = {"request": read_request({"max_warmup_steps": 2}), "environment": read_environment(environ)}
    assert whole == resolve(**layers, file=load_config("cache.yaml"), facts=facts)


def test_nothing_is_the_library_default():
    assert configure() == resolve()


def test_one_report_covers_all_sources(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("cache_config: {Fn: 1}")
    with pytest.raises(ConfigError) as caught:
        configure(
            params={"a": 1},
            enable="yes",  # type: ignore[arg-type]
            flags={"attention_backend": "flsh"},
            spelling={"attention_backend": "--attention-backend", "cache_dit_params": "--cache-dit-params"},
            file=path,
            environ={"SGLANG_CACHE_DIT_FN": "x"},
            model={"cache_config.b": 1},
        )
    assert {problem.place for problem in caught.value.problems} == {
        "--cache-dit-params",
        "enable_cache_dit",
        "flag --attention-backend",
        f"{path}:1:16",
        "environment SGLANG_CACHE_DIT_FN",
        "model default of the model",
    }


def test_a_lenient_file_is_noted_and_not_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("cache_config: {new: 1, Fn_compute_blocks: 2}")
    found = configure(file=path, lenient=True)
    assert found.cache.Fn_compute_blocks == 2 and "cache_config.new is unknown and has no effect" in found.notes[0]
    with pytest.raises(ConfigError, match=r"cache_config\.new: found an unknown key"):
        configure(file=path)

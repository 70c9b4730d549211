"""Single checks of flags, each at the border of what is allowed."""

from types import SimpleNamespace
from typing import Any

import pytest

from pure.cli.cache_flags import FLAGS, default_sources
from pure.cli.command import _check_sizes, plot_path
from pure.cli.options import FLAGS as FLAGS_OF_GENERATE
from pure.cli.parsing import read_defaults
from pure.cli.serve import _files
from pure.engine.errors import Failure, Misuse


def test_a_prompt_may_be_as_long_as_the_model_reads():
    defaults, checked = SimpleNamespace(longest=512), []
    checkpoint: Any = SimpleNamespace(
        found=SimpleNamespace(defaults=defaults), check_pixels=lambda *sizes, **_: checked.append(sizes)
    )
    values = {"height": 32, "width": 64, "num_frames": None}
    for length in (None, 1, 512):
        _check_sizes({**values, "max_sequence_length": length}, checkpoint, ())
    assert checked == [(32, 64, None)] * 3
    with pytest.raises(Misuse, match=r"--max-sequence-length 513: this model reads at most 512 tokens of a prompt"):
        _check_sizes({**values, "max_sequence_length": 513}, checkpoint, ())


def test_a_plot_is_a_png_in_any_case():
    assert [str(plot_path(name)) for name in (None, "a.png", "b/a.PNG")] == ["None", "a.png", "b/a.PNG"]
    with pytest.raises(Misuse, match=r"--plot a\.jpg: the plot is a PNG"):
        plot_path("a.jpg")


def test_the_flags_of_a_server_win_over_its_parameters():
    """Both hold for all requests."""
    unset = {**dict.fromkeys(FLAGS.values()), "cache_dit_config": "cache.yaml", "lenient_config": True}
    params = {"Fn_compute_blocks": 2, "scm_preset": "fast"}
    found = default_sources(
        {**unset, "cache_dit_params": params, "enable_cache_dit": False, "attention_backend": "flex"}
    )
    assert found.flags == {
        "cache_config.Fn_compute_blocks": 2,
        "cache_config.steps_computation_mask": "fast",
        "enabled": False,
        "attention_backend": "flex",
    }
    assert (found.file, found.lenient) == ("cache.yaml", True)
    assert found.spelling["cache_config.Fn_compute_blocks"] == "--cache-dit-params"
    assert found.spelling["attention_backend"] == "--attention-backend"


@pytest.mark.parametrize("name", ["output_path", "input_save_path"])
def test_a_server_writes_where_it_can(tmp_path, name):
    (tmp_path / "file").touch()
    usual = {"output_path": None, "input_save_path": str(tmp_path / "uploads")}
    found = _files({**usual, "output_path": str(tmp_path / "results")})
    assert (found.folder, found.uploads) == (tmp_path / "results", tmp_path / "uploads")
    with pytest.raises(Failure, match=f"cannot write into --{name.replace('_', '-')} .*; there is a file of that name"):
        _files({**usual, name: str(tmp_path / "file" / "inside")})


def test_files_of_flags_have_three_endings_and_are_text(tmp_path):
    known = {name: flag for flag in FLAGS_OF_GENERATE for name in flag.opts}
    for name, text in {"a.yml": "seed: 3", "a.yaml": "seed: 3", "a.json": '{"seed": 3}'}.items():
        (tmp_path / name).write_text(text)
        assert read_defaults(tmp_path / name, known) == {"seed": [3]}
    (tmp_path / "a.yml").write_bytes(b"prompt: \xff")
    with pytest.raises(Misuse, match=r"--config .*a\.yml cannot be read: it is not UTF-8 text"):
        read_defaults(tmp_path / "a.yml", known)

"""What is shown first and in which colour: the newest steps, settings that have a source, computed against skipped."""

import io

import rich.console

from pure import Decision, Info
from pure.cli import cache_flags
from pure.configs import Facts
from pure.engine.plotting import COMPUTED, SKIPPED, colour
from pure.models.progress import Progress


def decision(computed: bool, reason: str = "threshold") -> Decision:
    return Decision(0, computed, reason, None, 6)


def test_a_narrow_terminal_shows_the_newest_steps() -> None:
    console = rich.console.Console(file=io.StringIO(), force_terminal=True, width=56)
    with Progress(console, "image", 60) as progress:
        for step in range(60):
            progress.update(Info((decision(step < 30),)))
        shown = progress._line().plain
    mark = "." if progress.plain else "░"
    assert shown == f"image ...{mark * 15} 60/60  30 computed  30 skipped"


def test_settings_that_have_a_source_are_shown_before_defaults(puredit, tmp_path) -> None:
    (tmp_path / "cache.yaml").write_text("cache_config: {residual_diff_threshold: 0.3}\n")
    code, out, _ = puredit("config", "--show", "--cache-dit-config", "cache.yaml")
    assert code == 0
    assert 0 < out.index("residual_diff_threshold") < out.index("library default")


def test_flags_that_were_given_are_shown_first_and_refusals_last(puredit) -> None:
    code, out, _ = puredit("config", "--show", "--width", "64", "--height", "32", "--tp-size", "2")
    names = [line.split()[0] for line in out[out.index("flags") :].splitlines()[1:] if line.strip()]
    given = [name for name in names if name in ("width", "height", "tp_size")]
    assert code == 2 and given == ["height", "tp_size", "width"]
    assert names.index("width") < names.index("backend") < names.index("num_inference_steps")
    assert "no_save_output" not in names, "save_output says it"
    said = "refused: flag --tp-size: parallelism_config.tp_size: tp_size: 2 needs 2 processes, this run has 1"
    assert out.splitlines()[-1].startswith(said)


def test_a_flag_is_named_as_the_origin_of_what_it_sets() -> None:
    values = {**dict.fromkeys(cache_flags.FLAGS.values()), "cache_dit_params": None, "cache_dit_config": None}
    values |= {"enable_cache_dit": True, "lenient_config": False}
    found = cache_flags.settle(values, {}, Facts())
    assert found.enabled and found.origins["enabled"] == "flag --enable-cache-dit"


def test_computed_and_skipped_steps_have_colours_of_their_own() -> None:
    for reason in ("threshold", "mask"):
        assert colour(decision(True, reason)) == COMPUTED[reason] != SKIPPED[reason] == colour(decision(False, reason))
    assert colour(decision(True, "another")) != colour(decision(False, "another"))

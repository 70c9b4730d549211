"""A file with mistakes gets one report of all of them, each with its place, what is allowed and the cure."""

import re

import pytest

from pure.configs import ConfigError, Layer, load_config, load_text
from pure.configs.consistency import calibrators
from pure.configs.positions import parse_yaml


def report(text, name="c.yaml", lenient=False):
    with pytest.raises(ConfigError) as caught:
        load_text(text, name, lenient=lenient)
    return caught.value


def values(layer: Layer):
    return {path.removeprefix("cache_config."): s.value for path, s in layer.settings.items() if path != "enabled"}


def test_one_report_lists_everything_in_the_order_of_the_file():
    error = report(
        "cache_config:\n"
        "  Fn_compute_blocks: '8'\n"
        "  residual_dif_threshold: 0.1\n"
        "  warmup_interval: 0\n"
        "  enable_taylorseer: true\n"
        "  enable_foca: true\n"
        "  warmup_interval: 2\n"
        "parallelism_config: {ulysses: auto, ring_size: auto, tp_size: 0}\n"
        "quantise_config: {quant_type: float8}\n"
    )
    found = [(p.place, p.path, p.hint) for p in error.problems]
    assert found == [
        ("c.yaml:2:22", "cache_config.Fn_compute_blocks", "write 8 without quotes"),
        ("c.yaml:3:3", "cache_config.residual_dif_threshold", "did you mean residual_diff_threshold?"),
        ("c.yaml:4:20", "cache_config.warmup_interval", ""),
        ("c.yaml:6:16", "cache_config.enable_foca", "switch all but one off"),
        ("c.yaml:7:3", "cache_config.warmup_interval", "it is at 4:3 already; remove one of the two"),
        ("c.yaml:8:48", "parallelism_config.ring_size", "write a number"),
        ("c.yaml:8:63", "parallelism_config.tp_size", ""),
        ("c.yaml:9:1", "quantise_config", "did you mean quantize_config?"),
    ]
    assert str(error).startswith("8 problems in the configuration:\n  c.yaml:2:22: cache_config.Fn_compute_blocks: ")
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("Fn_compute_blocks: 8.0", "found the number 8.0; allowed: a whole number of at least 0; write 8"),
        ("Fn_compute_blocks: -1", "found the number -1; allowed: a whole number of at least 0"),
        ("Fn_compute_blocks: true", "found true; allowed: a whole number"),
        (
            "Fn_compute_blocks: 1_0",
            "found 1_0, which YAML reads as 10; allowed: a YAML document; write 10 if that is meant",
        ),
        ("Fn_compute_blocks: 017", "found 017, which YAML reads as 15"),
        ("Fn_compute_blocks: 0x1f", "found 0x1f, which YAML reads as 31"),
        ("Fn_compute_blocks: 0b11", "found 0b11, which YAML reads as 3"),
        ("max_warmup_steps: 1:30", "found 1:30, which YAML reads as 90"),
        ("residual_diff_threshold: 1_0.5", "found 1_0.5, which YAML reads as 10.5"),
        ("Fn_compute_blocks: 0o17", "found text '0o17'; allowed: a whole number"),
        ("Fn_compute_blocks: '08'", "write 8 without quotes"),
        ("Fn_compute_blocks: '1_0'", "found text '1_0'; allowed: a whole number"),
        ("steps_computation_mask: 0110", "found 0110, which YAML reads as 72"),
        ("cache_type: no", "found false; allowed: one of DBCache"),
        ("max_cached_steps: -2", "or -1 for no limit; write -1 for no limit"),
        ("residual_diff_threshold: '0.12'", "found text '0.12'; allowed: a finite number; write 0.12 without quotes"),
        ("residual_diff_threshold: .nan", "found the number nan; allowed: a finite number"),
        ("residual_diff_threshold: [1]", "found a list [1]; allowed: a finite number"),
        ("max_accumulated_residual_diff_threshold: 0", "above 0; leave the key out for no limit"),
        ("dmd_ridge: 1e-8", "YAML reads 1e-8 as text; write 1.0e-8"),
        ("enable_taylorseer: 'yes'", "found text 'yes'; allowed: true or false; write true without quotes"),
        ("enable_taylorseer: 1", "found the number 1; allowed: true or false; write true"),
        ("taylorseer_order: 4", "a whole number from 0 to 3"),
        ("taylorseer_cache_type: hidden", "one of residual, hidden_states; did you mean hidden_states?"),
        ("steps_computation_policy: Static", "one of dynamic, static; did you mean static?"),
        ("steps_computation_mask: fats", "did you mean fast?"),
        ("steps_computation_mask: 1101", "put quotes around the digits"),
        (
            "steps_computation_mask: [1, 2]",
            "found a list [1, 2]; allowed: one of none, slow, medium, fast, ultra, a list",
        ),
        ("steps_computation_mask: []", "found a list []"),
        ("steps_computation_mask: ''", "found text ''"),
        ("scm_compute_bins: 8,3\n  scm_cache_bins: [1]", "found text '8,3'; allowed: a list of whole numbers"),
        ("scm_compute_bins: [0, 3]\n  scm_cache_bins: [1]", "the first of at least 1"),
        ("scm_compute_bins: [3]", "found no scm_cache_bins beside it; allowed: both bins or none"),
        (
            "cache_type: DBcache",
            "one of DBCache, DBPrune, FORA, MagCache, TeaCache, EasyCache, SeaCache, Budget, SpeCa; "
            "did you mean DBCache?",
        ),
        (
            "Fn: 1",
            "found an unknown key; allowed: 46 keys, which `puredit config --reference` lists; did you mean Fn_co",
        ),
        ("threshold: 1", "did you mean residual_diff_threshold?"),
        ("method: FORA", "did you mean cache_type?"),
        ("enable_teacache: true", "lists; write cache_type: TeaCache"),
        ("seacache: true", "lists; write cache_type: SeaCache"),
        ("enable_adams: true", "lists; write calibrator_type: adams"),
        ("enable_cache_dit: true", "leave it out: settings switch the cache on, and --enable-cache-dit false switches"),
        (
            "cache_options: {threshold: .inf}",
            "c.yaml:2:18: cache_config.cache_options: found the number inf for its key threshold; allowed: a mapping; ",
        ),
        (
            "ulysses_size: 1",
            "found an unknown key; allowed: 46 keys, which `puredit config --reference` lists; it belongs",
        ),
        ("attention_backend: native", "attention_backend is a section of its own"),
        ("<<: 1", "found an unknown key"),
        ("[1, 2]: 1", "found an unknown key"),
        ("1: 1", "cache_config.1: found an unknown key"),
        ("enable_sperate_cfg: true\n  enable_separate_cfg: true", "found another name of enable_separate_cfg"),
        ("enable_separate_cfg: true\n  enable_sperate_cfg: true", "found another name of enable_separate_cfg"),
        (
            "enable_taylorseer: true\n  calibrator_type: dmd",
            "a second calibrator besides enable_taylorseer (c.yaml:2:22); allowed: at most one calibrator, of "
            "taylorseer, newton, hermite, adams, dmd and foca; switch all but one off",
        ),
        ("Fn_compute_blocks: 0\n  residual_diff_threshold: 0.1", "found 0 with residual_diff_threshold: 0.1"),
        ("steps_computation_mask: '110'\n  num_inference_steps: 4", "found 3 entries for num_inference_steps: 4"),
        ("steps_computation_mask: '110'\n  num_inference_steps: 2", "found 3 entries for num_inference_steps: 2"),
        ("steps_computation_mask: '01'\n  steps_computation_policy: static", "found a static mask that starts with 0"),
        (
            "steps_computation_mask: '11'\n  scm_compute_bins: [1]\n  scm_cache_bins: [1]",
            "bins beside an explicit mask",
        ),
    ],
)
def test_mistakes_of_cache_config(line, wanted):
    assert wanted in str(report(f"cache_config:\n  {line}\n"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "c.yaml: found an empty document; allowed: a mapping with at least one of cache_config, par"),
        ("# only a remark\n", "found an empty document"),
        ("---\n", "c.yaml:2:1: found nothing; allowed: a mapping"),
        ("null", "found nothing"),
        ("[1]", "c.yaml:1:1: found [1]; allowed: a mapping"),
        ("just text", "found 'just text'; allowed: a mapping"),
        ("some: thing", "c.yaml:1:1: some: found an unknown key; allowed: attention_backend, cache_config, paral"),
        (
            "cache_config:",
            "c.yaml:1:14: cache_config: found an empty section; allowed: a mapping that sets at least one",
        ),
        ("cache_config: {}", "found an empty section"),
        ("cache_config: {Fn_compute_blocks: null}", "found an empty section"),
        ("cache_config: fast", "cache_config: found 'fast'; allowed: a mapping"),
        ("attention_backend: null", "found a document that sets nothing"),
        ("attention_backend: flsh", "did you mean flash?"),
        ("parallelism_config: {attention_backend: native}\nattention_backend: flash", "but attention_backend is flash"),
        ("parallelism_config: {ulysses_size: 0}", "a whole number of at least 1, or auto"),
        ("parallelism_config: {ulysses: 2, ulysses_size: 2}", "found another name of ulysses_size"),
        ("parallelism_config: {cp_plan: 1}", "a Python function cannot be written in a configuration"),
        ("parallelism_config: {extra_parallel_modules: vae}", """a list of 'text_encoder' and 'vae'; write ["vae"]"""),
        ("parallelism_config: {extra_parallel_modules: [vae, controlnet]}", "no checkpoint that is loaded has a contr"),
        ("parallelism_config: {extra_parallel_modules: [text_encoder_2]}", "there is no 'text_encoder_2'"),
        ("quantize_config: {quant_type: float9}", "found text 'float9'; allowed: one of float8"),
        ("cache_config: {Fn_compute_blocks: 1}\nFn_compute_blocks: 2", "it belongs in cache_config"),
        (
            "cache_config:\n\tFn_compute_blocks: 1",
            "c.yaml:2:1: found a tab in the indentation; allowed: a YAML document; i",
        ),
        ("cache_config:\n\tFn: 1\n\tBn: 2", "4 problems"),
        ("cache_config:\n\tFn: [1", "1 problem in the configuration:\n  c.yaml:2:1: found a tab"),
        ("cache_config:\n  Fn_compute_blocks: 1\t# first", "c.yaml:2:23: found an error: while scanning for the next"),
        ("cache_config:\n  Fn_compute_blocks: 1\t# first", "replace the tab by spaces"),
        ("a: [1", "c.yaml:1:6: found an error: while parsing a flow sequence"),
        ("a: 1\n---\nb: 1", "keep one document per file"),
        ("a: &x [*x]", "found an alias of a value that contains it"),
        ("a: &x {b: {c: *x}}", "found an alias of a value that contains it"),
        ("a: !python/name:os.system 1", "found could not determine a constructor for the tag"),
        ("a: 2001-99-99", "c.yaml:1:4: found '2001-99-99', which is no value"),
        ("a: \x00", "c.yaml:1:4: found the character U+0000"),
        ("[" * 101 + "]" * 101, "nested too deeply"),
    ],
)
def test_mistakes_of_documents(text, wanted):
    assert wanted in str(report(text))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "c.json: found an empty document"),
        ('{"cache_config": {"Bn_compute_blocks": "1"}}', "c.json:1:40: cache_config.Bn_compute_blocks: found text '1'"),
        ('{\n "cache_config": {"Bn": 1}}', "c.json:2:19: cache_config.Bn: found an unknown key"),
        ('{"cache_config" \t: {"Bn"\n: 1}}', "c.json:1:21: cache_config.Bn: found an unknown key"),
        ('{"a": 1,}', "c.json:1:9: found an error: "),
        ('{"a": 1} x', "c.json:1:10: found an error: Extra data"),
        (
            '{"cache_config": {"dmd_rank": 1, "dmd_rank": 2}}',
            "c.json:1:34: cache_config.dmd_rank: found the key for the se",
        ),
        ('{"cache_config": {"dmd_ridge": NaN}}', "found the number nan"),
        ("[" * 100000, "nested too deeply"),
        (f'{{"a": {"1" * 5000}}}', "4300 digits"),
    ],
)
def test_mistakes_of_json(text, wanted):
    assert wanted in str(report(text, "c.json"))


def test_an_alias_bomb_is_refused():
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    assert "found more than 20000 values" in str(report("\n".join(lines)))


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"cache_config: {a: \xe4}")
    for source, wanted in [
        (
            tmp_path / "cashe.yaml",
            "cashe.yaml: found no such file; allowed: a readable YAML or JSON file, or one of att",
        ),
        (tmp_path / "cashe.yaml", "did you mean cache.yaml?"),
        ("nothere.yaml", "quantize.yaml"),  # the end: no file of this kind is named almost so
        (tmp_path / "latin.yaml", "byte 18, which is not UTF-8"),
        (tmp_path, "Is a directory"),
        ("a\0b", "null"),
        ("x" * 5000, "File name too long"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(wanted) + ("$" if source == "nothere.yaml" else "")):
            load_config(source)


def test_the_three_forms_of_a_mask():
    texts = ["'1101'", "[1, 1, 0, 1]", "medium"]
    masks = [values(load_text(f"steps_computation_mask: {text}"))["steps_computation_mask"] for text in texts]
    assert masks == [(1, 1, 0, 1), (1, 1, 0, 1), "medium"]


def test_the_flat_form_is_the_section():
    flat = load_text("Fn_compute_blocks: 1\nsteps_computation_mask: fast\nenable_sperate_cfg: true")
    nested = load_text(
        "cache_config:\n  Fn_compute_blocks: 1\n  steps_computation_mask: fast\n  enable_separate_cfg: true"
    )
    assert flat == nested and flat.settings["enabled"].value is True


def test_null_is_unset_and_the_words_of_yaml_are_booleans():
    layer = load_text(
        "cache_config: {Fn_compute_blocks: null, enable_taylorseer: yes, enable_foca: off, cache_type: DBCache}"
    )
    assert values(layer) == {"enable_taylorseer": True, "enable_foca": False, "cache_type": "DBCache"}


def test_short_names_of_sizes():
    layer = load_text("parallelism_config: {ulysses: 2, ring: 3, tp: 4}")
    assert [layer.settings[f"parallelism_config.{name}_size"].value for name in ("ulysses", "ring", "tp")] == [2, 3, 4]


def test_a_wrong_key_among_those_of_a_flat_file_is_one_of_the_section():
    (problem,) = report("Fn_compute_blocks: 1\nnew: 1").problems
    assert (problem.path, problem.found) == ("cache_config.new", "an unknown key")


def test_tabs_before_comments_are_no_mistake():
    (problem,) = report("cache_config: [1\n\t# a comment\n \t\n").problems
    assert "tab" not in problem.found


def test_json_is_told_by_its_ending_in_any_case():
    (problem,) = report("Fn_compute_blocks: 1", "C.JSON").problems
    assert problem.allowed == "a JSON document"


@pytest.mark.parametrize("threshold", [0, 1, -1, 2])
def test_no_front_block_is_needed_where_nothing_is_measured(threshold):
    text = f"cache_config: {{Fn_compute_blocks: 0, residual_diff_threshold: {threshold}}}"
    assert load_text(text).settings["cache_config.Fn_compute_blocks"].value == 0


def test_one_calibrator_that_is_switched_on_twice_is_named_by_its_own_key():
    on = load_text("cache_config: {enable_taylorseer: true, calibrator_type: taylorseer}").settings
    assert calibrators(on) == {"taylorseer": "cache_config.enable_taylorseer"}


def test_lenient_turns_unknown_keys_into_notes_and_nothing_else():
    layer = load_text("cache_config: {Fn: 1, Bn_compute_blocks: 1}\nnew: 1", "c.yaml", lenient=True)
    assert values(layer) == {"Bn_compute_blocks": 1}
    assert layer.notes == (
        "c.yaml:1:16: cache_config.Fn is unknown and has no effect; did you mean Fn_compute_blocks?",
        "c.yaml:2:1: new is unknown and has no effect",
    )
    assert "1 problem" in str(report("cache_config: {Fn: 1, Bn_compute_blocks: '1'}", lenient=True))
    assert "sets nothing" in str(report("new: 1", lenient=True))
    second = load_text("secondary: {cache_config: {enable_sperate_cfg: true, Fn: 1}}", "c.yaml", lenient=True)
    assert [note.partition(" ")[0] for note in second.notes] == ["c.yaml:1:28:", "c.yaml:1:54:"]


def test_json_with_a_byte_order_mark(tmp_path):
    (tmp_path / "c.json").write_bytes(b'\xef\xbb\xbf{"cache_config":\t{"Fn_compute_blocks": 2}}')
    assert values(load_config(tmp_path / "c.json")) == {"Fn_compute_blocks": 2}


def test_tabs_inside_text_are_no_mistake():
    text = 'parallelism_config:\n  ray_address: "a\n\tb"\n'
    assert load_text(text).settings["parallelism_config.ray_address"].value == "a b"


@pytest.mark.parametrize(("text", "twice"), [("1: a\n'1': b\n", 0), ("true: a\n'True': b\n", 0), ("1: a\n1: b\n", 1)])
def test_a_number_is_another_key_than_its_digits(text, twice):
    _, problems = parse_yaml(text, "c.yaml")
    assert [problem.found for problem in problems] == ["the key for the second time"] * twice

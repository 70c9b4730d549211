"""Whatever is written, the answer is a valid configuration or a report: never a traceback, never a silent drop."""

import json
import string

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pure.configs import (
    ConfigError,
    Facts,
    build,
    describe,
    dump,
    load_text,
    read_environment,
    read_flags,
    read_request,
    resolve,
)
from pure.configs.environment import PREFIX, VARIABLES
from pure.configs.load import TOP, _known
from pure.configs.report import Problem
from pure.configs.request import REQUEST_KEYS
from pure.configs.schema import SECTIONS
from tests.configs.page import PAGE
from tests.configs.test_build import OTHER

WORDS = ["auto", "fast", "none", "DBCache", "static", "native", "flash", "true", "8", "1e-8", "0101", "", "<<", "a\tb"]
PATHS = [
    *("enabled", "attention_backend", "x", "cache_config.Fn_compute_blocks", "parallelism_config.tp_size"),
    *("cache_config.steps_computation_mask", "secondary.cache_config.dmd_rank"),
]
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 30),
    st.integers(),
    st.floats(allow_nan=True),
    st.sampled_from(WORDS),
    st.text(string.printable, max_size=8),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
good = {section: {key: st.just(value) | st.none() for key, value in keys.items()} for section, keys in OTHER.items()}


def sections():
    """Documents that are nearly right: known keys mostly, right values half of the time, anything else now and then."""
    drawn = {}
    for section in SECTIONS:
        keys = st.one_of(st.sampled_from(sorted(_known(section))), st.sampled_from(sorted(TOP)), st.text(max_size=6))
        right = st.fixed_dictionaries({}, optional=good[section])
        drawn[section] = st.one_of(right, right, st.dictionaries(keys, values, max_size=5), values)
    drawn["attention_backend"] = st.sampled_from(["native", "flash", "x"]) | values
    return st.fixed_dictionaries({}, optional=drawn)


documents = st.one_of(sections(), sections(), st.fixed_dictionaries({}, optional=good["cache_config"]), values)
layouts = st.sampled_from([False, True, None])


def answer(function, *args, **kwargs):
    """The result, or the problems, which are complete; any other exception fails the test."""
    try:
        return function(*args, **kwargs)
    except ConfigError as error:
        assert error.problems and str(error).count("\n") >= len(error.problems)
        for problem in error.problems:
            assert isinstance(problem, Problem) and problem.place and problem.found
            assert problem.allowed or problem.hint
        return None


def follow(layer, facts=Facts()):  # noqa: B008
    """Everything that is done with a layer; nothing of it may fail but by a report."""
    effective = answer(resolve, **{layer.name: layer}, facts=facts)
    if effective is None:
        return
    assert all(row.origin for row in describe(effective))
    origins = set(effective.origins.values())
    for setting in layer.settings.values():
        told = any(setting.place in note for note in effective.notes)
        assert told or any(setting.place in origin for origin in origins)
    answer(build, effective)
    answer(build, effective, expert="secondary")


def check(text, name):
    layer = answer(load_text, text, name)
    lenient = answer(load_text, text, name, lenient=True)
    if layer is None:
        return
    assert layer == lenient
    for format, other in (("yaml", "x.yaml"), ("json", "x.json")):
        assert load_text(dump(layer, format), other) == layer
    follow(layer)
    follow(layer, Facts(processes=4, device="cuda", steps=28, blocks=6, experts=2))


@settings(max_examples=60)
@given(documents, layouts)
def test_yaml_documents(document, layout):
    check(yaml.safe_dump(document, default_flow_style=layout), "c.yaml")


@settings(max_examples=60)
@given(documents, st.sampled_from([None, 1, "\t"]))
def test_json_documents(document, indent):
    check(json.dumps(document, indent=indent), "c.json")


@settings(max_examples=60)
@given(documents)
def test_no_key_of_a_loaded_file_is_dropped(document):
    """What loads says exactly what the document says: each key that is not null, under its full name."""
    layer = answer(load_text, yaml.safe_dump(document), "c.yaml")
    if layer is None:
        return
    flat = not any(key in TOP for key in document)
    nested = {"cache_config": document} if flat else document
    said = set()
    for section, content in nested.items():
        if isinstance(content, dict):
            said |= {f"{section}.{_known(section)[key]}" for key, value in content.items() if value is not None}
        elif content is not None:
            said.add(section)
    assert {path for path in layer.settings if path != "enabled"} == said


@settings(max_examples=60)
@given(
    st.sampled_from(list(PAGE.values())), st.integers(0, 400), st.integers(0, 3), st.text(string.printable, max_size=3)
)
def test_documents_with_a_slip(text, at, cut, inserted):
    at %= len(text)
    for name in ("c.yaml", "c.json"):
        check(text[:at] + inserted + text[at + cut :], name)


@settings(max_examples=40)
@given(st.text(max_size=40) | st.text("{}[]:,-&*!|>'\"%@`#?\t\n 1aé\x00\ud800", max_size=30))
def test_any_text(text):
    for name in ("c.yaml", "c.json"):
        check(text, name)


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from(sorted(VARIABLES)) | st.text("ABC_", max_size=5).map(lambda end: PREFIX + end),
        st.one_of(st.integers(-2, 30).map(str), st.sampled_from([*WORDS, "1,2", "on"]), st.text(max_size=6)),
        max_size=8,
    )
)
def test_environments(environ):
    layer = answer(read_environment, environ)
    if layer is not None:
        follow(layer)
        told = " ".join([s.place for s in layer.settings.values()] + list(layer.notes))
        assert all(name in told or not environ[name].strip() for name in environ)


@settings(max_examples=60)
@given(st.one_of(st.dictionaries(st.sampled_from([*REQUEST_KEYS, "secondary", "x"]), values, max_size=5), values))
def test_requests(params):
    layers = [answer(read_request, form) for form in (params, json.dumps(params))]
    if not isinstance(params, str):
        assert layers[0] == layers[1]
    for layer in layers:
        if layer is not None:
            follow(layer)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(PATHS), values, max_size=4))
def test_flags(flags):
    layer = answer(read_flags, flags)
    if layer is not None:
        answer(resolve, flags=layer)

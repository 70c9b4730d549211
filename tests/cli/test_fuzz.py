"""Whatever is typed, the answer is a job that says what was typed, or a refusal: never a traceback, never a drop."""

import contextlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pure.cli.main import run
from pure.cli.options import FLAGS
from pure.cli.parsing import Flag
from pure.cli.values import Json, Value
from pure.configs import kinds
from pure.configs.environment import PREFIX, VARIABLES
from pure.configs.request import REQUEST_KEYS

FILES = ("--model-path", "--config", "--perf-dump-path", "--plot", "--image-path", "--lora-path", "--prompt-file-path")
BARE = [flag for flag in FLAGS if flag.is_flag]
# --debug and --log-level debug show tracebacks on purpose.
TRACING = ("--debug", "--log-level")
NAMED = {name: flag for flag in FLAGS for name in flag.opts if not flag.is_flag and name not in TRACING}
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
junk = words | st.sampled_from(["--", "-", "--promt", "--seed", "true", "-1", "nan", "{}", "[1]", "a=b", "--a b"])
junk_json = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
params = st.dictionaries(st.sampled_from(sorted(REQUEST_KEYS)) | st.text(max_size=4), junk_json, max_size=3)


def right(flag: Flag) -> st.SearchStrategy[str]:
    """Values that fit the flag's grammar; whether they make sense together is another matter."""
    kind = flag.type.kind if isinstance(flag.type, Value) else None
    if isinstance(kind, kinds.Bool):
        return st.sampled_from(["true", "false", "True", "FALSE"])
    if isinstance(kind, kinds.Whole):
        return st.integers(kind.least, 40).map(str)
    if isinstance(kind, kinds.Real):
        return st.floats(kind.least, 20, allow_nan=False).map(str)
    if isinstance(flag.type, Json) or isinstance(kind, kinds.Unchecked):
        return params.map(json.dumps)
    choices = getattr(flag.type, "choices", None)
    return st.sampled_from(list(choices)) if choices else st.text("abc ./é", min_size=1, max_size=6)


def assignment(name: str) -> st.SearchStrategy[list[str]]:
    """A flag with its values, written apart or with `=`, or without any."""
    flag = NAMED[name]
    value = right(flag) | right(flag) | junk
    apart = st.lists(value, min_size=1, max_size=3 if flag.multiple else 1).map(lambda values: [name, *values])
    return apart | apart | value.map(lambda text: [f"{name}={text}"]) | st.just([name])


lines = st.lists(
    st.sampled_from(sorted(NAMED.keys() - set(FILES))).flatmap(assignment)
    | st.sampled_from([[flag.opts[0]] for flag in BARE])
    | st.lists(junk, min_size=1, max_size=2),
    max_size=4,
).map(lambda parts: [word for part in parts for word in part])
environments = st.dictionaries(
    st.sampled_from(sorted(VARIABLES)).map(lambda name: name if name.startswith(PREFIX) else PREFIX + name),
    st.sampled_from(["1", "0", "true", "8", "0.2", "fast", "8,3", "x", ""]),
    max_size=3,
)


@contextlib.contextmanager
def listening() -> Iterator[tuple[list, io.StringIO]]:
    """Catch the job instead of doing it, and what is said."""
    jobs: list = []
    said = io.StringIO()
    with (
        mock.patch("pure.cli.generate.execute", jobs.append),
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(said),
    ):
        yield jobs, said


def answer(typed: list[str]) -> tuple[int, list, str]:
    with listening() as (jobs, said):
        code = run(["generate", *typed])
    return code, jobs, said.getvalue()


def is_an_answer(code: int, jobs: list, said: str) -> None:
    assert "Traceback" not in said
    if code == 0:
        assert len(jobs) == 1 or "Usage:" in said
        return
    assert code in (1, 2) and not jobs
    assert re.search(r"^error: \S", said, re.MULTILINE), said
    assert not re.search(r"^error: \w+(Error|Exception|Warning)\b", said, re.MULTILINE), said


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


SLOWLY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@settings(SLOWLY, max_examples=150)
@given(lines, environments)
def test_any_command_line_has_an_answer(typed, environ):
    with mock.patch.dict("os.environ", environ):
        is_an_answer(*answer(["--prompt", "a", *typed]))


@settings(SLOWLY, max_examples=60)
@given(st.lists(junk, max_size=5))
def test_junk_has_an_answer(typed):
    is_an_answer(*answer(typed))


@settings(SLOWLY, max_examples=60)
@given(st.dictionaries(st.sampled_from(sorted(NAMED)).map(lambda n: n.lstrip("-").replace("-", "_")), junk_json))
def test_any_file_of_flags_has_an_answer(content):
    Path("flags.json").write_text(json.dumps(content), encoding="utf-8")
    is_an_answer(*answer(["--prompt", "a", "--config", "flags.json"]))


SIDES = st.integers(1, 512).map(lambda tokens: 8 * tokens)
# Flags that go into the job as they are; the others are covered one by one in test_parsing and test_mistakes.
PLAIN = {
    "--num-inference-steps": (st.integers(1, 99), lambda job: job.steps),
    "--height": (SIDES, lambda job: job.order.options.get("height")),
    "--width": (SIDES, lambda job: job.order.options.get("width")),
    "--guidance-scale": (st.floats(0, 20), lambda job: job.order.options.get("guidance_scale")),
    "--true-cfg-scale": (st.floats(0, 20), lambda job: job.order.options.get("true_cfg_scale")),
    "--max-sequence-length": (st.integers(1, 512), lambda job: job.order.options.get("max_sequence_length")),
    "--negative-prompt": (st.text("abc", min_size=1), lambda job: job.order.negative_prompt),
    "--seed": (st.integers(0, 2**40), lambda job: job.samples[0].seed),
    "--dit-precision": (st.sampled_from(["fp32", "bf16", "fp16"]), lambda job: job.checkpoint.precision),
    "--num-gpus": (st.integers(1, 8), lambda job: job.parallel.sizes.total),
    "--enable-torch-compile": (st.booleans(), lambda job: job.checkpoint.compiled),
    "--enable-cache-dit": (st.booleans(), lambda job: job.caching.enabled),
}


@settings(SLOWLY, max_examples=60)
@given(st.fixed_dictionaries({}, optional={name: values for name, (values, _) in PLAIN.items()}))
def test_nothing_typed_is_dropped(chosen):
    typed = [word for name, value in chosen.items() for word in (name, str(value))]
    code, jobs, said = answer(["--prompt", "a", *typed])
    assert code == 0, said
    assert {name: PLAIN[name][1](jobs[0]) for name in chosen} == chosen

"""docs/serving.md is true: its commands parse, its requests are answered, its client's lines run."""

import json
import re
import shlex
from pathlib import Path

import pytest

from pure.cli.commands import serve
from pure.engine.unsupported import FIELDS
from pure.serving.http import about, images, videos
from pure.serving.http.about import ABSENT
from pure.serving.http.fields import EDIT, IMAGE, VIDEO

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
SHELL = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
COMMANDS = [re.sub(r"^(\w+=\S+ )*puredit serve", "", line) for line in SHELL if "puredit serve" in line]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    context = serve.make_context("serve", shlex.split(command.partition("  #")[0]))
    assert context.params["port"] == 30000


def test_requests_are_answered(here):
    (line,) = [line for line in SHELL if line.startswith("curl")]
    words = shlex.split(line)
    app = here("embedded")
    made = app.post(words[1].partition(":30000")[2], **json.loads(words[words.index("-d") + 1]))
    assert made["puredit"]["skipped_steps"] and len(made["puredit"]["computed_steps"]) >= 2


def test_the_clients_lines_run(here, tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```py\n(.*?)```", TEXT, re.DOTALL)
    server = here("embedded").threaded()
    monkeypatch.chdir(tmp_path)
    try:
        exec(compile(code.replace("http://127.0.0.1:30000", server.url), "serving.md", "exec"), {})
    finally:
        server.end()
    assert (tmp_path / "apple.png").stat().st_size > 500 and "skipped: [" in capsys.readouterr().out


def test_every_route_is_in_the_table():
    routes = {route.path for part in (about, images, videos) for route in part.router.routes}
    written = set(re.findall(r"/[\w/{}]+", TEXT))
    plain = {re.sub(r"\{id:path\}", "{id}", route) for route in routes} - {"/models", "/v1/model_info"}  # old names
    assert plain <= written, plain - written
    assert not {route for route in routes if route.startswith(tuple(ABSENT))}


def test_flags_are_in_the_table():
    own = {name for flag in serve.params if getattr(flag, "group", "") == "Server" for name in flag.opts}
    assert own - {"--warmup", "--warmup-steps", "--log-level"} <= set(re.findall(r"--[a-z-]+", TEXT))


def test_no_field_is_known_and_refused():
    assert not set(FIELDS) & {name for route in (IMAGE, EDIT, VIDEO) for name in route.kinds}

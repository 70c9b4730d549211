"""The documents are true: their Python runs, their commands run, their links lead somewhere."""

import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from pure.cli.main import run

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Yield `(id, text)` of every fenced block of a language in the documents."""
    for document in DOCUMENTS:
        for place, match in enumerate(FENCE.finditer(document.read_text())):
            if match.group(1) == language:
                yield f"{document.name}-{place}", match.group(2)


def commands() -> Iterator[tuple[str, str]]:
    """Yield every `puredit` command of the documents, with continued lines joined."""
    for name, text in blocks("shell"):
        for number, line in enumerate(text.replace("\\\n", " ").splitlines()):
            line = line.split("  #")[0].strip()
            if re.match(r"^(\w+=\S+ +)*puredit ", line):
                yield f"{name}-{number}", line


PYTHON, COMMANDS = dict(blocks("python")), dict(commands())


@pytest.mark.parametrize("name", PYTHON)
def test_python_of_the_documents_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        exec(compile(PYTHON[name], name, "exec"), {"__name__": "document"})


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_of_the_documents_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(COMMANDS[name])
    while "=" in words[0]:
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    assert run(words[1:]) == 0


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_of_the_documents_lead_somewhere(document: Path) -> None:
    text = FENCE.sub("", document.read_text())
    missing = [link for link in LINK.findall(text) if not (document.parent / link).exists()]
    assert not missing


def test_the_first_example_of_the_readme_saves_its_picture_and_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = next(text for name, text in PYTHON.items() if name.startswith("README"))
    statements = [line for line in source.splitlines() if line.strip()]
    assert len(statements) <= 14
    exec(compile(source, "README.md", "exec"), {"__name__": "document"})
    assert (tmp_path / "apple.png").stat().st_size > 500

"""No Python file is longer than 400 lines."""

from tests.structure.source import ROOT, python_files

LIMIT = 400


def test_no_file_is_too_long():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    assert lengths, "no Python file was found"
    too_long = [f"{path.relative_to(ROOT)}: {length} lines" for path, length in lengths.items() if length > LIMIT]
    assert not too_long, f"longer than {LIMIT} lines, split by what changes together: {too_long}"

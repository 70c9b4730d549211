"""Prompts of a file: one a line, with comments."""

import pytest

from pure.cli.prompts import read_prompts
from pure.engine.errors import Misuse
from pure.engine.reading import prompts_of


def values(*prompt, file=None):
    return {"prompt": prompt, "prompt_file_path": None if file is None else str(file)}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a cat\n# a comment\n  # another\na dog", ["a cat", "a dog"]),
        ("\\# 1 fan\n\\\\# x", ["# 1 fan", "\\\\# x"]),
        ("a #hashtag # stays\n\n  spaced  \n", ["a #hashtag # stays", "spaced"]),
        ("# only\n#\n", []),
        ("a\r\nb\rc", ["a", "b", "c"]),
    ],
)
def test_lines(text, found):
    assert prompts_of(text) == found


def test_prompts_of_flag_and_file_in_order(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeff# ours\nun café\n".encode())
    assert read_prompts(values("a cat", file=file)) == ("a cat", "un café")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"# nothing\n", "holds no prompt; write one per line"), (b"\xff\xfe\x00", "it is not UTF-8 text")],
)
def test_files_without_prompts(tmp_path, content, message):
    (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(Misuse, match=message):
        read_prompts(values("a", file=tmp_path / "prompts.txt"))


@pytest.mark.parametrize(("prompt", "negative"), [("a \udcff", None), ("a", "b \udcff")])
def test_half_a_character_is_refused_in_both_prompts(prompt, negative):
    with pytest.raises(Misuse, match=r"holds what is no character \(number 3: a lone surrogate"):
        read_prompts({**values(prompt), "negative_prompt": negative})


def test_no_prompt_at_all():
    with pytest.raises(Misuse, match="there is no prompt; give --prompt"):
        read_prompts(values())

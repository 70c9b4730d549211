"""Tables fit the screen, whatever its width; nothing of a cell is lost."""

import io

import pytest
import rich.console

from pure.cli.screen import WIDTH, Screen, console
from pure.cli.tables import print_table

HEAD = ("pipeline", "family", "task")
ROWS = [("QwenImageEditPlusPipeline", "Qwen-Image", "image-editing"), ("FluxPipeline", "FLUX.1", "text-to-image")]


def printed(width: int, head=HEAD, rows=ROWS, title="") -> str:
    file = io.StringIO()
    print_table(rich.console.Console(file=file, width=width), head, rows, title)
    return file.getvalue()


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120])
def test_every_line_fits(width):
    text = printed(width, title="what there is")
    assert all(len(line) <= width for line in text.splitlines())
    whole = " ".join(text.split())
    assert all(word in whole for row in ROWS for cell in row for word in cell.split())


def test_a_wide_screen_has_columns_and_a_narrow_one_paragraphs():
    assert [line.split() for line in printed(80).splitlines() if "Flux" in line] == [
        ["FluxPipeline", "FLUX.1", "text-to-image"]
    ]
    assert "FluxPipeline\n  family: FLUX.1; task: text-to-image" in "\n".join(
        line.rstrip() for line in printed(44).splitlines()
    )


def test_a_table_without_a_head():
    rows = [("seconds", "2.51 denoising, 2.96 with text and decoding"), ("steps computed", "5 of 6")]
    text = printed(80, ("", ""), rows)
    assert "steps computed   5 of 6" in text and "─" not in text, "no line below a head that is not there"
    assert "─" in printed(80)
    assert "steps computed\n  5 of 6" in "\n".join(line.rstrip() for line in printed(28, ("", ""), rows).splitlines())


@pytest.mark.parametrize(("columns", "width"), [("40", 40), ("200", 200), (None, WIDTH)])
def test_the_variable_columns_holds_for_a_pipe_too(monkeypatch, columns, width):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    assert console().width == width


def test_a_column_without_a_name_keeps_the_names_of_the_others():
    assert "computed   speed" in printed(80, ("computed", "speed", ""), [("11", "2.5x", "refined")])


def test_a_line_of_a_result_is_out_at_once(tmp_path):
    with (tmp_path / "out").open("w") as file:
        Screen(rich.console.Console(file=file), rich.console.Console(file=file)).line("outputs/a.png")
        assert (tmp_path / "out").read_text() == "outputs/a.png\n"

"""The reference is generated from the schema, and docs/configuration.md contains it.

After a change of the schema: `python -m tests.configs.test_reference` writes it anew.
"""

import re
from pathlib import Path

import attrs
import pytest

from pure.configs import ConfigError, load_text, names, reference, reference_table
from pure.configs.environment import VARIABLES
from pure.configs.schema import SECTIONS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
MARKS = re.compile(r"(<!-- reference: begin [^>]*-->\n)(.*)(<!-- reference: end -->\n)", re.DOTALL)


def renewed(text: str) -> str:
    """The page with the table of today."""
    return MARKS.sub(lambda found: found[1] + "\n" + reference_table() + "\n" + found[3], text)


def test_the_page_contains_the_table_of_today():
    text = PAGE.read_text(encoding="utf-8")
    assert MARKS.search(text), "the marks are gone"
    assert renewed(text) == text, "run python -m tests.configs.test_reference"


def test_every_key_is_there_and_explained():
    rows = {(row.section, row.key): row for row in reference()}
    for section, cls in SECTIONS.items():
        assert {field.name for field in attrs.fields(cls)} == {key for name, key in rows if name == section}
    assert ("", "attention_backend") in rows
    assert all(row.range and row.meaning and row.default for row in rows.values())


def test_numbers_have_a_unit_where_they_have_one():
    unitless = {"taylorseer_order", "dmd_rank", "dmd_ridge", "dynamic_prune_threshold_relax_ratio"}
    for row in reference():
        if "number" in row.range and "list" not in row.range and row.key not in unitless:
            assert row.unit, row.key


def test_every_variable_and_packaged_file_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in names())
    shown = {row.variable for row in reference()} - {""}
    assert shown == {name for name in VARIABLES if "SECONDARY" not in name and not name.endswith("ENABLED")}


def test_the_report_on_the_page_is_the_report():
    text = PAGE.read_text(encoding="utf-8")
    mistakes = "cache_config:\n  Fn_compute_blocks: '8'\n  residual_dif_threshold: 0.1\n"
    with pytest.raises(ConfigError) as caught:
        load_text(mistakes, "mine.yaml")
    assert str(caught.value) in text


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

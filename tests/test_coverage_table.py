"""The coverage table tells the truth about the marks."""

from __future__ import annotations

import pytest

from tests import coverage_table

SECTIONS = {"DOC - the document": {"DOC-1": "one file", "DOC-2": "strict"}, "SVC - the service": {"SVC-7": "a keeper"}}


def test_marks_are_found_on_functions_classes_modules_and_parameters() -> None:
    source = """
import pytest
pytestmark = [pytest.mark.real, pytest.mark.req("DOC-1")]

@pytest.mark.req("DOC-2", "SVC-7")
def test_one(): ...

class TestMore:
    pytestmark = pytest.mark.req("DOC-3")

    @pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.req("DOC-4"))])
    async def test_two(self, x): ...

@pytest.mark.req("DOC-9")
def helper(): ...
"""
    assert [(row, name) for row, name, _ in coverage_table.marks_in(source)] == [
        ("DOC-1", "test_one"),
        ("DOC-2", "test_one"),
        ("SVC-7", "test_one"),
        ("DOC-1", "TestMore::test_two"),
        ("DOC-3", "TestMore::test_two"),
        ("DOC-4", "TestMore::test_two"),
    ]


def test_a_mark_that_is_computed_is_refused() -> None:
    with pytest.raises(ValueError, match="line 2: a req mark takes string constants only"):
        list(coverage_table.marks_in("@pytest.mark.req(\n    ROW\n)\ndef test_x(): ...\n"))


def test_the_page_links_each_proof_and_says_what_is_not_there_yet() -> None:
    page = coverage_table.render(SECTIONS, {"DOC-2": ["tests/a/test_b.py::test_c"]})
    assert "1 of 3 behaviours" in page
    assert "| DOC-2 | strict | [test_c](../../tests/a/test_b.py) |" in page
    assert "| DOC-1 | one file | not yet |" in page


def test_a_mark_that_names_no_behaviour_is_reported_with_its_test() -> None:
    assert coverage_table.unknown_ids(
        SECTIONS, {"DOC-77": ["tests/t.py::test_x"], "DOC-1": ["tests/t.py::test_y"]}
    ) == ["DOC-77 is no behaviour of requirements.md, named by tests/t.py::test_x"]


def test_the_behaviours_of_the_project_are_read_whole() -> None:
    sections = coverage_table.read_requirements(coverage_table.REQUIREMENTS.read_text())
    rows = {row for section in sections.values() for row in section}
    assert {
        "DOC-1",
        "DOC-9",
        "PLAN-21",
        "SVC-14",
        "GW-14",
        "LOG-10",
        "HB-4",
        "AUTH-9",
        "TUN-4",
        "AUD-8",
        "OPS-15",
    } <= rows
    assert coverage_table.read_requirements("## A\n| A-1 | x |\n")["A"] == {"A-1": "x"}
    with pytest.raises(ValueError, match="A-1 stands there twice"):
        coverage_table.read_requirements("## A\n| A-1 | x |\n## B\n| A-1 | y |\n")


def test_the_table_is_up_to_date_and_every_mark_names_a_behaviour() -> None:
    assert coverage_table.problems() == []

"""docs/paper.md is what `verify` says, and its code exists."""

from importlib import import_module
from pathlib import Path

import pytest

import subnetwork
from subnetwork.experiments.outcome import equal
from subnetwork.experiments.paper import STATEMENTS, page

PAGE = Path(subnetwork.__file__).parents[2] / "docs" / "paper.md"


@pytest.mark.skipif(not PAGE.parent.exists(), reason="the documentation is not installed")
def test_the_page_is_what_verify_says(table):
    assert PAGE.read_text(encoding="utf-8") == page(table)


def test_every_equation_has_a_line_and_every_line_its_code():
    assert [n for s in STATEMENTS for n in range(s.first, s.last + 1)] == list(range(1, 35))
    for statement in STATEMENTS:
        for place in statement.code:
            module, name = place.split(":")
            assert hasattr(import_module(f"subnetwork.{module}"), name)


def test_a_statement_that_fails_is_said_to_fail():
    broken = equal("f is the mean of the f_i", "(1)", 1.0, 2.0)
    assert (
        "| (1) | f is the mean of the f_i | `theory.problems:Quadratics` | `eq_1_3` | **fails** |"
        in page([broken])
    )
    mended = broken.with_correction("f is twice that", True)
    assert "| corrected: f is twice that |" in page([mended])

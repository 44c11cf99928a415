"""Text in tables is text, not a formula."""

import pytest

from cli.spreadsheet import spreadsheet_cell, text_of_cell


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "plain", "", "'quoted"])
def test_text_is_quoted_where_it_could_be_a_formula_and_can_be_had_back(text):
    cell = spreadsheet_cell(text)
    assert not cell or cell[0] not in "=+-@\t"
    assert text_of_cell(cell) == text


def test_numbers_are_left_alone():
    assert spreadsheet_cell(-1.5) == -1.5 and spreadsheet_cell(None) is None

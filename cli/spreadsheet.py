"""Cells of tables that are opened in a table program."""

from __future__ import annotations

FORMULA = "=+-@\t"  # what a table program takes for a formula begins with one of these


def spreadsheet_cell(value):
    """`value`, quoted where it is text that would be taken for a formula."""
    return f"'{value}" if isinstance(value, str) and value and value[0] in FORMULA else value


def text_of_cell(cell: str) -> str:
    """The text that spreadsheet_cell made `cell` of."""
    return cell[1:] if cell[:1] == "'" and cell[1:2] and cell[1] in FORMULA else cell

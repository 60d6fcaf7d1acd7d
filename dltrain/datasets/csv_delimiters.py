"""Infer the delimiter of a CSV file."""

import csv
from collections.abc import Sequence

from dltrain.datasets.cells import COMMA, POINT, number_pattern

DELIMITERS = (",", ";", "\t", "|")
DECIMALS = {"point": POINT, "comma": COMMA}


def find_delimiter(head: Sequence[str], usual: str | None = None) -> str:
    """Return the delimiter with which most of the first lines have as many cells as the header.

    A delimiter scores lower for each cell that still contains one of `DELIMITERS`, unless the cell is a number.

    Args:
        head: The first lines.
        usual: Delimiter to use if the first line contains it, or if no delimiter splits the header.
    """
    if usual and head and usual in head[0]:
        return usual
    best, delimiter = 0.0, usual or ","
    for candidate in DELIMITERS:
        rows = [row for row in csv.reader(head, delimiter=candidate, skipinitialspace=True) if any(row)]
        if not rows or len(rows[0]) == 1:
            continue
        agree = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
        cells = [cell for row in rows for cell in row]
        clean = sum(not any(other in cell for other in DELIMITERS) or _is_number(cell) for cell in cells) / len(cells)
        if agree * clean > best:
            best, delimiter = agree * clean, candidate
    return delimiter


def _is_number(cell: str) -> bool:
    return any(number_pattern(mark).fullmatch(cell.strip()) for mark in DECIMALS.values())


def has_equal_tabs(text: str) -> bool:
    """Return whether all lines that are not blank have the same number of tabs.

    If so, almost certainly no quoted cell contains a tab or a line break.
    """
    return len({line.count("\t") for line in text.split("\n") if line.strip()}) == 1

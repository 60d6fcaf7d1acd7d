"""Text that slipped into a column of numbers."""

from dltrain.datasets.csv_file import Table, is_hole
from dltrain.errors import format_error

FEW_CLASSES = 20  # so many different whole numbers may also be names
SLIPS = 0.1  # up to this part of text in a column of numbers is taken for slips


def slips(table: Table) -> dict[int, str]:
    """Rows with text in a column that holds numbers in at least nine of ten: row -> what is wrong with it.

    A column of few different whole numbers is left alone: they may be names, and so may the text be.
    """
    found: dict[int, str] = {}
    for place, name in enumerate(table.header):
        read = {row: table.number(cell) for row, cell in enumerate(table.cells(place)) if not is_hole(cell)}
        text = [row for row, value in read.items() if value is None]
        different = {value for value in read.values() if value is not None}
        many = len(different) > FEW_CLASSES or any(value % 1 for value in different)
        if many and len(text) <= SLIPS * len(read):
            for row in text:
                where = f"a finite number in column {name}, line {table.lines[row]} of {table.path}"
                found.setdefault(row, format_error("data.path", where, table.rows[row][place]))
    return found

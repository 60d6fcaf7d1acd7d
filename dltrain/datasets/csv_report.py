"""Describe a CSV file, even if a data set rejects it."""

import contextlib
from pathlib import Path
from typing import Any

from dltrain.datasets.cells import is_time_name
from dltrain.datasets.csv_file import Notation, read_csv
from dltrain.datasets.csv_table import Table
from dltrain.datasets.date_columns import find_times, parse_cells
from dltrain.datasets.describe import count, listed, missing_line
from dltrain.errors import ConfigError


def describe_csv(path: str, **settings: Any) -> list[str]:
    """Return lines about a CSV file: number of rows and columns, kind of each column, missing values.

    Args:
        path: The file.
        settings: Arguments of a data set; ``header``, ``decimal``, ``missing_words`` and ``day_first`` are used.

    Raises:
        ConfigError: `read_csv` rejects the file.
    """
    words = settings.get("missing_words") or ()
    notation = Notation(settings.get("header", True), settings.get("decimal"), tuple(words))
    table = read_csv(Path(path), notation)
    times, kinds = None, dict[str, list[str]]()
    with contextlib.suppress(ConfigError):
        times = find_times(table, settings.get("day_first"))
    for column, name in enumerate(table.header):
        is_date = times is not None and column in times.columns
        kind = "dates" if is_date else _kind(table, column, settings.get("day_first"))
        kinds.setdefault(kind, []).append(name or "(no name)")
    lines = [f"{table.path.name}: {count(len(table), 'row')}, {count(len(table.header), 'column')}"]
    lines += [f"{kind}: {listed(names)}" for kind, names in kinds.items()]
    return lines + missing_line(table, range(len(table.header)))


def _kind(table: Table, column: int, day_first: bool | None) -> str:
    """Return what a column holds: dates, numbers, words, words and numbers, or no values."""
    if table.missing_mask(column).all():
        return "no values"
    cells, named = table.columns[column], is_time_name(table.header[column])
    if (named or not table.is_numeric(column)) and parse_cells(cells, day_first is not False, named) is not None:
        return "dates"
    if table.is_numeric(column):
        return "numbers"
    return "words and numbers" if len(table.different_numbers(column)) else "words"

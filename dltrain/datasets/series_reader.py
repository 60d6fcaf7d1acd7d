"""Read CSV files as series, in the format of the training file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dltrain.data.checks import existing_file
from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Inputs
from dltrain.datasets.csv_file import Notation, csv_errors, iterate_tables, read_csv
from dltrain.datasets.csv_table import Table
from dltrain.datasets.date_columns import TimeColumn, find_times
from dltrain.datasets.fill_missing import fill_missing
from dltrain.datasets.known_values import KnownValues
from dltrain.datasets.series_table import Series, check_order, select_rows
from dltrain.datasets.windows import SplitRange

SeriesValues = Mapping[str, Sequence[np.ndarray]]  # "values" and "known" of each series, (rows, columns)


@dataclass
class SeriesReader:
    """Reader of files with series.

    Args:
        path: The training file.
        notation: Header, decimal mark and words for missing values.
        where: Rows to read, as ``column:value``; None for all rows.
        day_first: Whether the day precedes the month in dates; None infers it.
        group: Column that distinguishes series; None if there is one series.
        missing: Policy for missing values.
        known: Columns and parts of the date that are known in advance.
    """

    path: Path
    notation: Notation
    where: str | None
    day_first: bool | None
    group: str | None
    missing: str
    known: KnownValues

    def read(self) -> Table:
        """Read the training file."""
        return select_rows(read_csv(existing_file(self.path, "an existing CSV file"), self.notation), self.where)

    def inputs(self, files: InputFiles, convert: Callable[[Table, str], Iterator[Inputs]]) -> Iterator[Inputs]:
        """Yield the examples of each file, or of the training file if none is given.

        Args:
            files: A user's input files.
            convert: Function that converts a table and its file name to examples.
        """
        if not (files.names or files.text):
            yield from convert(self.read(), self.path.name)
            return
        for file in files.expand("a CSV file"):
            with file.errors_as_input(), csv_errors(file.path), file.open_text() as lines:
                table = next(iterate_tables(lines, file.path, None, self.notation))
                yield from convert(select_rows(table, self.where), file.name)

    def find_series(self, table: Table, names: Sequence[str]) -> tuple[TimeColumn | None, list[Series]]:
        """Return the times of a table and its series.

        Raises:
            ConfigError: A column is missing, a date is invalid, or the rows of a series are not in chronological order
                or repeat a time.
        """
        times, series = find_times(table, self.day_first), self.known.split_series(table, self.group, names)
        check_order(table, times, series, self.group)
        return times, series

    def values(
        self,
        table: Table,
        times: TimeColumn | None,
        series: Sequence[Series],
        names: list[str],
        parts: Sequence[Mapping[str, SplitRange]],
    ) -> SeriesValues:
        """Return the values of each series, and the values known in advance, if any. Fill or reject missing values.

        Args:
            names: Columns to forecast.
            parts: Splits of each series; each split is filled only from rows before its end.
        """
        ends = [[part.end for part in ranges.values()] for ranges in parts]
        rows = zip(series, ends, strict=True)
        values = [fill_missing(table.select(one.rows), names, self.missing, found, one.name) for one, found in rows]
        known = self.known.read_all(table, times, series)
        return {"values": values, "known": known} if known else {"values": values}

"""Time series cut into windows: past steps predict the next ones."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dltrain.data.checks import at_least, check_held_out, existing_file, one_of
from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Inputs, Source, Spec, Splits
from dltrain.data.splits import held_out_size
from dltrain.datasets.csv_file import Table, csv_errors, iterate_tables, parse_numbers, read_csv, reject_missing
from dltrain.datasets.future_timestamps import Time, continue_times
from dltrain.datasets.numerics import split_float64
from dltrain.datasets.timestamps import check_order, infer_season, is_time_name, parse_times
from dltrain.datasets.windows import Normalize, SplitRange
from dltrain.errors import ConfigError, format_error

BUNDLED = Path(__file__).parent / "bundled"
HEAD_ROWS = 500


class BundledSeries(NamedTuple):
    """Unit and season, in steps, of a bundled series."""

    unit: str
    season: int


SERIES = {
    "co2": BundledSeries("ppm", 52),
    "elnino": BundledSeries("°C", 12),
    "sunspots": BundledSeries("sunspots", 11),
}


class TimeSeries:
    """One or several series in a CSV file, split by time into training, validation and test rows.

    A training window lies in the training rows. A validation or test window has its targets in its own split, but may
    read earlier rows. Everything that is fitted is fitted on the training rows. Rows count as equidistant.

    Args:
        series: A bundled series: ``co2`` (weekly), ``elnino`` (monthly) or ``sunspots`` (yearly).
        path: A CSV file with one row per step, oldest first, instead of ``series``.
        column: Name of the series, or a list of names; None takes all columns of numbers except timestamps.
        window: Steps that a model reads, at least 1.
        horizon: Steps that it predicts, at least 1.
        season: Steps per season, at least 1; None takes that of the bundled series, or infers it from the timestamps
            (1 if that is not possible).
        normalise: ``last``: values minus the last of the window, divided by the root mean square of such differences
            over the horizon in training; ``window``: values minus the mean of the window, divided by its standard
            deviation; ``train``: values minus the mean of the training rows, divided by their standard deviation.
        missing: Policy for missing values (empty cells, NA and NaN): ``refuse``, ``interpolate`` linearly, or repeat
            the ``last`` value. Nothing is filled from a later split; missing values at the start take the first value.
        validation: Fraction of the rows to hold out for validation, in [0, 1).
        test: Fraction of the rows, at the end, to hold out for testing, in (0, 1).
        batch_size: Windows per step, at least 1.
        workers: Unused: the series stay in memory.
    """

    def __init__(
        self,
        series: str = "co2",
        path: str | None = None,
        column: str | list[str] | None = None,
        window: int = 104,
        horizon: int = 26,
        season: int | None = None,
        normalise: str = "last",
        missing: str = "refuse",
        validation: float = 0.15,
        test: float = 0.15,
        batch_size: int = 64,
        workers: int = 0,
    ) -> None:
        check_held_out(validation, test)
        self.validation = validation
        self.test = test
        self.window = at_least("data.window", window, 1)
        self.horizon = at_least("data.horizon", horizon, 1)
        self.normalise = one_of("data.normalise", normalise, ("last", "window", "train"))
        self.missing = one_of("data.missing", missing, ("refuse", "interpolate", "last"))
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        bundled = None if path else SERIES[one_of("data.series", series, SERIES)]
        self.path = existing_file(path, "an existing CSV file") if path else BUNDLED / f"{series}.csv"
        head = read_csv(self.path, HEAD_ROWS)
        self.names = _choose_columns(head, column)
        if season is None:
            season = bundled.season if bundled else infer_season(parse_times(head))
        self.lead = max(window, 2 * at_least("data.season", season, 1))
        self.spec = self._facts(season, bundled.unit if bundled else None)

    def _facts(self, season: int, unit: str | None) -> Spec:
        columns = len(self.names)
        return Spec(
            shape=(self.window, columns),
            size=self.window * columns,
            features=columns,
            length=self.window,
            columns=columns,
            horizon=self.horizon,
            lags=self.window * columns,
            season=season,
            unit=unit,
            target_names=tuple(self.names),
        )

    def load(self) -> Splits:
        """Read the whole file, fill missing values, fit the scale and cut the windows."""
        table = read_csv(self.path)
        check_order(table)
        ranges = self._split_ranges(len(table.rows))
        values = _fill_missing(table, self.names, self.missing, [part.end for part in ranges.values()])
        if min(part.count_windows(self.horizon) for part in ranges.values()) < 1:
            raise self._too_short(len(values))
        series = split_float64(values)
        train = values[: ranges["train"].end]
        sources = {
            name: Source(
                {"values": part.windows(series, self.horizon)},
                Normalize(train, self.window, self.horizon, self.normalise, history=name != "train"),
            )
            for name, part in ranges.items()
        }
        return Splits(sources["train"], sources.get("val"), sources["test"])

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read the last window of CSV files, or of the training file without any; what follows it is unknown."""
        if not (files.names or files.text):
            yield self._last_window(read_csv(self.path), self.path.name)
            return
        for file in files.expand("a CSV file"):
            with file.errors_as_input(), csv_errors(file.path), file.open_text() as lines:
                yield self._last_window(next(iterate_tables(lines, file.path, None)), file.name)

    def _last_window(self, table: Table, name: str) -> Inputs:
        """Return the last window of a table in the format of a split, with NaN for the future."""
        check_order(table)
        table.indices_of(self.names)
        if (rows := len(table.rows)) < self.window:
            raise ConfigError(
                format_error("data.path", f"at least data.window={self.window} rows in {table.path}", rows)
            )
        times: Sequence[Time | None] = continue_times(table, self.horizon) or [None] * self.horizon
        if self.missing == "refuse":  # missing values before the window do not matter
            table = replace(table, rows=table.rows[-self.window :], lines=table.lines[-self.window :])
        values = _fill_missing(table, self.names, self.missing, [len(table.rows)])[-self.window :]
        values = np.pad(values, ((0, self.horizon), (0, 0)), constant_values=np.nan)
        return Inputs({"values": split_float64(values)[None]}, [{"input": name, "time": time} for time in times])

    def _split_ranges(self, rows: int) -> dict[str, SplitRange]:
        """Return the rows of each split; only validation and test windows include the lead of the naive forecasts."""
        val, test = held_out_size(rows, self.validation), held_out_size(rows, self.test)
        cut = rows - val - test
        ranges = {"train": SplitRange(self.window, cut, self.window)}
        if val:
            ranges["val"] = SplitRange(max(cut, self.lead), cut + val, self.lead)
        return {**ranges, "test": SplitRange(max(cut + val, self.lead), rows, self.lead)}

    def _too_short(self, rows: int) -> ConfigError:
        window, horizon, season = self.window, self.horizon, self.spec.season
        # Rounding may give a split one row more than its fraction, so start the search below the exact bound.
        least = (window + horizon - 2) / (1 - self.validation - self.test)
        least = max(least, *((horizon - 1) / part for part in (self.validation, self.test) if part))
        enough = next(
            number
            for number in count(max(rows + 1, int(least)))
            if min(part.count_windows(horizon) for part in self._split_ranges(number).values()) >= 1
        )
        expected = f"at least {enough} rows for window {window}, horizon {horizon} and season {season} in {self.path}"
        hint = "Reduce data.window or data.horizon"
        return ConfigError(format_error("data.path", expected, f"{rows} rows", hint))


def _choose_columns(head: Table, column: str | list[str] | None) -> list[str]:
    """Return the names of the series to predict."""
    if column is None:
        names = [name for index, name in enumerate(head.header) if not is_time_name(name) and head.is_numeric(index)]
        if not names:
            expected = f"a column of numbers besides the timestamps in {head.path}"
            raise ConfigError(format_error("data.column", expected, f"the columns {', '.join(head.header)}"))
        head.indices_of(names)
        return names
    names = [column] if isinstance(column, str) else list(column)
    for name in names:
        parse_numbers(head, head.index_of(name))
    if len(set(names)) < len(names):
        raise ConfigError(format_error("data.column", "each column once", ", ".join(names)))
    if not names:
        raise ConfigError(format_error("data.column", f"one or more of {', '.join(head.header)}", "an empty list"))
    return names


def _fill_missing(table: Table, names: list[str], policy: str, ends: list[int]) -> np.ndarray:
    """Return the series (rows, columns) in float64; each split is filled from the rows before its end only."""
    columns = [table.index_of(name) for name in names]
    values = np.stack([parse_numbers(table, column) for column in columns], axis=1)
    if policy == "refuse":
        reject_missing(table, columns, "data.missing=interpolate or data.missing=last fills them")
        return values
    for end in ends:
        for series, name in zip(values.T, names, strict=True):
            if end > 0 and np.isnan(series[:end]).all():
                expected = f"a number in the first {end} rows of column {name} of {table.path}"
                raise ConfigError(format_error("data.path", expected, "only missing values"))
            series[:end] = _fill_series(series[:end], policy)
    return values


def _fill_series(values: np.ndarray, policy: str) -> np.ndarray:
    rows = np.arange(len(values))
    known = np.flatnonzero(~np.isnan(values))
    if policy == "interpolate":
        return np.interp(rows, known, values[known])
    return values[known[(np.searchsorted(known, rows, side="right") - 1).clip(0)]]

"""Time series cut into windows: past steps predict the next ones."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dltrain.data.checks import at_least, existing_file, one_of, user_path
from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Field, Fitted, Inputs, Source, Spec, Splits
from dltrain.datasets import series_table
from dltrain.datasets.bundled_series import SERIES, BundledSeries
from dltrain.datasets.csv_file import Notation
from dltrain.datasets.csv_report import describe_csv
from dltrain.datasets.csv_table import Marks, Table
from dltrain.datasets.date_columns import find_times
from dltrain.datasets.describe import count, listed, missing_line, splits_line
from dltrain.datasets.fill_missing import fill_missing
from dltrain.datasets.known_values import KnownValues
from dltrain.datasets.numerics import columns_first, split_float64
from dltrain.datasets.series_reader import SeriesReader, SeriesValues
from dltrain.datasets.series_splits import SeriesSplit
from dltrain.datasets.series_table import Series
from dltrain.datasets.steps import infer_season
from dltrain.datasets.windows import SCALES, Normalize, SplitRange, cut_windows, fit_scales, repeat_numbers
from dltrain.errors import ConfigError, format_error

SEASONS = 3  # without data.season, the season is 1 if the first series has fewer seasons
SPLITS = {"train": "training", "val": "validation", "test": "test"}
CONVERT = {"values": split_float64, "known": columns_first}
BUNDLED = Path(__file__).parent / "bundled"


class TimeSeries:
    """One or several series in a CSV file, split by time into training, validation and test rows.

    A training window lies in the training rows. A validation or test window has its targets in its own split, but may
    read earlier rows. Scales are fitted on the training rows. Rows are assumed to be evenly spaced in time.

    Args:
        series: A bundled series: ``co2`` (weekly), ``elnino`` (monthly) or ``sunspots`` (yearly).
        path: A CSV file with one row per step, oldest first, instead of ``series``.
        column: Name of the column to forecast, or a list of names. ``auto`` selects the numeric columns except
            timestamps, identifiers such as row numbers, and flags (0 or 1); flags are selected if there is no other
            column. None selects all numeric columns except timestamps.
        group: Column that distinguishes several series in one file, such as a store or a sensor. Each series is split
            by time and has its own scale, and no window spans two series.
        where: Rows to read, as ``column:value``; None for all rows.
        header: Whether the first line names the columns; otherwise they are called column_1, column_2, ...
        decimal: Decimal mark, ``point`` or ``comma``; None infers it from the rows.
        day_first: Whether 05/06/2020 is the fifth of June; None infers it from the rows.
        missing_words: Words that mark a missing value in this file, in addition to NA, null and the like.
        known: Columns known in advance, such as holidays, which are not forecast. Each input step also has their
            normalized values at that step and ``horizon`` steps later, so ``dltrain predict`` reads later rows, too.
        calendar: Parts of the date that are inputs like known columns, as sine and cosine: ``minute``, ``hour``,
            ``weekday``, ``day`` of the month, ``month``, ``yearday``.
        window: Steps that a model reads, at least 1; at least ``horizon`` with ``known`` or ``calendar``.
        horizon: Steps that a model predicts, at least 1.
        season: Steps per season, at least 1. None uses the known season of a bundled series, or infers the season
            of a file; the result is 1 if there is no season, or if the first series has fewer than three seasons.
        normalize: ``last``: values minus the last value of the window, divided by the root mean square change over 1
            to ``horizon`` steps in the training rows; ``window``: values minus the mean of the window, divided by its
            standard deviation (at least 0.1 times the divisor of ``last``); ``train``: values minus the mean of the
            training rows, divided by their standard deviation.
        missing: Policy for missing values: ``refuse``, ``interpolate`` linearly, or repeat the ``last`` value. Nothing
            is filled from a later split; missing values at the start become the first known value.
        validation, test: Fractions of the rows to hold out, in [0, 1) and (0, 1); the test rows are at the end.
        split: Training, validation and test rows instead of the fractions: three numbers, or months of 30 days such as
            ``[12mo, 4mo, 4mo]``; rows after them are unused. Metrics then include the errors of standardized values, as
            in published tables.
        batch_size: Windows per batch, at least 1.
        workers: Unused: the series stay in memory.
        fitted: Result of `fit` in an earlier run; None fits to the training rows of the file.
    """

    describe_file = staticmethod(describe_csv)

    def __init__(
        self,
        series: str = "co2",
        path: str | None = None,
        column: str | list[str] | None = "auto",
        group: str | None = None,
        where: str | None = None,
        header: bool = True,
        decimal: str | None = None,
        day_first: bool | None = None,
        missing_words: list[str] | None = None,
        known: str | list[str] | None = None,
        calendar: str | list[str] | None = None,
        window: int = 104,
        horizon: int = 26,
        season: int | None = None,
        normalize: str = "last",
        missing: str = "refuse",
        validation: float = 0.15,
        test: float = 0.15,
        split: list[int | str] | None = None,
        batch_size: int = 64,
        workers: int = 0,
        fitted: Fitted | None = None,
    ) -> None:
        self.split = SeriesSplit(validation, test, split)
        self.window = at_least("data.window", window, 1)
        self.horizon = at_least("data.horizon", horizon, 1)
        advance = KnownValues(known, calendar)
        if advance.width and window < horizon:
            expected = f"at least data.horizon={horizon} with data.known or data.calendar"
            raise ConfigError(format_error("data.window", expected, window))
        self.normalize = one_of("data.normalize", normalize, ("last", "window", "train"))
        one_of("data.missing", missing, ("refuse", "interpolate", "last"))
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.group = group
        bundled = None if path else SERIES[one_of("data.series", series, SERIES)]
        self.path = user_path(path) if path else BUNDLED / f"{series}.csv"
        if path and fitted is None:
            existing_file(path, "an existing CSV file")  # not `self.path`, to show the path as typed
        notation = Notation(header, decimal, tuple(missing_words or ()))
        self.reader = SeriesReader(self.path, notation, where, day_first, group, missing, advance)
        if fitted is not None:
            self._adopt(fitted)
        else:
            self._find_columns(column)
            self.season = at_least("data.season", self._find_season(bundled) if season is None else season, 1)
            self.split.count_months(self._first_times())
            self._leave_out_short_series()
            self.trained = [one.name for one in self.series]
        self.spec = self._facts(bundled.unit if bundled else None)

    def _find_columns(self, column: str | list[str] | None) -> None:
        """Read the file, and find its times, the columns to forecast and the series."""
        self.table = self.reader.read()
        self.reader.notation = replace(self.reader.notation, trained_on=self.table.marks)
        self.times = find_times(self.table, self.reader.day_first)
        excluded = list(self.times.columns) if self.times else []
        excluded += [self.table.index_of(self.group, "data.group")] if self.group else []
        excluded += [self.table.index_of(name, "data.known") for name in self.reader.known.columns]
        self.names, self.left_out = series_table.choose_columns(self.table, column, excluded)
        self.reader.known.check(self.table, self.times, self.names)
        self.series = self.reader.known.split_series(self.table, self.group, self.names)

    def _find_season(self, bundled: BundledSeries | None) -> int:
        times = self._first_times()
        found = bundled.season if bundled else 1 if times is None else infer_season(times)
        return found if found * SEASONS <= len(self.series[0].rows) else 1

    def _leave_out_short_series(self) -> None:
        """Leave out series that are too short for a window in each split, unless all series are too short."""
        self.short = [str(one.name) for one in self.series if not self._is_long(one)] if self.group else []
        if len(self.short) < len(self.series):
            self.series = [one for one in self.series if str(one.name) not in self.short]

    def _facts(self, unit: str | None) -> Spec:
        columns = len(self.names)
        features = columns + 2 * self.reader.known.width
        return Spec(
            shape=(self.window, features),
            size=self.window * features,
            features=features,
            length=self.window,
            columns=columns,
            horizon=self.horizon,
            lags=self.window * features,
            season=self.season,
            normalize=self.normalize,
            unit=unit,
            target_names=tuple(self.names),
            series_names=tuple(map(str, self.trained)) if self.group else None,
        )

    def _first_times(self) -> pd.Series | None:
        """Return the times of the first series."""
        return self.times.dates.times.iloc[self.series[0].rows] if self.times else None

    @property
    def lead(self) -> int:
        """Rows before the targets of a validation or test window: `window`, or two seasons if that is more."""
        return max(self.window, 2 * self.season)

    def _is_long(self, one: Series) -> bool:
        """Return whether a series has a window in each split."""
        ranges = self.split.ranges(len(one.rows), self.window, self.lead).values()
        return all(part.count_windows(self.horizon) > 0 for part in ranges)

    def load(self) -> Splits:
        """Fill missing values, fit the scales, and return the windows of each split."""
        self.notes = series_table.check_order(self.table, self.times, self.series, self.group)
        parts = [self.split.ranges(len(one.rows), self.window, self.lead) for one in self.series]
        if not all(map(self._is_long, self.series)):
            sizes = self.window, self.horizon, self.season
            place = f"series {self.series[0].name} of {self.path}" if self.group else self.path
            raise self.split.too_short(len(self.series[0].rows), *sizes, place)
        found = self.reader.values(self.table, self.times, self.series, self.names, parts)
        train = {
            name: [values[: ranges["train"].end] for values, ranges in zip(series, parts, strict=True)]
            for name, series in found.items()
        }
        published = self.split.sizes is not None
        self.scales = fit_scales(train["values"], self.horizon, self.normalize, self.season, published)
        self.scales |= self.reader.known.fit(train.get("known", []))
        self.sizes, sources = {}, {}
        for name in parts[0]:
            rows = self._windows(found, [ranges[name] for ranges in parts], range(len(parts)))
            self.sizes[name] = len(rows["values"])
            sources[name] = Source(rows, self._normalize(history=name != "train"))
        return Splits(sources["train"], sources.get("val"), sources["test"])

    def _windows(
        self, found: SeriesValues, ranges: Sequence[SplitRange], numbers: Sequence[int]
    ) -> Mapping[str, Field]:
        """Return the values in the windows of all series and, with ``group``, the index of each window's series."""
        rows: dict[str, Field] = {
            name: cut_windows(series, ranges, self.horizon, CONVERT[name]) for name, series in found.items()
        }
        return {**rows, "group": repeat_numbers(numbers, ranges, self.horizon)} if self.group else rows

    def _normalize(self, history: bool) -> Normalize:
        return Normalize(self.scales, self.window, self.horizon, self.normalize, history)

    @property
    def prepare(self) -> Normalize:
        """Module that prepares windows with the scales of the training rows."""
        return self._normalize(history=True)

    def fit(self) -> Fitted:
        """Return the delimiter, decimal mark and quoting of the file, its columns, series, season and scales."""
        found = {"names": self.names, "series": self.trained, "season": self.season, "scales": self.scales}
        return {"marks": list(self.reader.notation.trained_on or ()), **found}

    def _adopt(self, fitted: Fitted) -> None:
        self.reader.notation = replace(self.reader.notation, trained_on=Marks(*fitted["marks"]))
        self.names, self.trained, self.season = list(fitted["names"]), list(fitted["series"]), int(fitted["season"])
        self.scales = fitted["scales"]
        if any(self.scales[name].shape[0] != len(self.trained) for name in SCALES):
            raise ValueError("expected one scale per series")

    def evaluation(self) -> Source:
        """Return every window of the file with at least `lead` rows before its targets."""
        table = self.reader.read()
        times, series = self.reader.find_series(table, self.names)
        numbers = [self._number_of(one) for one in series]
        ranges = [SplitRange(self.lead, len(one.rows), self.lead) for one in series]
        series_table.check_rows(table, series, self.lead + self.horizon)
        found = self.reader.values(table, times, series, self.names, [{"all": part} for part in ranges])
        return Source(self._windows(found, ranges, numbers), self.prepare)

    def _number_of(self, one: Series) -> int:
        """Return the index of a series among the series of the training file."""
        if one.name not in self.trained:
            expected = f"a value of column {self.group} in the training data ({listed(map(str, self.trained))})"
            raise ConfigError(format_error("data.group", expected, one.name))
        return self.trained.index(one.name)

    def describe(self) -> list[str]:
        """Return lines about the rows that were read: series, times, season, missing values, splits."""
        table = self.table
        lines = series_table.describe_rows(table, self.reader.where, self.names, self.left_out)
        if self.reader.known.width:
            lines.append(f"known in advance: {listed([*self.reader.known.columns, *self.reader.known.calendar])}")
        if self.group:
            lines.append(f"{len(self.series):,} series by {self.group}: {listed(str(one.name) for one in self.series)}")
        lines += series_table.describe_times(table, self.times, self.series[0])
        season = f"{self.season} steps" if self.season != 1 else "none; data.season=STEPS sets one"
        lines.append(f"season: {season}")
        lines += missing_line(table, map(table.index_of, self.names)) + self.notes
        if unused := max(self.split.unused(len(one.rows)) for one in self.series):
            lines.append(f"unused: {count(unused, 'row')} after the test split")
        if self.short:
            lines.append(f"left out: {listed(self.short)} (too few rows)")
        return [*lines, splits_line({SPLITS[name]: size for name, size in self.sizes.items()}, "windows, by time")]

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read the last window of each series in CSV files, or in the training file if none is given."""
        yield from self.reader.inputs(files, self._last_windows)

    def _last_windows(self, table: Table, name: str) -> Iterator[Inputs]:
        """Yield the last window of each series in the format of a split, with NaN for the future."""
        times, series = self.reader.find_series(table, self.names)
        table.indices_of(self.names)
        for one in series:
            number = self._number_of(one)
            series_table.check_rows(table, [one], self.window)
            # Earlier rows are needed only to fill missing values in the window.
            rows = one.rows[-self.window :] if self.reader.missing == "refuse" else one.rows
            values = fill_missing(table.select(rows), self.names, self.reader.missing, [len(rows)], one.name)
            values = values[-self.window :]
            values = np.pad(values, ((0, self.horizon), (0, 0)), constant_values=np.nan)
            window = {"values": split_float64(values)[None]}
            window |= self.reader.known.last_window(table, times, one, self.window, self.horizon)
            names: dict[str, Any] = {"input": name}
            if self.group:
                window["group"] = torch.tensor([number])
                names["series"] = one.name
            later = series_table.continue_times(table, times, one, self.horizon)
            yield Inputs(window, [{**names, "time": time} for time in later])

"""Series over time, cut into windows: the past steps predict the next ones."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dltrain.data.checks import at_least, file, fractions, one_of
from dltrain.data.inputs import Given
from dltrain.data.spec import Inputs, Source, Spec, Splits
from dltrain.data.splits import share
from dltrain.datasets.csv_file import Table, numbers, read, readable, refuse_holes, tables
from dltrain.datasets.exact import exact_pairs
from dltrain.datasets.future_timestamps import Time, following
from dltrain.datasets.timestamps import is_time, moments, refuse_disorder, season_of
from dltrain.datasets.windows import Normalise, Span
from dltrain.errors import ConfigError, format_error

BUNDLED = Path(__file__).parent / "bundled"
HEAD = 500


class Known(NamedTuple):
    """What a bundled file does not say itself: its unit, and the steps after which it repeats."""

    unit: str
    season: int


KNOWN = {"co2": Known("ppm", 52), "elnino": Known("°C", 12), "sunspots": Known("sunspots", 11)}


class TimeSeries:
    """One or several series from a CSV file, split by time: first training, then validation, then test.

    A training window lies wholly in the training part. A validation or test window has its targets in its own part;
    what it reads may lie before. Everything that is fitted is fitted on the training part. Rows count as equally far
    apart.

    Args:
        series: A series that comes with the package: ``co2`` (weekly), ``elnino`` (monthly) or ``sunspots`` (yearly).
        path: A CSV file with one row per step, oldest first; given, ``series`` is ignored.
        column: Name of the series, or a list of names; None takes all columns of numbers that do not count time.
        window: Steps that are read.
        horizon: Steps that are predicted.
        season: Steps after which the series repeats; None takes what is known of the series or evident from the
            distance of its rows, and otherwise 1.
        normalise: ``last``: values less the window's last, in units of the root mean square of such differences over
            the horizon in training; ``window``: less the window's mean, in units of its deviation; ``train``: less the
            mean of the training part, in units of its deviation.
        missing: What to do with empty cells, NA and NaN: ``refuse``, ``interpolate`` on a line between the neighbours,
            or repeat the ``last`` value. No hole is filled from a later part; holes at the start take the first value.
        validation: Fraction of the rows that is held out for validation.
        test: Fraction of the rows, at the end, that is held out for the test.
        batch_size: Windows per step.
        workers: Not needed here: the series stay in memory.
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
        fractions(validation, test)
        self.validation = validation
        self.test = test
        self.window = at_least("data.window", window, 1)
        self.horizon = at_least("data.horizon", horizon, 1)
        self.normalise = one_of("data.normalise", normalise, ("last", "window", "train"))
        self.missing = one_of("data.missing", missing, ("refuse", "interpolate", "last"))
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        known = None if path else KNOWN[one_of("data.series", series, KNOWN)]
        self.path = file(path, "an existing CSV file") if path else BUNDLED / f"{series}.csv"
        head = read(self.path, HEAD)
        self.names = _columns(head, column)
        if season is None:
            season = known.season if known else season_of(moments(head))
        self.lead = max(window, 2 * at_least("data.season", season, 1))
        columns = len(self.names)
        self.spec = Spec(
            shape=(window, columns),
            size=window * columns,
            features=columns,
            length=window,
            columns=columns,
            horizon=horizon,
            season=season,
            unit=known.unit if known else None,
            target_names=tuple(self.names),
        )

    def load(self) -> Splits:
        """Read the whole file, fill its holes, fit the scale and cut the windows."""
        table = read(self.path)
        refuse_disorder(table)
        spans = self._spans(len(table.rows))
        values = _filled(table, self.names, self.missing, [span.end for span in spans.values()])
        if min(span.windows(self.horizon) for span in spans.values()) < 1:
            raise self._too_short(len(values))
        rows = exact_pairs(values)
        train = values[: spans["train"].end]
        sources = {
            name: Source(
                {"values": span.view(rows, self.horizon)},
                Normalise(train, self.window, self.horizon, self.normalise, history=name != "train"),
            )
            for name, span in spans.items()
        }
        return Splits(sources["train"], sources.get("val"), sources["test"])

    def inputs(self, given: Given) -> Iterator[Inputs]:
        """Read the end of a user's CSV files, or of the run's own where there is none; what follows it is unknown."""
        if not (given.names or given.text):
            yield self._end_of(read(self.path), self.path.name)
            return
        for found in given.files("a CSV file"):
            with found.blamed(), readable(found.path), found.lines() as lines:
                yield self._end_of(next(tables(lines, found.path, None)), found.name)

    def _end_of(self, table: Table, name: str) -> Inputs:
        """The last window of a table, as the rows of a split are, with NaN for what is to come."""
        refuse_disorder(table)
        table.places(self.names)
        if (rows := len(table.rows)) < self.window:
            raise ConfigError(
                format_error("data.path", f"at least data.window={self.window} rows in {table.path}", rows)
            )
        times: Sequence[Time | None] = following(table, self.horizon) or [None] * self.horizon
        if self.missing == "refuse":  # a hole before the window does not matter
            table = replace(table, rows=table.rows[-self.window :], lines=table.lines[-self.window :])
        values = _filled(table, self.names, self.missing, [len(table.rows)])[-self.window :]
        values = np.pad(values, ((0, self.horizon), (0, 0)), constant_values=np.nan)
        return Inputs({"values": exact_pairs(values)[None]}, [{"input": name, "time": time} for time in times])

    def _spans(self, rows: int) -> dict[str, Span]:
        """Where the parts lie; only validation and test look back far enough for the naive forecasts."""
        val, test = share(rows, self.validation), share(rows, self.test)
        cut = rows - val - test
        spans = {"train": Span(self.window, cut, self.window)}
        if val:
            spans["val"] = Span(max(cut, self.lead), cut + val, self.lead)
        return {**spans, "test": Span(max(cut + val, self.lead), rows, self.lead)}

    def _too_short(self, rows: int) -> ConfigError:
        window, horizon, season = self.window, self.horizon, self.spec.season
        # Rounding may give a part one row more than its fraction, so the search for enough begins below that.
        least = (window + horizon - 2) / (1 - self.validation - self.test)
        least = max(least, *((horizon - 1) / part for part in (self.validation, self.test) if part))
        enough = next(
            number
            for number in count(max(rows + 1, int(least)))
            if min(span.windows(horizon) for span in self._spans(number).values()) >= 1
        )
        expected = f"at least {enough} rows for window {window}, horizon {horizon} and season {season} in {self.path}"
        hint = "Shorten data.window or data.horizon"
        return ConfigError(format_error("data.path", expected, f"{rows} rows", hint))


def _columns(head: Table, column: str | list[str] | None) -> list[str]:
    """The names of the series that are predicted."""
    if column is None:
        names = [name for place, name in enumerate(head.header) if not is_time(name) and head.numeric(place)]
        if not names:
            expected = f"a column of numbers in {head.path}, besides the time"
            raise ConfigError(format_error("data.column", expected, f"the columns {', '.join(head.header)}"))
        head.places(names)
        return names
    names = [column] if isinstance(column, str) else list(column)
    for name in names:
        numbers(head, head.place(name))
    if len(set(names)) < len(names):
        raise ConfigError(format_error("data.column", "each column once", ", ".join(names)))
    if not names:
        raise ConfigError(format_error("data.column", f"one or more of {', '.join(head.header)}", "an empty list"))
    return names


def _filled(table: Table, names: list[str], missing: str, ends: list[int]) -> np.ndarray:
    """The series (rows, columns) in float64, without holes; a part is filled from what lies before its end."""
    places = [table.place(name) for name in names]
    values = np.stack([numbers(table, place) for place in places], axis=1)
    if missing == "refuse":
        refuse_holes(table, places, "data.missing=interpolate or data.missing=last fills them")
        return values
    for end in ends:
        for column, name in zip(values.T, names, strict=True):
            if end > 0 and np.isnan(column[:end]).all():
                expected = f"a number in the first {end} rows of column {name} of {table.path}"
                raise ConfigError(format_error("data.path", expected, "holes only"))
            column[:end] = _without_holes(column[:end], missing)
    return values


def _without_holes(values: np.ndarray, missing: str) -> np.ndarray:
    places = np.arange(len(values))
    known = np.flatnonzero(~np.isnan(values))
    if missing == "interpolate":
        return np.interp(places, known, values[known])
    return values[known[(np.searchsorted(known, places, side="right") - 1).clip(0)]]

"""Split the rows of a series by time into training, validation and test rows."""

import re
from collections.abc import Sequence
from itertools import accumulate, count

import pandas as pd

from dltrain.data.checks import check_held_out
from dltrain.data.splits import held_out_size
from dltrain.datasets.steps import DAY, infer_step, step_words
from dltrain.datasets.windows import SplitRange
from dltrain.errors import ConfigError, format_error

MONTH = 30 * DAY  # as in the published splits of ETT
MONTHS = re.compile(r"(\d+)mo", re.ASCII)
EXAMPLES = "such as [8640,2880,2880] or [12mo,4mo,4mo]"


class SeriesSplit:
    """Sizes of the splits of a series.

    Args:
        validation: Fraction of the rows for validation, in [0, 1).
        test: Fraction of the rows for testing, at the end of the series, in (0, 1).
        sizes: Numbers of training, validation and test rows, or months such as ``12mo``, instead of fractions. Rows
            after the test rows are unused. None uses the fractions.
    """

    def __init__(self, validation: float, test: float, sizes: Sequence[int | str] | None = None) -> None:
        check_held_out(validation, test)
        self.validation, self.test = validation, test
        self.sizes = None if sizes is None else _check_sizes(sizes)

    def count_months(self, times: pd.Series | None) -> None:
        """Convert months to rows: a month has 30 days, as in the published splits of ETT.

        Args:
            times: Times of the rows; None if the file has no dates.

        Raises:
            ConfigError: There are no dates, daily rows skip weekends, or the usual step does not divide 30 days.

        Source: Zhou et al. 2021, "Informer: Beyond efficient transformer for long sequence time-series forecasting".
        """
        if self.sizes is None or not any(isinstance(size, str) for size in self.sizes):
            return
        step = None if times is None else infer_step(times)
        if step is None or times is None or step.weekdays or step.months or MONTH % step.length != 0 * DAY:
            words = None if times is None else step_words(times)
            named = {None: "no dates", "irregular": "irregular dates", "weekdays": "weekdays only"}
            got = named.get(words, f"steps of {words}")
            expected = "dates with a step that divides 30 days, for sizes in months"
            raise ConfigError(format_error("data.split", expected, got, "Use numbers of rows."))
        rows = int(MONTH / step.length)
        self.sizes = [int(size[:-2]) * rows if isinstance(size, str) else size for size in self.sizes]

    def ranges(self, rows: int, window: int, lead: int) -> dict[str, SplitRange]:
        """Return the rows of each split; ``val`` is missing if its size is 0.

        In training, a window starts `window` rows before the first row that it predicts; in the other splits, it starts
        `lead` rows before.
        """
        if self.sizes is None:
            val, tested = held_out_size(rows, self.validation), held_out_size(rows, self.test)
            ends = [rows - val - tested, rows - tested, rows]
        else:
            ends = list(accumulate(int(size) for size in self.sizes))
            ends = ends if ends[-1] <= rows else [0, 0, 0]  # no window in any split: the series is too short
        ranges = {"train": SplitRange(window, ends[0], window)}
        if ends[1] > ends[0] or (self.sizes and self.sizes[1]):
            ranges["val"] = SplitRange(max(ends[0], lead), ends[1], lead)
        return {**ranges, "test": SplitRange(max(ends[1], lead), ends[2], lead)}

    def too_short(self, rows: int, window: int, horizon: int, season: int, place: object) -> ConfigError:
        """Return the error for a series of `rows` rows that is too short for a window in each split."""
        lead = max(window, 2 * season)
        hint = f"Reduce {'data.season, ' * (lead > window)}data.window or data.horizon"
        sizes = f"window {window}, horizon {horizon} and season {season}"
        if self.sizes is None:
            expected = f"at least {self._min_rows(rows, window, horizon, lead)} rows for {sizes} in {place}"
            return ConfigError(format_error("data.path", expected, f"{rows} row{'s' * (rows != 1)}", hint))
        needed = (window + horizon, horizon * bool(self.sizes[1]), horizon)
        for name, size, least in zip(("training", "validation", "test"), self.sizes, needed, strict=True):
            if int(size) < least:
                expected = f"at least {least} {name} rows for a window"
                # Windows of the other splits may start in earlier splits.
                smaller = f"Reduce {'data.window or ' * (name == 'training')}data.horizon"
                return ConfigError(format_error("data.split", expected, size, smaller))
        total = sum(int(size) for size in self.sizes)
        if total > rows:
            got = f"{total:,} ({' + '.join(map(str, self.sizes))})"
            return ConfigError(format_error("data.split", f"at most the {rows:,} rows of {place}", got))
        # The targets of the first split after training need `lead` rows before them.
        first = "validation" if self.sizes[1] else "test"
        expected = f"at least {lead + horizon} training and {first} rows together, for {sizes}"
        return ConfigError(format_error("data.split", expected, total - int(self.sizes[2]) * (first != "test"), hint))

    def unused(self, rows: int) -> int:
        """Return the number of rows after the last split."""
        return 0 if self.sizes is None else max(0, rows - sum(int(size) for size in self.sizes))

    def _min_rows(self, rows: int, window: int, horizon: int, lead: int) -> int:
        """Return the smallest number of rows above `rows` that gives each split a window."""
        # Rounding may give a split one row more than its fraction, so start the search below the exact bound.
        bound = (window + horizon - 2) / (1 - self.validation - self.test)
        bound = max(bound, *((horizon - 1) / part for part in (self.validation, self.test) if part))
        bound = max(bound, (lead + horizon - 2) / (1 - self.test * bool(self.validation)))
        return next(
            number
            for number in count(max(rows + 1, int(bound)))
            if min(part.count_windows(horizon) for part in self.ranges(number, window, lead).values()) > 0
        )


def _check_sizes(sizes: Sequence[int | str]) -> list[int | str]:
    """Check that the three sizes are numbers of rows or of months, and return them."""
    valid = isinstance(sizes, list | tuple) and len(sizes) == 3
    if not valid or not all(MONTHS.fullmatch(str(s)) if isinstance(s, str) else type(s) is int for s in sizes):
        expected = f"rows or months for training, validation and test, {EXAMPLES}"
        raise ConfigError(format_error("data.split", expected, sizes))
    if any(size in (0, "0mo") for size in (sizes[0], sizes[2])) or any(type(s) is int and s < 0 for s in sizes):
        raise ConfigError(format_error("data.split", "training and test sizes above 0, and no negative size", sizes))
    return list(sizes)

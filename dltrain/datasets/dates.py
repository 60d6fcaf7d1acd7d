"""Parse the dates in a column of text, after inferring their format."""

import re
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from dltrain.datasets.date_cells import ZONES, DateCells, prepare_cells, sample_texts
from dltrain.datasets.date_form import DateForm, day_precedes, find_patterns, pattern_regex
from dltrain.datasets.date_values import UNSURE, parse_texts

DATES_SHARE = 0.9  # minimum fraction of dates among the distinct cells of a column; other cells are errors
REGULAR = 2  # plausibility of dates with equal steps in one direction
MARGIN = 0.05  # readings whose plausibility differs from the best one by less than this are rivals
TINY = 1e-9  # replaces `MARGIN` if the best reading has equal steps; allows for rounding
MIN_SHARE = 0.7  # smaller fractions of steps with the same direction or length may be chance

Reading = tuple[float, str, np.ndarray]  # an interpretation of all cells: plausibility, pattern, times


class Dates(NamedTuple):
    """The dates of a column.

    Args:
        times: Local times (datetime64), NaT for missing cells and cells that are not dates.
        utc: The same instants in UTC if every cell has an offset or is a Unix time; otherwise None.
        form: Format of the dates.
        bad: Position of the first cell that is neither a date nor missing; None if there is none.
    """

    times: pd.Series
    utc: pd.Series | None
    form: DateForm
    bad: int | None


def parse_dates(cells: pd.Series, day_first: bool | None = None, named_time: bool = False) -> Dates | None:
    """Parse the dates of a column.

    Args:
        cells: Stripped text, NaN for missing cells.
        day_first: Whether the day precedes the month; None infers it from the column.
        named_time: Whether the column has a name such as date or year. If so, numbers such as 2021, 202105 and Unix
            times are dates, too.

    Returns:
        The dates, or None in these cases:

        - Of the cells that are not missing, neither the first, the middle nor the last one is a date.
        - Fewer than nine in ten distinct cells are dates.
        - The dates look like numbers, such as 202105, and a cell is not a date.
        - The cells are words and two digits, and the word repeats in consecutive cells: "May 14" and "May 15" are days
          without a year.
    """
    known = cells.dropna()
    if known.empty:
        return None
    probe = prepare_cells([str(cell) for cell in known.iloc[[0, len(known) // 2, -1]]])
    if not any(find_patterns(text, named_time) for text in probe.texts):
        return None
    codes, unique = pd.factorize(cells)
    originals: list[str] = unique.tolist()
    prepared = prepare_cells(originals)
    found = _choose_reading(prepared, originals, day_first, named_time)
    return _spread(*found, prepared.offsets, codes, cells.index) if found else None


def _spread(times: np.ndarray, form: DateForm, offsets: list[str], codes: np.ndarray, index: pd.Index) -> Dates:
    """Expand the dates of the distinct cells to all cells."""

    def spread(values: np.ndarray) -> pd.Series:
        return pd.Series(np.append(values, np.datetime64("NaT", "us"))[codes], index=index)

    bad = np.flatnonzero(np.isnat(times)[codes] & (codes >= 0))
    position = int(bad[0]) if len(bad) else None
    if offsets:
        form = replace(form, offset=offsets[codes[codes >= 0][-1]])
    if offsets and all(offsets):
        seconds = {offset: _offset_seconds(offset) for offset in set(offsets)}
        shift = np.array([seconds[offset] for offset in offsets], dtype="m8[s]")
        return Dates(spread(times), spread(times - shift), form, position)
    return Dates(spread(times), spread(times) if "%s" in form.pattern else None, form, position)


def _offset_seconds(offset: str) -> int:
    if offset.strip().upper() in ZONES:
        return 3600 * ZONES[offset.strip().upper()]
    digits = re.sub(r"\D", "", offset).ljust(4, "0")
    seconds = 3600 * int(digits[:2]) + 60 * int(digits[2:])
    return -seconds if "-" in offset else seconds


def _choose_reading(
    cells: DateCells, originals: list[str], day_first: bool | None, named_time: bool
) -> tuple[np.ndarray, DateForm] | None:
    """Return the most plausible times of the distinct cells, and their format; None if they are not dates."""
    texts = cells.texts
    probes = (texts[0], texts[len(texts) // 2], texts[-1])
    patterns = next((found for text in probes if (found := find_patterns(text, named_time))), [])
    if day_first is not None and len(patterns) > 1:
        patterns = [pattern for pattern in patterns if day_precedes(pattern) in (day_first, None)]
    readings: list[Reading] = []
    for pattern in patterns:
        if _share(_parse_all(sample_texts(texts), pattern, named_time)[0]) >= DATES_SHARE:
            times, full = _parse_all(texts, pattern, named_time)
            if _share(times) >= (1 if pattern in UNSURE else DATES_SHARE) and not _are_days(pattern, texts):
                readings.append((_plausibility(times) if len(patterns) > 1 else 0, full, times))
                if "%b" in pattern or pattern in UNSURE:
                    break
    if not readings:
        return None
    best = max(readings, key=lambda reading: reading[0])
    rivals = [reading for reading in readings if best[0] - reading[0] < (MARGIN if best[0] < REGULAR else TINY)]
    best, rivals = _nearest_years(best, rivals)
    if re.search(r"%[dmy]\s?\.", best[1]):  # dates separated by dots usually have the day first
        best, rivals = rivals[0], []
    form = replace(_complete(best[1], cells), readings=_two_readings(originals, best, rivals))
    if cells.other_months:
        other = parse_texts(cells.other_months, best[1])
        form = replace(form, readings=_two_readings(originals, best, [(0, "", other)]))
    return best[2], form


def _nearest_years(best: Reading, rivals: list[Reading]) -> tuple[Reading, list[Reading]]:
    """Return the best reading and its rivals, without readings whose dates span a much longer time.

    Readings with the two-digit year first are dropped if each spans at least twice as long as the shortest reading
    with the year last, and vice versa.
    """
    spans = [np.ptp(times[~np.isnat(times)]) for _, _, times in rivals]
    shortest = rivals[int(np.argmin(spans))]
    first = shortest[1].startswith("%y")
    others = [span for span, rival in zip(spans, rivals, strict=True) if rival[1].startswith("%y") != first]
    if not others or min(spans) * 2 > min(others):
        return best, rivals
    kept = [rival for rival in rivals if rival[1].startswith("%y") == first]
    return (best, kept) if best[1].startswith("%y") == first else (kept[0], kept)


def _are_days(pattern: str, texts: list[str]) -> bool:
    """Return whether a month repeats in the next cell ("May 14", "May 15"), so that the numbers are days, not years."""
    return pattern == "%b %y" and any(text[:3] == later[:3] for text, later in pairwise(texts))


def _share(times: np.ndarray) -> float:
    return 1 - float(np.isnat(times).mean())


def _two_readings(originals: list[str], best: Reading, rivals: list[Reading]) -> tuple[str, ...]:
    """Return the first cell with a different date in a rival reading, and both dates; empty if there is none."""
    for _, _, times in rivals:
        different = np.flatnonzero((times != best[2]) & ~np.isnat(times) & ~np.isnat(best[2]))
        if len(different):
            return originals[different[0]], *(str(read[different[0]])[:10] for read in (best[2], times))
    return ()


def _parse_all(texts: list[str], pattern: str, named_time: bool) -> tuple[np.ndarray, str]:
    """Parse dates that match a pattern or a variant of it, such as the pattern without seconds.

    Returns:
        The times and the longest pattern.
    """
    times, longest = parse_texts(texts, pattern), pattern
    for _ in range(4):
        left = np.flatnonzero(np.isnat(times))
        found = find_patterns(texts[left[0]], named_time) if len(left) and pattern not in UNSURE else []
        other = next((other for other in found if len(found) == 1 or other[:8] == pattern[:8]), "")
        if not other or other in UNSURE or _date_parts(other) != _date_parts(pattern):
            break
        times[left] = parse_texts([texts[index] for index in left], other)
        longest = max(longest, other, key=len)
    return times, longest


def _date_parts(pattern: str) -> set[str]:
    return set(re.findall("%([YmdGVuq])", pattern.replace("%y", "%Y").replace("%b", "%m")))


def _plausibility(times: np.ndarray) -> float:
    """Return the fraction of steps in one direction plus the fraction of steps with the most frequent length.

    Lengths are measured in time, weekdays or months. Fractions below `MIN_SHARE` count as 0, and the sum is 0 for
    fewer than three distinct times.
    """
    known = pd.Series(times).dropna().drop_duplicates()
    if len(known) < 3:
        return 0
    steps = known.diff().dropna()
    ordered = known.sort_values()
    days = ordered.to_numpy().astype("M8[D]")
    months = (ordered.dt.year * 12 + ordered.dt.month).diff()[1:][np.diff(ordered.dt.day) == 0]
    weekdays = np.busday_count(days[:-1], days[1:])
    counts = (
        ordered.diff().value_counts().max(),
        months.value_counts().max() if len(months) else 0,
        (weekdays == 1).sum() if (ordered.dt.day_of_week < 5).all() else 0,
    )
    ahead = (steps > pd.Timedelta(0)).mean()
    return sum(float(share) for share in (max(ahead, 1 - ahead), max(counts) / len(steps)) if share >= MIN_SHARE)


def _complete(pattern: str, cells: DateCells) -> DateForm:
    """Return the format of the original cells: `pattern` with the parts that were removed from `cells`."""
    regex = pattern_regex(pattern)
    parts = [match.groupdict() for text in sample_texts(cells.texts) if (match := regex.fullmatch(text))]
    digits = max((len(part.get("f") or part.get("s") or "") for part in parts), default=0)
    seen = {letter: {part[letter] for part in parts} for letter in "mdHIV" if f"%{letter}" in pattern}
    if any(len(number) == 1 for numbers in seen.values() for number in numbers):
        for letter, numbers in seen.items():
            if not any(re.match(r"0\d", number) for number in numbers):
                pattern = pattern.replace(f"%{letter}", f"%-{letter}")
    if cells.ordinal:
        pattern = re.sub("%-?d", "%o", pattern)
    if cells.offsets:
        pattern = re.sub(r"( %Y)?$", r"%z\1", pattern, count=1)
    return replace(cells.form, pattern=cells.lead + pattern, digits=digits)

"""Dates in a column of text: find the form in which they are written and parse them."""

import re
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from dltrain.datasets.date_cells import DateCells, prepare_cells, sample_texts
from dltrain.datasets.date_form import NUMBERS, UNITS, DateForm, day_precedes, drop_zeros, find_patterns, pattern_regex

DATES_SHARE = 0.9  # of the different cells; the others are errors in a column of dates
REGULAR = 2  # plausibility of equal steps in one direction
MARGIN = 0.05  # by which an irregular reading must be more plausible than the next one
TINY = 1e-9
LATEST_SHORT_YEAR = 2035  # of a column of two-digit years
UNSURE = {"%Y%m%d", *(pattern for _, patterns in NUMBERS for pattern in patterns)}  # dates only if all cells are

Reading = tuple[float, str, np.ndarray]


class Dates(NamedTuple):
    """The dates of a column.

    Args:
        times: Local times (datetime64), NaT for missing cells.
        utc: The same instants in UTC if every cell has an offset; otherwise None.
        form: How they are written.
        bad: Position of the first cell that is not a date although most are; None if all are dates.
    """

    times: pd.Series
    utc: pd.Series | None
    form: DateForm
    bad: int | None


def parse_dates(cells: pd.Series, day_first: bool | None = None, named_time: bool = False) -> Dates | None:
    """Parse the dates of a column.

    Args:
        cells: Stripped text, NaN for missing cells.
        day_first: Whether the day precedes the month; None decides by the column.
        named_time: Whether the name of the column says that it holds times: then years, months as in 202105 and Unix
            times are dates, too.

    Returns:
        The dates, or None if fewer than nine in ten different cells are dates.
    """
    known = cells.dropna()
    if known.empty:
        return None
    probe = prepare_cells([str(cell) for cell in known.iloc[[0, len(known) // 2, -1]]])
    if probe is None or not any(find_patterns(text, named_time) for text in probe.texts):
        return None
    codes, unique = pd.factorize(cells)
    originals: list[str] = unique.tolist()
    prepared = prepare_cells(originals)
    found = _choose_reading(prepared, originals, day_first, named_time) if prepared else None
    if prepared is None or found is None:
        return None
    times, form = found
    return _spread(times, form, prepared.offsets, codes, cells.index)


def _spread(times: np.ndarray, form: DateForm, offsets: list[str], codes: np.ndarray, index: pd.Index) -> Dates:
    """Return the dates of all cells from those of the different cells."""

    def spread(values: np.ndarray) -> pd.Series:
        return pd.Series(np.append(values, np.datetime64("NaT"))[codes], index=index)

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
    digits = re.sub(r"\D", "", offset).ljust(4, "0")
    seconds = 3600 * int(digits[:2]) + 60 * int(digits[2:])
    return -seconds if "-" in offset else seconds


def _choose_reading(
    cells: DateCells, originals: list[str], day_first: bool | None, named_time: bool
) -> tuple[np.ndarray, DateForm] | None:
    """Return the most plausible times of the different cells, and their form."""
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
    if "." in best[1]:  # usually with the day first
        best, rivals = rivals[0], []
    form = replace(_complete(best[1], cells), readings=_two_readings(originals, best, rivals))
    if cells.other_months:
        other = _parse(cells.other_months, best[1])
        form = replace(form, readings=_two_readings(originals, best, [(0, "", other)]))
    return best[2], form


def _are_days(pattern: str, texts: list[str]) -> bool:
    """Whether "May 14" is followed by "May 15", which is the day of a month rather than a year."""
    return pattern == "%b %y" and any(text[:3] == later[:3] for text, later in pairwise(texts))


def _share(times: np.ndarray) -> float:
    return 1 - float(np.isnat(times).mean())


def _two_readings(originals: list[str], best: Reading, rivals: list[Reading]) -> tuple[str, ...]:
    """Return the first cell that a rival reads differently, and both times; nothing if there is none."""
    for _, _, times in rivals:
        different = np.flatnonzero((times != best[2]) & ~np.isnat(times) & ~np.isnat(best[2]))
        if len(different):
            return originals[different[0]], *(str(read[different[0]])[:10] for read in (best[2], times))
    return ()


def _parse_all(texts: list[str], pattern: str, named_time: bool) -> tuple[np.ndarray, str]:
    """Parse dates of a pattern, and some that are longer or shorter, such as those without seconds.

    Returns:
        The times and the longest pattern.
    """
    times, longest = _parse(texts, pattern), pattern
    for _ in range(4):
        left = np.flatnonzero(np.isnat(times))
        found = find_patterns(texts[left[0]], named_time) if len(left) and pattern not in UNSURE else []
        other = next((other for other in found if len(found) == 1 or other[:8] == pattern[:8]), None)
        if other is None or other in UNSURE:
            break
        times[left] = _parse([texts[index] for index in left], other)
        longest = max(longest, other, key=len)
    return times, longest


def _parse(texts: list[str], pattern: str) -> np.ndarray:
    """Return datetime64[us], NaT for texts of another pattern."""
    if pattern in UNSURE:
        return _parse_numbers(texts, pattern)
    if "%q" in pattern or ("%V" in pattern and "%u" not in pattern):
        matches = [match.groupdict() if (match := pattern_regex(pattern).fullmatch(text)) else {} for text in texts]
        if "%q" in pattern:
            texts = [f"{part['Y']}-{3 * int(part['q']) - 2}" if part else "" for part in matches]
            return _parse(texts, "%Y-%m")
        return _parse([f"{part['G']}-{part['V']}-1" if part else "" for part in matches], "%G-%V-%u")
    late = [" 24:00" in text or "T24:00" in text for text in texts] if "%H:%M" in pattern else [False]
    if any(late):  # the end of a day
        texts = [re.sub("([ T])24:00", r"\g<1>00:00", text) for text in texts]
    parsed = pd.to_datetime(pd.Series(texts, dtype=object), format=pattern, errors="coerce")
    times = parsed.to_numpy().astype("M8[us]") + np.array(late) * np.timedelta64(1, "D")
    return _in_one_century(times) if "%y" in pattern else times


def _parse_numbers(texts: list[str], pattern: str) -> np.ndarray:
    """Parse numbers of a fixed length that are dates of the years from 1800 to 2100."""
    digits = len(texts[0])
    length = len(re.sub(r"%\w", "00", pattern.replace("%Y", "0000"))) if pattern != "%s" else digits
    texts = [text if len(text) == length and text.replace(".", "").isdigit() else "" for text in texts]
    if pattern == "%s":
        numbers = [int(text) if text and digits in UNITS else np.iinfo("i8").min for text in texts]
        times = np.array(numbers, dtype="i8").view(f"M8[{UNITS.get(digits, 's')}]").astype("M8[us]")
    else:
        parsed = pd.to_datetime(pd.Series(texts, dtype=object), format=pattern, errors="coerce")
        times = parsed.to_numpy().astype("M8[us]")
    plausible = (times >= np.datetime64("1800")) & (times < np.datetime64("2101"))
    return np.where(plausible, times, np.datetime64("NaT"))


def _in_one_century(times: np.ndarray) -> np.ndarray:
    """Move two-digit years to the shortest span of years that contains them and ends before LATEST_SHORT_YEAR."""
    known = ~np.isnat(times)
    years = times[known].astype("M8[Y]")
    short = (years.astype(int) + 1970) % 100
    seen = np.unique(short)
    if not len(seen):
        return times
    gap = int(np.argmax(np.diff(seen, append=seen[0] + 100)))
    first = int(seen[(gap + 1) % len(seen)])
    last = first + int(seen[gap] - first) % 100
    century = 2000 if 2000 + last <= LATEST_SHORT_YEAR else 1900
    moved = (century + first + (short - first) % 100 - 1970).astype("M8[Y]")
    times[known] = moved.astype("M8[us]") + (times[known] - years)
    return times


def _plausibility(times: np.ndarray) -> float:
    """Return the share of steps in one direction, plus that of the most frequent step, in days, weekdays or months."""
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
    return float(max((steps > pd.Timedelta(0)).mean(), (steps < pd.Timedelta(0)).mean()) + max(counts) / len(steps))


def _complete(pattern: str, cells: DateCells) -> DateForm:
    """Return the form of a pattern, with what was separated from the cells."""
    sample = sample_texts(cells.texts)
    regex = pattern_regex(pattern)
    parts = [match.groupdict() for text in sample if (match := regex.fullmatch(text))]
    digits = max((len(part.get("f") or part.get("s") or "") for part in parts), default=0)
    pattern = drop_zeros(pattern, sample)
    if cells.ordinal:
        pattern = re.sub("%-?d", "%o", pattern)
    if cells.offsets:
        pattern = re.sub(r"( %Y)?$", r"%z\1", pattern, count=1)
    return replace(cells.form, pattern=cells.lead + pattern, digits=digits)

"""Parse dates whose pattern is known."""

import re

import numpy as np
import pandas as pd

from dltrain.datasets.date_form import NUMBERS, UNITS, pattern_regex

MAX_SHORT_YEAR = 2035  # latest end of a range of two-digit years that starts in 20xx
MANY_TEXTS = 2000  # number of texts above which dates and times of day are parsed separately
# Patterns that also match ordinary numbers; they are used only if all cells of the column match.
UNSURE = {"%Y%m%d", *(pattern for _, patterns in NUMBERS for pattern in patterns)}


def parse_texts(texts: list[str], pattern: str) -> np.ndarray:
    """Return the times as datetime64[us]; NaT for texts that do not match `pattern`."""
    if pattern in UNSURE:
        return _parse_numbers(texts, pattern)
    if "%q" in pattern or ("%V" in pattern and "%u" not in pattern):
        matches = [match.groupdict() if (match := pattern_regex(pattern).fullmatch(text)) else {} for text in texts]
        if "%q" in pattern:
            year = "Y" if "%Y" in pattern else "y"
            texts = [f"{part[year]}-{3 * int(part['q']) - 2}" if part else "" for part in matches]
            return parse_texts(texts, f"%{year}-%m")
        return parse_texts([f"{part['G']}-{part['V']}-1" if part else "" for part in matches], "%G-%V-%u")
    late = [" 24:00" in text or "T24:00" in text for text in texts] if "%H:%M" in pattern else [False]
    if any(late):  # strptime rejects 24:00, the end of a day
        texts = [re.sub("([ T])24:00", r"\g<1>00:00", text) for text in texts]
    times = _strptime(texts, pattern) + np.array(late) * np.timedelta64(1, "D")
    return _resolve_short_years(times) if "%y" in pattern else times


def _strptime(texts: list[str], pattern: str) -> np.ndarray:
    date, _, clock = pattern.partition(" ")
    if len(texts) > MANY_TEXTS and clock and not pattern.startswith("%Y-%m-%d") and not re.search("%[YymdbGVu]", clock):
        halves = [text.partition(" ") for text in texts]  # dates and times repeat: parse only the distinct ones
        days = _parse_repeated([half[0] for half in halves], date)
        return days + (_parse_repeated([half[2] for half in halves], clock) - np.datetime64("1900-01-01"))
    parsed = pd.to_datetime(pd.Series(texts, dtype=object), format=pattern, errors="coerce")
    return parsed.to_numpy().astype("M8[us]")


def _parse_repeated(texts: list[str], pattern: str) -> np.ndarray:
    codes, unique = pd.factorize(np.array(texts, dtype=object))
    return _strptime(unique.tolist(), pattern)[codes]


def _parse_numbers(texts: list[str], pattern: str) -> np.ndarray:
    """Parse dates written as numbers of a fixed length; NaT for other texts and years outside 1800 to 2100."""
    digits = len(texts[0])
    length = len(re.sub(r"%\w", "00", pattern.replace("%Y", "0000"))) if pattern != "%s" else digits
    undotted = [text.replace(".", "") for text in texts] if "." in pattern else texts
    texts = [t if len(t) == length and number.isdecimal() else "" for t, number in zip(texts, undotted, strict=True)]
    if pattern == "%s":
        numbers = [int(text) if text and digits in UNITS else np.iinfo("i8").min for text in texts]
        times = np.array(numbers, dtype="i8").view(f"M8[{UNITS.get(digits, 's')}]").astype("M8[us]")
    else:
        times = _strptime(texts, pattern)
    plausible = (times >= np.datetime64("1800")) & (times < np.datetime64("2101"))
    return np.where(plausible, times, np.datetime64("NaT", "us"))


def _resolve_short_years(times: np.ndarray) -> np.ndarray:
    """Choose the centuries of two-digit years so that the years span the shortest range.

    The range starts in 20xx if it then ends by `MAX_SHORT_YEAR`, otherwise in 19xx.
    """
    known = ~np.isnat(times)
    years = times[known].astype("M8[Y]")
    short = (years.astype(int) + 1970) % 100
    seen = np.unique(short)
    if not len(seen):
        return times
    gap = int(np.argmax(np.diff(seen, append=seen[0] + 100)))
    first = int(seen[(gap + 1) % len(seen)])
    last = first + int(seen[gap] - first) % 100
    century = 2000 if 2000 + last <= MAX_SHORT_YEAR else 1900
    moved = (century + first + (short - first) % 100 - 1970).astype("M8[Y]")
    times[known] = moved.astype("M8[us]") + (times[known] - years)
    return times

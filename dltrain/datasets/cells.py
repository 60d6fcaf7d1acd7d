"""Parse the cells of a table: numbers with decimal and thousands separators, and words for a missing value."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd

# Words for a missing value, in lower case: MISSING in all columns, MISSING_NUMBERS in columns of numbers and dates.
MISSING = frozenset({"", "na", "nan", "n/a", "null", "#n/a", "#na", "<na>", "?"})
MISSING_NUMBERS = MISSING | {"none", "nil", "missing", "nat", "n.a.", "k.a.", "n.v.", "(null)", r"\n", "-nan"}
MISSING_NUMBERS |= {"-", "--", "---", "–", "—", ".", "..", "...", "*", "#value!", "#div/0!", "#ref!", "#num!", "#name?"}

POINT, COMMA = MARKS = ".", ","
# Thousands separators, in addition to the mark (POINT or COMMA) that is not the decimal mark.
BLANKS = " '’\u00a0\u2009\u202f"
UNITS = "%$€£¥₹"
MIN_NARROW = 30  # minimum number of distinct cells with a mark for `Evidence.narrow`
SAMPLE = 10_000  # maximum number of distinct cells of a column that `find_evidence` examines
PLAIN = re.compile(r"[\d.eE+-]*", re.ASCII)
UNGROUPED = re.compile(r"[+-]?[1-9]\d{3,}([.,]\d*)?")

TIME_NAMES = (
    *("date", "time", "datetime", "timestamp", "ts", "ds", "year", "quarter", "month", "week", "day", "hour"),
    *("yearmonth", "yearweek", "unix", "unixtime", "epoch", "datum", "zeit", "jahr", "monat", "tag", "fecha"),
)


def is_time_name(name: str) -> bool:
    """Return whether a column is named like a time, such as date or Date/Time; ignores case, spaces and punctuation."""
    return re.sub(r"[\W_]", "", name.casefold()) in TIME_NAMES


@dataclass(frozen=True)
class Cells:
    """The cells of one column.

    Args:
        words: The distinct cells, after removing surrounding whitespace and a unit of all values that are not missing.
        codes: For each row, the index in ``words``.
        parsed: Decimal mark -> result of `numbers`.
    """

    words: list[str]
    codes: np.ndarray
    parsed: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, column: Sequence[str], rows: np.ndarray | None = None) -> "Cells":
        """Build the cells of a column, after stripping whitespace and a unit, such as %, that all values have.

        Args:
            column: The distinct texts if `rows` is given, otherwise one text per row.
            rows: For each row, the index of its text in `column`.
        """
        words = [word.strip() for word in column]
        if unit := _find_unit(words):
            words = [word.strip(unit).strip() for word in words]
        if rows is not None and words == column:
            return cls(words, rows)
        codes, once = pd.factorize(np.array(words, dtype=object))
        return cls(list(once), codes if rows is None else codes[rows])

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: int) -> str:
        return self.words[self.codes[row]]

    def select(self, rows: np.ndarray) -> "Cells":
        """Return the given rows, with only the words that occur in them."""
        if len(rows) == len(self) and (rows == np.arange(len(self))).all():
            return self
        used, codes = np.unique(self.codes[rows], return_inverse=True)
        return Cells([self.words[code] for code in used], codes)

    def numbers(self, decimal: str) -> np.ndarray:
        """Return the number in each word, in float64; NaN for text and missing values."""
        if decimal not in self.parsed:
            self.parsed[decimal] = parse_numbers(self.words, decimal)
        return self.parsed[decimal]

    def among(self, words: Iterable[str]) -> np.ndarray:
        """Return for each row whether its cell, in lower case, is one of ``words``."""
        known = frozenset(words)
        return np.array([word.casefold() in known for word in self.words], dtype=bool)[self.codes]


def _find_unit(words: Sequence[str]) -> str:
    """Return the unit that all words except missing values begin or end with; an empty string if there is none."""
    found = ""
    for word in words:
        if word.casefold() in MISSING_NUMBERS:
            continue
        unit = word[0] if word[0] in UNITS else word[-1]
        if unit not in UNITS or (found and unit != found):
            return ""
        found = unit
    return found


@cache
def number_pattern(decimal: str) -> re.Pattern[str]:
    """Return the pattern of numbers in which `decimal` is the decimal mark.

    The other mark, spaces or apostrophes may group thousands.
    """
    mark, other = re.escape(decimal), re.escape(COMMA if decimal == POINT else POINT)
    groups = rf"[1-9]\d{{0,2}}(?P<group>[{other}{BLANKS}])\d{{3}}(?:(?P=group)\d{{3}})*"
    lakhs = rf"[1-9]\d?(?:{other}\d\d)+{other}\d{{3}}"
    return re.compile(rf"[+−-]?(?:(?:{groups}|{lakhs}|\d+)(?:{mark}\d*)?|{mark}\d+)(?:[eE][+−-]?\d+)?", re.ASCII)


def parse_numbers(words: Sequence[str], decimal: str) -> np.ndarray:
    """Return the numbers in float64, with NaN for text and for numbers beyond the range of float64."""
    if decimal == POINT and PLAIN.fullmatch("".join(words)):
        try:
            found = np.array(words, dtype=np.float64)
            return np.where(np.isfinite(found), found, np.nan)
        except ValueError:
            pass
    pattern, kept = number_pattern(decimal), f"0123456789eE+-{decimal}"
    numbers = np.full(len(words), np.nan)
    if not re.search(f"^(?:{pattern.pattern})$", "\n".join(words), re.ASCII | re.MULTILINE):
        return numbers  # no word is a number; one search is faster than one per word
    for index, word in enumerate(words):
        if pattern.fullmatch(word):
            digits = "".join(letter for letter in word.replace("−", "-") if letter in kept)
            numbers[index] = float(digits.replace(decimal, POINT))
    return np.where(np.isfinite(numbers), numbers, np.nan)


class Evidence(NamedTuple):
    """Evidence in one column for the decimal mark of the file.

    Args:
        proofs: Decimal mark -> a cell that proves it, usually the first that is a number only with this mark.
        ambiguous: The first cell that is a number with either mark, but has a different value with each.
        bare: Whether some numbers contain neither mark.
        narrow: Whether at least `MIN_NARROW` distinct numbers contain a mark and, read with decimal points, lie within
            a factor of ten. This is rare for counts.
    """

    proofs: dict[str, str]
    ambiguous: str | None = None
    bare: bool = False
    narrow: bool = False


def find_evidence(words: Sequence[str]) -> Evidence:
    """Return the evidence in the distinct cells of a column.

    It is empty if fewer than half of the cells with a value are numbers, or if no number contains a mark.
    """
    words = [word for word in words[:SAMPLE] if word.casefold() not in MISSING_NUMBERS]
    fits = {word: [mark for mark in MARKS if number_pattern(mark).fullmatch(word)] for word in words}
    numbers = [word for word in words if fits[word]]
    marked = [word for word in numbers if POINT in word or COMMA in word]
    if 2 * len(numbers) < len(words) or not marked:
        return Evidence({})
    proofs = {fits[word][0]: word for word in reversed(marked) if len(fits[word]) == 1}
    used = {mark for word in marked for mark in MARKS if mark in word}
    if not proofs and len(used) == 1 and any(map(UNGROUPED.fullmatch, numbers)):
        proofs = {used.pop(): marked[0]}  # 1234 has no thousands separator, so the point in 4.136 is a decimal mark
    ambiguous = next((word for word in marked if len(fits[word]) == len(MARKS)), None)
    sizes = np.abs(parse_numbers(marked, POINT))
    narrow = len(marked) >= MIN_NARROW and bool(sizes.max() < 10 * sizes.min())
    return Evidence(proofs, ambiguous, len(marked) < len(numbers), narrow)

"""Read CSV files, with errors that name the column and line."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from dltrain.data.bad_samples import BadSamples
from dltrain.datasets.cells import COMMA, POINT, Cells, find_evidence, is_time_name, parse_numbers
from dltrain.datasets.csv_delimiters import DECIMALS, find_delimiter, has_equal_tabs
from dltrain.datasets.csv_table import Marks, Table
from dltrain.errors import ConfigError, format_error

QUOTED = re.compile(r'"((?:[^"]|"")*)"', re.DOTALL)
INVALID_UTF8 = re.compile("[\udc80-\udcff]")  # surrogateescape decodes invalid bytes to these
UTF16 = (b"\xff\xfe", b"\xfe\xff")
SNIFFED = 200  # maximum number of lines from which the delimiter is inferred


@dataclass(frozen=True)
class Notation:
    """Known parts of the notation of a CSV file; the rest is inferred.

    Args:
        header: Whether the first line names the columns; otherwise they are called column_1, column_2, ...
        decimal: Decimal mark: ``point`` or ``comma``; None infers it.
        missing_words: Additional words for a missing value.
        literal_quotes: Whether quotes within cells are ordinary characters, as in most tab-separated files.
        trained_on: `Marks` of the training file, used in prediction, where the rows may be too few to infer them.
    """

    header: bool = True
    decimal: str | None = None
    missing_words: Sequence[str] = ()
    literal_quotes: bool = False
    trained_on: Marks | None = None

    def __post_init__(self) -> None:
        if self.decimal is not None and self.decimal not in DECIMALS:
            raise ConfigError(format_error("data.decimal", "point, comma or null", self.decimal))


@contextmanager
def csv_errors(path: Path) -> Iterator[None]:
    """Convert errors in reading a file to ConfigError."""
    try:
        yield
    except (OSError, UnicodeError, csv.Error, pd.errors.ParserError) as error:
        raise ConfigError(format_error("data.path", f"a readable file in UTF-8 at {path}", str(error))) from error


def read_csv(path: Path, notation: Notation | None = None, bad: BadSamples | None = None) -> Table:
    """Read a whole file in UTF-8, or in UTF-16 with a byte order mark.

    The delimiter (comma, semicolon, tab or vertical bar) is inferred unless the first line is ``sep=`` and a delimiter.
    The decimal mark is inferred unless `notation` gives it.

    Args:
        path: An existing file.
        notation: Known notation of the file; None to infer it.
        bad: Policy for unreadable lines; None rejects them.

    Raises:
        ConfigError: The file or a line cannot be read, the decimal mark is ambiguous, the first line holds values
            instead of names, or there are no rows; the message names the line, if there is one.
    """
    with csv_errors(path):
        content = path.read_bytes()
        utf16 = content.startswith(UTF16)
        text = content.decode("utf-16" if utf16 else "utf-8-sig", "strict" if utf16 else "surrogateescape")
        if "\0" in text:
            raise UnicodeError("a binary file")
        notation = notation or Notation()
        reader = Reader(io.StringIO(text, newline=""), path, notation)
        if reader.delimiter == "\t" and '"' in text and has_equal_tabs(text):
            notation = replace(notation, literal_quotes=True)
            reader = Reader(io.StringIO(text, newline=""), path, notation)
        lines = _regular_lines(content, reader)
        if lines is not None and (text.isascii() or not INVALID_UTF8.search(text)):
            width = len(reader.header)
            options: Any = {"names": range(width), "dtype": str, "na_filter": False, "skipinitialspace": True}
            options |= {"sep": reader.delimiter, "quoting": reader.quoting}
            frame = pd.read_csv(io.StringIO(text, newline=""), index_col=False, **options)
            columns = []
            for number in range(width):
                # An array of objects, because indexing an array of pandas' own strings is slow.
                codes, words = pd.factorize(frame[number].iloc[-len(lines) :].to_numpy(dtype=object))
                columns.append(Cells.of(reader.unquote(list(words)), codes))
            return reader.table(columns, lines)
        # Irregular lines, or a single column, where an empty line is a missing value.
        return next(iterate_tables(io.StringIO(text, newline=""), path, None, notation, bad))


def _regular_lines(content: bytes, reader: "Reader") -> np.ndarray | None:
    """Return the line number of each row, or None if the file is irregular.

    A file is regular if it has several columns and at least one row, and each row has as many cells as the header.
    """
    if len(reader.header) == 1:
        return None
    if b'"' in content or b"\n" not in content or content.startswith(UTF16):
        pairs = [(len(row), line) for row, line in reader]
        widths, lines = np.array(pairs).T
    else:
        letters = np.frombuffer(content if content.endswith(b"\n") else content + b"\n", dtype=np.uint8)
        ends = np.flatnonzero(letters == ord("\n"))
        delimiters = np.searchsorted(np.flatnonzero(letters == ord(reader.delimiter)), ends)
        lengths = np.diff(ends, prepend=-1) - (letters[ends - 1] == ord("\r"))
        lines = np.flatnonzero(lengths > 1) + 1
        widths = np.diff(delimiters, prepend=0)[lines - 1] + 1
        start = reader.first[0][1] if reader.first else reader.rows.line_num + reader.skipped + 1
        widths, lines = widths[lines >= start], lines[lines >= start]
    return lines if len(lines) and (widths == len(reader.header)).all() else None


def iterate_tables(
    lines: Iterable[str],
    path: Path,
    size: int | None,
    notation: Notation | None = None,
    bad: BadSamples | None = None,
) -> Iterator[Table]:
    """Yield the rows of a file in nonempty tables of at most ``size`` rows.

    Args:
        lines: Lines of the file, read on demand.
        path: The file, for messages.
        size: Maximum number of rows per table; None for one table with all rows.
        notation: Known notation of the file; None to infer it.
        bad: Policy for unreadable lines; None rejects them.

    Raises:
        ConfigError: The file, a line or all lines of a table cannot be read, the decimal mark is ambiguous, the first
            line holds values instead of names, or there are no rows; the message names the line, if there is one.
    """
    reader = Reader(lines, path, notation or Notation())
    rows = iter(reader)
    while found := list(islice(rows, size)):
        messages = _find_bad_rows(found, reader)
        for row in sorted(messages):
            (bad or BadSamples()).add(messages[row])
        good = [pair for number, pair in enumerate(found) if number not in messages]
        if not good:
            raise ConfigError(format_error("data.path", f"a readable line in {path}", "none"))
        columns = [Cells.of(column) for column in zip(*(row for row, _ in good), strict=True)]
        yield reader.table(columns, np.array([line for _, line in good]))


class Reader:
    """The header and the rows of a CSV file, each row with the line on which it ends.

    Args:
        lines: Lines of the file, read on demand.
        path: The file, for messages.
        notation: Known notation of the file.
    """

    def __init__(self, lines: Iterable[str], path: Path, notation: Notation) -> None:
        self.path = path
        self.notation = notation
        lines = iter(lines)
        head = list(islice(lines, 1 if notation.trained_on else SNIFFED))  # in prediction, do not wait for later rows
        declared = re.fullmatch(r"sep=(.)\s*", head[0]) if head else None
        self.delimiter = (
            declared[1]
            if declared
            else find_delimiter(head, notation.trained_on.delimiter if notation.trained_on else None)
        )
        self.decimal = DECIMALS.get(notation.decimal or "")
        self.skipped = 1 if declared else 0
        marks = notation.trained_on
        self.literal_quotes = notation.literal_quotes or bool(marks and marks.literal_quotes)
        self.quoting: Literal[0, 3] = csv.QUOTE_NONE if self.literal_quotes else csv.QUOTE_MINIMAL
        options: Any = {"delimiter": self.delimiter, "skipinitialspace": True, "quoting": self.quoting}
        self.rows = csv.reader(chain(head[self.skipped :], lines), **options)
        first = self.unquote(next((row for row in self.rows if any(row)), []))
        if any(map(INVALID_UTF8.search, first)):
            raise ConfigError(
                format_error("data.path", f"a CSV file in UTF-8 at {path}", "other bytes in its first line")
            )
        self.header = [name.strip() for name in first]
        self.first: list[tuple[list[str], int]] = []
        if not notation.header:
            self.header = [f"column_{number}" for number in range(1, len(first) + 1)]
            self.first = [(first, self.rows.line_num + self.skipped)] if first else []

    def __iter__(self) -> Iterator[tuple[list[str], int]]:
        """Yield each row with the line on which it ends.

        In a file of one column, an empty line is a missing value, except at the end of the file; in other files, it is
        ignored.
        """
        yield from self.first
        empty: list[tuple[list[str], int]] = []
        none = True
        for cells in self.rows:
            row = self.unquote(cells)
            line = self.rows.line_num + self.skipped
            if any(row) or len(row) > 1:
                yield from empty
                empty.clear()
                none = False
                yield row, line
            elif len(self.header) == 1:
                empty.append(([""], line))
        if none and not self.first:
            expected = f"{'a header line and ' * self.notation.header}at least one row in {self.path}"
            raise ConfigError(format_error("data.path", expected, "no rows"))

    def unquote(self, cells: list[str]) -> list[str]:
        """Remove quotes around whole cells if the parser keeps them."""
        if self.quoting != csv.QUOTE_NONE:
            return cells
        return [m[1].replace('""', '"') if (m := QUOTED.fullmatch(cell)) else cell for cell in cells]

    def table(self, columns: list[Cells], lines: np.ndarray) -> Table:
        """Return the cells as a table; omit the last column if it has neither a name nor a value."""
        header = self.header
        if len(header) > 1 and not header[-1] and not any(columns[-1].words):
            header, columns = header[:-1], columns[:-1]
        words = frozenset(word.casefold() for word in self.notation.missing_words)
        self.decimal = self.decimal or find_decimal(header, columns, lines, self)
        marks = Marks(self.delimiter, self.decimal, self.literal_quotes)
        table = Table(self.path, header, columns, lines, words, marks)
        if self.notation.header:
            _check_header(table)
        return table


def find_decimal(header: list[str], columns: list[Cells], lines: np.ndarray, reader: Reader) -> str:
    """Return the decimal mark of the numbers in the columns.

    Raises:
        ConfigError: Columns need different marks, or a number is ambiguous, such as 1,234, which may be 1234 or 1.234.
    """
    found = {
        name: find_evidence(cells.words) for name, cells in zip(header, columns, strict=True) if not is_time_name(name)
    }
    proofs = {mark: (name, word) for name, one in found.items() for mark, word in one.proofs.items()}
    hint = "Set data.decimal=point or data.decimal=comma"
    if len(proofs) > 1:
        got = " and ".join(f"{word} in column {name}" for name, word in proofs.values())
        raise ConfigError(format_error("data.path", f"one decimal mark in {reader.path}", got, hint))
    if proofs:
        return next(iter(proofs))
    if reader.notation.trained_on:
        return reader.notation.trained_on.decimal
    for name, one in found.items():
        word = one.ambiguous
        # In a comma-separated file, a comma separates thousands if the column also has numbers without a mark (4,006
        # and 960), and a point is a decimal point if many distinct numbers, all with a mark, have similar
        # sizes (23.110 and 21.005).
        usual = (COMMA in word and one.bare) or (POINT in word and not one.bare and one.narrow) if word else True
        if word and not (reader.delimiter == "," and usual):
            line = lines[columns[header.index(name)].codes == columns[header.index(name)].words.index(word)][0]
            expected = f"unambiguous numbers in column {name}, line {line} of {reader.path}"
            got = f"{word}, which may be {re.sub('[.,]', '', word)} or {re.sub('[.,]', '.', word)}"
            raise ConfigError(format_error("data.decimal", expected, got, hint))
    return POINT


def _check_header(table: Table) -> None:
    """Reject a first line that holds values instead of names."""
    numeric = [number for number in range(len(table.header)) if table.is_numeric(number)]
    named = [
        number for number in numeric if not np.isnan(parse_numbers([table.header[number]], table.marks.decimal))[0]
    ]
    repeated = any(
        name in table.columns[number].words for number, name in enumerate(table.header) if number not in numeric
    )
    years = [table.header[number] for number in named]
    wide = (
        len(numeric) < len(table.header) and not repeated and years == sorted(set(years)) and "".join(years).isdigit()
    )
    if numeric and named == numeric and not wide:
        got, hint = ", ".join(table.header), "data.header=false reads a file without column names"
        expected = f"column names in the first line of {table.path}"
        raise ConfigError(format_error("data.path", expected, got, hint))


def _find_bad_rows(found: list[tuple[list[str], int]], reader: Reader) -> dict[int, str]:
    """Return an error message for each row that is not UTF-8 or has the wrong number of cells."""
    messages = {}
    for number, (row, line) in enumerate(found):
        invalid = next(filter(INVALID_UTF8.search, row), None)
        if invalid is not None:
            got = invalid.encode(errors="surrogateescape").decode(errors="backslashreplace")
            messages[number] = format_error("data.path", f"UTF-8 text in line {line} of {reader.path}", got)
        elif len(row) != len(reader.header):
            expected = f"{len(reader.header)} cells in line {line} of {reader.path}, as in its first line"
            messages[number] = format_error("data.path", expected, len(row))
    return messages

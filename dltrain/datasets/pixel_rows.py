"""Read square gray images from the rows of a CSV file, as in FER-2013."""

import csv
import math
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dltrain.data.bad_samples import BadSamples
from dltrain.errors import ConfigError, format_error, shorten, suggest

MAX_CELL = 2**26  # characters, for images of about 4,000 x 4,000 pixels
DELIMITERS = ",;\t"


class Columns(NamedTuple):
    """Names of columns; None for columns that are not read.

    Args:
        pixels: Column of gray values, separated by spaces.
        column: Column of classes.
        usage: Column of splits.
    """

    pixels: str
    column: str | None = None
    usage: str | None = None


class PixelRow(NamedTuple):
    """Row with its line number, image (uint8, side x side), class and split; columns that are not read are empty."""

    line: int
    pixels: np.ndarray
    label: str
    usage: str


def read_rows(
    lines: Iterable[str], path: Path, columns: Columns, bad: BadSamples | None = None, side: int | None = None
) -> Iterator[PixelRow]:
    """Yield the rows of a file.

    Args:
        lines: Lines of the file, starting with the header.
        path: The file, for messages.
        columns: Columns to read.
        bad: Policy for rows that cannot be read; None rejects them.
        side: Height and width of the images in pixels; None to use the size of the first image.

    Raises:
        ConfigError: The file has no header or is not CSV in UTF-8, a column is missing, or a row cannot be read and
            must not be skipped.
    """
    csv.field_size_limit(max(MAX_CELL, csv.field_size_limit()))
    bad = bad or BadSamples()
    lines = iter(lines)
    first = next(lines, "")
    delimiter = next((mark for mark in DELIMITERS if columns.pixels in _names(first, mark)), ",")
    if not (header := _names(first, delimiter)):
        expected = f"a header with the column names in {path}"
        raise ConfigError(format_error("data.path", expected, "an empty first line" if first else "an empty file"))
    indices = [_index_of(header, key, name, path) for key, name in columns._asdict().items() if name is not None]
    rows = csv.reader(lines, delimiter=delimiter)
    # NumPy before 2.3 only warns about text that is not a number.
    with warnings.catch_warnings(action="error", category=DeprecationWarning):
        while (row := _next(rows, path)) is not None:
            if not row:
                continue
            line = 1 + rows.line_num
            try:
                pixels, *rest = _cells(row, header, indices)
                image = parse_image(pixels, side)
            except ValueError as error:
                bad.add(f"data.path: {error}".replace(" in it", f" in line {line} of {path}", 1))
                continue
            side = len(image)
            label, usage = [*rest, "", ""][:2] if columns.column is not None else ("", [*rest, ""][0])
            yield PixelRow(line, image, label, usage)


def parse_image(text: str, side: int | None = None) -> np.ndarray:
    """Return a square image of gray values, in uint8.

    Args:
        text: Whole numbers from 0 to 255, separated by spaces, row by row.
        side: Required height and width in pixels; None for any.

    Raises:
        ValueError: The text is not a square image of this size with values from 0 to 255. The caller replaces "in it"
            in the message with the line.
    """
    try:
        values = np.fromstring(text, dtype=np.int64, sep=" ")
    except (ValueError, DeprecationWarning):
        word = next((word for word in text.split() if not word.lstrip("-").isdecimal()), text)
        raise ValueError(f"expected whole numbers separated by spaces as pixels in it, got {shorten(word)}") from None
    wrong = values[(values < 0) | (values > 255)]
    if len(wrong):
        raise ValueError(f"expected pixels from 0 to 255 in it, got {wrong[0]}")
    found = math.isqrt(len(values))
    if side is not None and len(values) != side**2:
        raise ValueError(f"expected {side**2:,} pixels ({side} x {side}) in it, got {len(values):,}")
    if not found or found**2 != len(values):
        raise ValueError(f"expected the pixels of a square image in it, got {len(values):,} pixels")
    return values.astype(np.uint8).reshape(found, found)


def _names(line: str, delimiter: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line.strip()], delimiter=delimiter), [])]


def _index_of(header: list[str], key: str, name: str, path: Path) -> int:
    if name in header:
        return header.index(name)
    hint = suggest(name, header)
    if key == "usage":
        hint = f"{hint} data.usage=null divides all rows into splits.".strip()
    expected = f"one of the columns of {path}: {shorten(', '.join(header))}"
    raise ConfigError(format_error(f"data.{key}", expected, name, hint))


def _next(rows: Iterator[list[str]], path: Path) -> list[str] | None:
    try:
        return next(rows, None)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(format_error("data.path", f"a CSV file in UTF-8 at {path}", str(error))) from error


def _cells(row: list[str], header: list[str], indices: list[int]) -> list[str]:
    if len(row) != len(header):
        raise ValueError(f"expected {len(header)} cells in it, got {len(row)}")
    return [row[index].strip() for index in indices]

"""Files with one word per line and an empty line after each sentence (CoNLL columns)."""

import re
from pathlib import Path
from typing import NamedTuple

from dltrain.datasets.describe import count
from dltrain.errors import ConfigError, format_error

DOCUMENT = "-DOCSTART-"  # first cell of the line that begins a document


class Sentence(NamedTuple):
    """Words of a sentence and their tags; `tags` is empty if the tags are unknown."""

    words: list[str]
    tags: list[str]


def read_sentences(file: Path, word_column: int, tag_column: int) -> list[Sentence]:
    """Return the sentences of a file.

    Raises:
        ConfigError: The file is not UTF-8, lacks one of the columns, or has lines with different numbers of columns, or
            words and tags are the same column.
    """
    rows = _rows(file.read_bytes(), str(file), "data.path")
    columns = len(rows[0][0][1]) if rows else 0
    exist = all(-columns <= column < columns for column in (word_column, tag_column))
    if exist and word_column % columns == tag_column % columns:
        expected = f"a column other than the words (data.word_column={word_column}) in {file}"
        got = f"{tag_column} in a file with {count(columns, 'column')}"
        raise ConfigError(format_error("data.tag_column", expected, got))
    return [
        Sentence(
            [_cell(cells, word_column, "data.word_column", line, file) for line, cells in group],
            [_cell(cells, tag_column, "data.tag_column", line, file) for line, cells in group],
        )
        for group in rows
    ]


def read_words(content: bytes, name: str, word_column: int) -> list[tuple[int, list[str]]]:
    """Return each sentence as a pair: the number of its first line, and its words.

    Args:
        word_column: Column of words; if there is no such column, the first one is read.

    Raises:
        ConfigError: The content is not UTF-8, has no words, or has lines with different numbers of columns.
    """
    groups = _rows(content, name, "text")
    if not groups:
        raise ConfigError(format_error("text", f"one word per line in {name}", "a file without words"))
    return [
        (group[0][0], [cells[word_column if -len(cells) <= word_column < len(cells) else 0] for _, cells in group])
        for group in groups
    ]


def _rows(content: bytes, name: str, key: str) -> list[list[tuple[int, list[str]]]]:
    """Return the sentences, each as a list of (line number, cells) per word."""
    try:
        lines = re.split(r"\r\n|\r|\n", content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(format_error(key, f"UTF-8 text at {name}", str(error))) from error
    groups: list[list[tuple[int, list[str]]]] = [[]]
    first = 0
    for number, line in enumerate(lines, 1):
        # Unlike str.split and str.splitlines, keep Unicode spaces and line separators, which may be words.
        cells = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
        if not line.strip():
            groups.append([])
        elif cells[0] != DOCUMENT:
            first = first or len(cells)
            if len(cells) != first:
                expected = f"{count(first, 'column')} in line {number} of {name}, as in its first line with a word"
                raise ConfigError(format_error(key, expected, len(cells)))
            groups[-1].append((number, cells))
    return [group for group in groups if group]


def _cell(cells: list[str], column: int, key: str, line: int, file: Path) -> str:
    if not -len(cells) <= column < len(cells):
        number = len(cells)
        reason = f"line {line} of {file} has {count(number, 'column')}"
        expected = f"a column from {-number} to {number - 1}, because {reason}"
        raise ConfigError(format_error(key, expected, column))
    return cells[column]

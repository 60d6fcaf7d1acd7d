"""Read pairs of texts: a table with a column of sources and one of targets, or two aligned text files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from dltrain.data.bad_samples import BadSamples
from dltrain.data.checks import existing_file
from dltrain.datasets.csv_file import Notation, csv_errors, read_csv
from dltrain.datasets.csv_table import Table
from dltrain.datasets.text_file import JSON, iterate_json
from dltrain.errors import ConfigError, format_error

TABLES = (".csv", ".tsv", *JSON)
EXPECTED = "a table with columns of sources and targets, or two aligned text files: [SOURCES,TARGETS]"


class Pairs(NamedTuple):
    """Pairs of texts.

    Args:
        name: Name of the table, or names of both text files.
        sources, targets: The texts.
        columns: Names of the columns of sources and targets; empty for text files.
    """

    name: str
    sources: list[str]
    targets: list[str]
    columns: list[str]


class PairReader:
    """Reader of the pairs in a table or in two text files.

    Args:
        path: A table (CSV, TSV or JSON lines), or two text files.
        source, target: Columns of the table; None for the first unused column that does not hold numbers.
        header: Whether the first line of the table names the columns.
        bad: Policy for unreadable lines and empty texts.

    Raises:
        ConfigError: The number of files is not one or two, or `source` or `target` is set for two text files.
    """

    def __init__(
        self, path: str | Sequence[str], source: str | None, target: str | None, header: bool, bad: BadSamples
    ) -> None:
        self.paths = [path] if isinstance(path, str) else [str(each) for each in path]
        if len(self.paths) not in (1, 2):
            raise ConfigError(format_error("data.path", EXPECTED, f"{len(self.paths)} files"))
        for key, name in (("source", source), ("target", target)):
            if name is not None and len(self.paths) == 2:
                raise ConfigError(
                    f"data.{key}: not supported because data.path names text files, which have no columns"
                )
        self.columns = source, target
        self.notation, self.bad = Notation(header), bad

    def read(self) -> Pairs:
        """Read all pairs; pairs with an empty text are skipped or rejected, depending on `bad`.

        Raises:
            ConfigError: A file does not exist, is not text or lacks a column; the text files have different numbers of
                lines; or `bad` rejects an unreadable line or an empty text.
        """
        files = [existing_file(path, EXPECTED) for path in self.paths]
        if len(files) == 2:
            sides = [_read_lines(file) for file in files]
            _check_aligned(files, sides)
            lines = list(range(1, len(sides[0]) + 1))
            return self._without_empty(f"{files[0].name} and {files[1].name}", sides, lines, [])
        table = (
            self._read_json(files[0])
            if files[0].suffix.casefold() in JSON
            else read_csv(files[0], self.notation, self.bad)
        )
        self.notation = replace(self.notation, trained_on=table.marks)
        columns = self._choose(table)
        cells = [table.columns[column] for column in columns]
        sides = [[side.words[code] for code in side.codes] for side in cells]
        return self._without_empty(files[0].name, sides, table.lines.tolist(), [table.header[each] for each in columns])

    def _read_json(self, file: Path) -> Table:
        with csv_errors(file), file.open(encoding="utf-8-sig") as lines:
            return next(iterate_json(lines, file, None, bad=self.bad))

    def _choose(self, table: Table) -> list[int]:
        """Return the indices of the columns of sources and targets."""
        if len(table.header) < 2:
            raise ConfigError(format_error("data.path", EXPECTED, f"one column in {table.path}"))
        settings = zip(self.columns, ("data.source", "data.target"), strict=True)
        named = [None if name is None else table.index_of(name, key) for name, key in settings]
        free = (each for each in range(len(table.header)) if each not in named and not table.is_numeric(each))
        chosen = [next(free, -1) if column is None else column for column in named]
        if -1 in chosen:
            hint = f"Set data.source and data.target to two of {', '.join(table.header)}."
            raise ConfigError(format_error("data.path", f"two columns of texts in {table.path}", "fewer", hint))
        return chosen

    def _without_empty(self, name: str, sides: list[list[str]], lines: list[int], columns: list[str]) -> Pairs:
        kept = []
        for row, (source, target) in enumerate(zip(*sides, strict=True)):
            if source.strip() and target.strip():
                kept.append(row)
                continue
            got = f"an empty {'target' if source.strip() else 'source'}"
            self.bad.add(format_error("data.path", f"a source and a target in line {lines[row]} of {name}", got))
        sources, targets = ([side[row] for row in kept] for side in sides)
        return Pairs(name, sources, targets, columns)


def _read_lines(file: Path) -> list[str]:
    """Return the lines of a text file; only line feeds end a line, as in other tools for aligned files."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(format_error("data.path", f"UTF-8 text at {file}", str(error))) from error
    lines = [line.rstrip("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def _check_aligned(files: list[Path], sides: list[list[str]]) -> None:
    counts = [len(side) for side in sides]
    if counts[0] == counts[1]:
        return
    longer, fewest = files[counts[1] > counts[0]], min(counts)
    expected = f"as many lines in {files[1]} as in {files[0]}, which has {counts[0]:,}"
    hint = f"Line {fewest + 1:,} of {longer} has no counterpart."
    raise ConfigError(format_error("data.path", expected, f"{counts[1]:,}", hint))

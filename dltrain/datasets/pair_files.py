"""Files of text pairs; the sources of each file may start with the name of its task."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from dltrain.data.bad_samples import BadSamples
from dltrain.data.inputs import InputFile
from dltrain.data.spec import Fitted, Inputs
from dltrain.datasets.csv_file import csv_errors, iterate_tables
from dltrain.datasets.csv_table import Marks
from dltrain.datasets.parallel_files import TABLES, PairReader, Pairs
from dltrain.datasets.sequence_pairs import Encoder, encode_inputs, read_lines
from dltrain.datasets.text_file import JSON, iterate_json
from dltrain.errors import ConfigError, format_error


class PairFiles:
    """Tables of pairs, or two aligned text files; see `PairReader`.

    Args:
        path: A table, a list of tables, or a list of two text files.
        source, target: Columns, the same for all tables or one for each.
        header: Whether the first line of a table names the columns.
        prefix: Name of the task of the pairs, the same for all tables or one for each; None for no prefix.
        bad: Policy for unreadable lines and empty texts.

    Raises:
        ConfigError: A list does not have one value for each table, or an argument of `PairReader` is invalid.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        source: str | Sequence[str | None] | None,
        target: str | Sequence[str | None] | None,
        header: bool,
        prefix: str | Sequence[str] | None,
        bad: BadSamples,
    ) -> None:
        names: list[Any] = [path] if isinstance(path, str) else list(map(str, path))
        if len(names) < 2 or not all(Path(name).suffix.casefold() in TABLES for name in names):
            names = [names if len(names) > 1 else names[0] if names else []]
        columns = self.for_each("data.source", source, len(names)), self.for_each("data.target", target, len(names))
        self.readers = [
            PairReader(name, *each, header, bad) for name, each in zip(names, zip(*columns, strict=True), strict=True)
        ]
        self.prefixes = [_as_prefix(name) for name in self.for_each("data.prefix", prefix, len(names))]
        self.columns = [list[str]() for _ in names]

    @staticmethod
    def for_each(key: str, value: Any, count: int) -> list[Any]:
        """Return ``count`` values: the elements of a list, or the same value ``count`` times.

        Raises:
            ConfigError: The length of a list is not ``count``.
        """
        if not isinstance(value, Sequence) or isinstance(value, str):
            return [value] * count
        if len(value) != count:
            expected = f"one value, or one for each of {count} tables" if count > 1 else "one value"
            raise ConfigError(format_error(key, expected, f"a list of length {len(value)}"))
        return list(value)

    def read(self) -> list[Pairs]:
        """Return the pairs of each file; sources start with the prefix.

        Raises:
            ConfigError: See `PairReader.read`.
        """
        found = [reader.read() for reader in self.readers]
        self.columns = [pairs.columns for pairs in found]
        return [
            pairs._replace(sources=[prefix + text for text in pairs.sources]) if prefix else pairs
            for pairs, prefix in zip(found, self.prefixes, strict=True)
        ]

    @property
    def own_prefix(self) -> str:
        """Prefix to add to user-provided texts: the prefix of the only file; empty if there are several files."""
        return self.prefixes[0] if len(self.prefixes) == 1 else ""

    def state(self) -> Fitted:
        """Return the columns of each file, and the delimiter, decimal mark and quoting of each."""
        marks = [list(reader.notation.trained_on or ()) for reader in self.readers]
        return {"columns": self.columns, "marks": marks}

    def restore(self, state: Fitted) -> None:
        """Restore a result of `state`; a result of an earlier version describes a single file."""
        columns, marks = state["columns"], state["marks"]
        if not columns or isinstance(columns[0], str):
            columns, marks = [columns], [marks]
        self.columns = [list(each) for each in columns]
        for reader, names, each in zip(self.readers, columns, marks, strict=False):
            reader.notation = replace(reader.notation, trained_on=Marks(*each) if each else None)
            if names and len(reader.paths) == 1:
                reader.columns = names[0], names[1]

    def read_inputs(self, file: InputFile, size: int, encoder: Encoder) -> Iterator[Inputs]:
        """Yield the encoded lines of a text file or source cells of a table, at most ``size`` at a time."""
        if file.suffix not in TABLES or not any(self.columns):
            yield from read_lines(file, size, encoder)
            return
        known = list(dict.fromkeys(names[0] for names in self.columns if names))
        with csv_errors(file.path), file.open_text() as lines:
            if file.suffix in JSON:
                tables = iterate_json(lines, file.path, size)
            else:
                tables = iterate_tables(lines, file.path, size, self.readers[0].notation)
            for table in tables:
                name = next((name for name in known if name in table.header), known[0])
                cells = table.columns[table.indices_of([name], "data.source")[0]]
                names: list[dict[str, object]] = [{"input": file.name, "line": line} for line in table.lines.tolist()]
                yield encode_inputs([cells[row] for row in range(len(table))], names, encoder)


def join(found: Sequence[Pairs]) -> Pairs:
    """Return the pairs of all files as one `Pairs`."""
    sources, targets = (list(chain.from_iterable(side)) for side in zip(*(pairs[1:3] for pairs in found), strict=True))
    return Pairs(" and ".join(pairs.name for pairs in found), sources, targets, found[0].columns)


def _as_prefix(name: str | None) -> str:
    """Return the prefix for the name of a task, such as ``summarize: ``."""
    name = (name or "").strip().rstrip(":").strip()
    return f"{name}: " if name else ""

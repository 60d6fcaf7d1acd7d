"""Read texts as a table: from a JSON lines file, or from text files in one folder per class."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dltrain.data.bad_samples import BadSamples
from dltrain.data.folders import find_files, subfolders
from dltrain.datasets.cells import Cells
from dltrain.datasets.csv_table import Table
from dltrain.datasets.image_layout import TEST, TRAIN, VAL, split_of
from dltrain.errors import ConfigError, format_error

JSON = (".jsonl", ".ndjson", ".json")
TEXT = (".txt",)
COLUMNS = ["text", "label"]  # columns of the table that `read_folders` returns
Parts = dict[str, np.ndarray]


def read_folders(root: Path, bad: BadSamples) -> tuple[Table, Parts]:
    """Read the ``.txt`` files in ``<class>/``, or in ``train/<class>/``, ``val/<class>/`` and ``test/<class>/``.

    Returns:
        A table with the columns ``text`` and ``label``, and the row indices of each split, or no splits if there is
        neither a folder ``val`` nor ``test``.

    Raises:
        ConfigError: There are no such files, one cannot be read as UTF-8 and must not be skipped, ``train`` is missing
            although other splits have folders, or a split has two folders.
    """
    splits = [(split, folder) for folder in subfolders(root) if (split := split_of(folder.name)) and subfolders(folder)]
    named = dict(splits)
    if splits and (TRAIN not in named or len(named) < len(splits)):
        expected = f"one folder per class, or train, val and test with one folder per class in each, in {root}"
        raise ConfigError(format_error("data.path", expected, ", ".join(folder.name for _, folder in splits)))
    texts, labels, parts = list[str](), list[str](), Parts()
    for split, folder in (named or {TRAIN: root}).items():
        first = len(texts)
        for kind in subfolders(folder):
            for file in sorted(file for file in find_files(kind) if file.suffix.casefold() in TEXT):
                text = read_text(file, bad)
                if text is not None:
                    texts.append(text)
                    labels.append(kind.name)
        parts[split] = np.arange(first, len(texts))
    if not texts:
        expected = f"a folder of .txt files for each class in {root}"
        raise ConfigError(format_error("data.path", expected, "none"))
    table = Table(root, COLUMNS, [Cells.of(texts), Cells.of(labels)], np.arange(1, len(texts) + 1))
    return table, parts if {VAL, TEST} & parts.keys() else {}


def read_text(file: Path, bad: BadSamples | None = None) -> str | None:
    """Return the text of a file, or None if it cannot be read as UTF-8 and may be skipped.

    Raises:
        ConfigError: The file cannot be read as UTF-8 and must not be skipped.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        (bad or BadSamples()).add(format_error("data.path", f"UTF-8 text at {file}", str(error)))
        return None


def iterate_json(
    lines: Iterable[str], path: Path, size: int | None, header: list[str] | None = None, bad: BadSamples | None = None
) -> Iterator[Table]:
    """Yield the rows of a JSON lines file, one object per line, in tables of at most ``size`` rows.

    Args:
        path: The file, for messages.
        size: Maximum number of rows per table; None reads all rows into one table.
        header: Fields to read; None for the fields of the first object.
        bad: Policy for unreadable lines; None rejects them.

    Raises:
        ConfigError: A line is not an object with at least one field and must not be skipped, or there are no rows.
    """
    records = _records(lines, path, bad or BadSamples())
    none = True
    while found := list(islice(records, size)):
        none = False
        header = header or list(found[0][0])
        rows = [[_cell(record.get(name)) for name in header] for record, _ in found]
        columns = [Cells.of(column) for column in zip(*rows, strict=True)]
        yield Table(path, header, columns, np.array([line for _, line in found]))
    if none:
        raise ConfigError(format_error("data.path", f"a JSON object in each line of {path}", "no line"))


def _records(lines: Iterable[str], path: Path, bad: BadSamples) -> Iterator[tuple[dict[str, Any], int]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        got = None
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            record = None
            got = f"text that is not JSON ({getattr(error, 'msg', error)})"
        if isinstance(record, dict) and record:
            yield record, number
        else:
            got = got or json.dumps(record)[:50]
            bad.add(format_error("data.path", f"a JSON object with fields in line {number} of {path}", got))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

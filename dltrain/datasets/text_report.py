"""Lines that describe a table of texts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dltrain.datasets.csv_report import describe_csv
from dltrain.datasets.csv_table import Table
from dltrain.datasets.describe import classes_line, count, splits_line
from dltrain.datasets.text_columns import TextTarget
from dltrain.datasets.text_encoder import TextEncoder
from dltrain.datasets.text_file import JSON

NAMES = {"train": "training", "val": "validation", "test": "test"}


def describe_texts(
    table: Table, text: int, target: TextTarget, column: int, encoder: TextEncoder, parts: Mapping[str, Tensor]
) -> list[str]:
    """Return lines about the texts, the vocabulary, the column to predict and the splits."""
    cells = table.columns[text]
    encoded, unknown = [np.array(encoder.encode(word)) for word in cells.words], encoder.tokens.unknown
    lengths = np.array([len(tokens) for tokens in encoded])[cells.codes]
    rows = {NAMES[split]: part.numpy() for split, part in parts.items()}
    lines = [f"{table.path.name}: {count(len(table), 'text')}, {count(len(table.header), 'column')}"]
    lines += [
        f"texts: {table.header[text]}, {lengths.min()} to {lengths.max()} tokens ({lengths.mean():.0f} on average)"
    ]
    share = _unknown(encoded, cells.codes, rows, unknown)
    lines += [f"vocabulary: {encoder.tokens.size:,} {encoder.origin}; {share}"]
    if empty := int((lengths == 0).sum()):
        lines.append(f"{count(empty, 'text')} without a token")
    if cut := int((lengths > encoder.room).sum()):
        lines.append(f"{count(cut, 'text')} truncated to {count(encoder.room, 'token')} (data.max_length)")
    if copies := sum(int(np.isin(cells.codes[part], cells.codes[rows["training"]]).sum()) for part in _held_out(rows)):
        lines.append(
            f"duplicates: {count(copies, 'text')} of the validation and test splits also in the training split"
        )
    lines += _target_lines(table, target, column, rows)
    return [*lines, splits_line({name: len(part) for name, part in rows.items()}, "texts")]


def describe_file(path: str, **settings: Any) -> list[str]:
    """Return lines about the columns of a rejected CSV file; [] for JSON files and folders."""
    file = Path(path).expanduser()
    return [] if file.is_dir() or file.suffix.casefold() in JSON else describe_csv(str(file), **settings)


def _held_out(rows: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return [part for name, part in rows.items() if name != "training"]


def _unknown(encoded: list[np.ndarray], codes: np.ndarray, rows: Mapping[str, np.ndarray], unknown: int | None) -> str:
    held_out = [encoded[code] for part in _held_out(rows) for code in codes[part]]
    missing = sum(int((tokens == unknown).sum()) for tokens in held_out)
    share = missing / max(1, sum(map(len, held_out)))
    return f"{share:.1%} of the tokens of the validation and test splits are unknown"


def _target_lines(table: Table, target: TextTarget, column: int, rows: Mapping[str, np.ndarray]) -> list[str]:
    found = target.encode(table, column)
    if target.classes is None:
        values = table.numbers(column)
        return [f"to predict: {target.name}, numbers from {values.min():g} to {values.max():g}"]
    labels = {name: found["targets"].numpy()[part] for name, part in rows.items()}
    numbers = ", or numbers for task=regression" if target.mean is not None else ""
    return [
        f"to predict: {target.name}, {len(target.classes)} classes{numbers}",
        *classes_line(target.classes, labels),
    ]

"""A user's own table in a CSV file: columns of numbers and words, one of which is predicted."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.data.bad_samples import MAX_BAD_SAMPLES, BadSamples
from dltrain.data.checks import at_least, check_held_out, existing_file, one_of
from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batch
from dltrain.data.spec import Inputs, Source, Spec, Splits
from dltrain.data.splits import held_out_size, permutation
from dltrain.datasets.csv_file import (
    Table,
    csv_errors,
    drop_rows,
    is_missing,
    iterate_tables,
    parse_numbers,
    read_csv,
    reject_missing,
)
from dltrain.datasets.numerics import nonzero_std
from dltrain.datasets.table_columns import fit_column, standardize
from dltrain.errors import ConfigError, format_error

MIN_ROWS = 3
MAX_NUMERIC_CLASSES = 20  # a column of at most this many different whole numbers may also be one of classes
MAX_STRAY_TEXT = 0.1  # up to this fraction of text in a column of numbers counts as errors of the file
UNITS = ("shift", "shift_rest", "scale")


class CsvTable:
    """A CSV file with one example per row. The split is random but fixed.

    Columns of numbers are standardized with the mean and standard deviation of the training rows. Columns of words are
    one-hot over the words of the training rows; unknown words, and missing values with ``missing=mean``, are all zeros.

    A column of words to predict is a set of classes, a column of numbers is a target; a column of at most 20 different
    whole numbers is both: ``targets`` are the classes then, and ``values`` the numbers. Numbers to predict are
    standardized, too: number = normalized * scale + shift + shift_rest, where shift_rest is the rounding error of
    shift; all three are (B, 1).

    Args:
        path: The file; its first line names the columns.
        column: Column to predict; None takes the last one.
        missing: Policy for missing values (empty cells, NA and NaN): ``refuse``, or ``mean`` of the training rows. They
            are always rejected in the column to predict.
        validation: Fraction of the rows to hold out for validation, in [0, 1).
        test: Fraction of the rows to hold out for testing, in (0, 1).
        batch_size: Examples per step, at least 1.
        workers: Unused: the table stays in memory.
        on_bad_sample: Policy for unreadable lines: ``stop`` or ``skip``. A line is unreadable if it has the wrong
            number of cells, is not UTF-8, or has text in a column of numbers.
        max_bad_samples: Lines to skip at most before the run stops anyway, at least 1.
    """

    def __init__(
        self,
        path: str,
        column: str | None = None,
        missing: str = "refuse",
        validation: float = 0.15,
        test: float = 0.15,
        batch_size: int = 64,
        workers: int = 0,
        on_bad_sample: str = "stop",
        max_bad_samples: int = MAX_BAD_SAMPLES,
    ) -> None:
        check_held_out(validation, test)
        self.fill_missing = one_of("data.missing", missing, ("refuse", "mean")) == "mean"
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.bad = BadSamples(on_bad_sample, max_bad_samples)
        table = read_csv(existing_file(path, "an existing CSV file"), bad=self.bad)
        table = drop_rows(table, find_stray_text(table), self.bad)
        table.indices_of(table.header)
        target = table.index_of(column or table.header[-1])
        features = [index for index in range(len(table.header)) if index != target]
        if not features:
            raise ConfigError(format_error("data.path", "a column besides the predicted one", table.header[target]))
        self.parts = _split_rows(table, validation, test)
        train = self.parts[0].numpy()
        self._check_missing(table, features)
        self.columns = [fit_column(table, index, train) for index in features]
        targets, facts = _fit_target(table, target, train)
        self.rows = {"inputs": self._encode(table, features), **targets}
        # One row of what converts a normalized number back; empty for classes.
        self.units: Batch = {name: targets[name][:1] for name in UNITS if name in targets}
        size = self.rows["inputs"].shape[1]
        self.spec = Spec(shape=(size,), size=size, target_names=(table.header[target],), **facts)

    def load(self) -> Splits:
        """Split the rows."""
        sources = (
            Source({name: value[part] for name, value in self.rows.items()}, nn.Identity()) for part in self.parts
        )
        train, val, test = sources
        return Splits(train, val if len(val) else None, test)

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read the rows of CSV files, of which only the columns that the model sees must exist."""
        for file in files.expand("a CSV file"):
            with file.errors_as_input(), csv_errors(file.path), file.open_text() as lines:
                for table in iterate_tables(lines, file.path, files.batch_size):
                    encoded = self._encode(table, table.indices_of([column.name for column in self.columns]))
                    units: Batch = {name: value.expand(len(encoded), 1) for name, value in self.units.items()}
                    names = [{"input": file.name, "line": line} for line in table.lines]
                    yield Inputs({"inputs": encoded, **units}, names)

    def _check_missing(self, table: Table, features: list[int]) -> None:
        if not self.fill_missing:
            reject_missing(table, features, "data.missing=mean replaces them by the mean of the column")

    def _encode(self, table: Table, features: list[int]) -> Tensor:
        """Return the model inputs, (rows, size) in float32."""
        self._check_missing(table, features)
        encoded = [column.encode(table, index) for column, index in zip(self.columns, features, strict=True)]
        return torch.from_numpy(np.concatenate(encoded, axis=1).astype(np.float32))


def find_stray_text(table: Table) -> dict[int, str]:
    """Find text in columns with at least nine numbers in ten cells: row -> what is wrong with it.

    Columns of few different whole numbers are left alone: they may be classes, whose other names may be words.
    """
    found: dict[int, str] = {}
    for column, name in enumerate(table.header):
        values = {row: table.parse_number(cell) for row, cell in enumerate(table.cells(column)) if not is_missing(cell)}
        text = [row for row, value in values.items() if value is None]
        different = {value for value in values.values() if value is not None}
        continuous = len(different) > MAX_NUMERIC_CLASSES or any(value % 1 for value in different)
        if continuous and len(text) <= MAX_STRAY_TEXT * len(values):
            for row in text:
                where = f"a finite number in column {name}, line {table.lines[row]} of {table.path}"
                found.setdefault(row, format_error("data.path", where, table.rows[row][column]))
    return found


def _split_rows(table: Table, validation: float, test: float) -> list[Tensor]:
    """Return the rows of each split."""
    count = len(table.rows)
    if count < MIN_ROWS:
        raise ConfigError(format_error("data.path", f"at least {MIN_ROWS} rows in {table.path}", count))
    held_out = [held_out_size(count, validation), held_out_size(count, test)]
    return list(permutation(count).split([count - sum(held_out), *held_out]))


def _fit_target(table: Table, target: int, train: np.ndarray) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the rows of the column to predict, and its facts."""
    reject_missing(table, [target], "Remove such rows from the file")
    if not table.is_numeric(target):
        names, labels = np.unique(table.cells(target), return_inverse=True)
        return {"targets": torch.from_numpy(labels)}, _class_facts(names.tolist())
    values = parse_numbers(table, target)
    mean, scale = values[train].mean(), float(nonzero_std(values[train]))
    shift = np.float32(mean)
    columns = {
        "values": standardize(values, mean, scale, table, target),
        **dict(zip(UNITS, (shift, mean - shift, scale), strict=True)),
    }
    rows = {
        name: torch.from_numpy(np.broadcast_to(value, len(values)).astype(np.float32))[:, None]
        for name, value in columns.items()
    }
    names, labels = np.unique(values, return_inverse=True)
    if len(names) > MAX_NUMERIC_CLASSES or not (names == names.round()).all():
        return {"targets": rows.pop("values"), **rows}, {"targets": 1}
    facts = {**_class_facts([f"{name:.0f}" for name in names]), "targets": 1}
    return {"targets": torch.from_numpy(labels), **rows}, facts


def _class_facts(names: list[str]) -> dict[str, Any]:
    if len(names) < 2:
        raise ConfigError(format_error("data.column", "a column of at least two different values", names[0]))
    return {"classes": len(names), "class_names": tuple(names)}

"""User-provided table in a CSV file: one column is predicted from columns of numbers, words and dates."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.data.bad_samples import MAX_BAD_SAMPLES, BadSamples
from dltrain.data.checks import at_least, check_held_out, existing_file, one_of
from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Fitted, Inputs, Source, Spec, Splits
from dltrain.data.splits import held_out_size, hold_out_stratified, permutation
from dltrain.datasets.csv_file import Notation, csv_errors, iterate_tables, read_csv
from dltrain.datasets.csv_report import describe_csv
from dltrain.datasets.csv_table import Marks, Table, drop_rows, reject_missing
from dltrain.datasets.describe import classes_line, count, listed, missing_line, splits_line
from dltrain.datasets.table_columns import (
    Column,
    DateColumn,
    NumberColumn,
    WordColumn,
    describe_columns,
    fit_column,
    reason_to_ignore,
)
from dltrain.datasets.table_target import MAX_NUMERIC_CLASSES, TableTarget, are_classes, fit_target
from dltrain.errors import ConfigError, format_error

MIN_ROWS = 3
MAX_STRAY_TEXT = 0.1  # in a column of numbers, text in up to this fraction of the cells with values is an error
KINDS = (NumberColumn, WordColumn, DateColumn)
REASONS = {
    "empty": "no values",
    "identifier": "identifiers",
    "texts": "a different text in most rows",
    "ignore": "data.ignore",
}


class CsvTable:
    """A CSV file with one example per row. The split is random but fixed.

    Columns of numbers are standardized with the mean and standard deviation of the training rows. Columns of words are
    one-hot encoded over the words of the training rows; unknown words, and missing values with ``missing=mean``, are
    all zeros. Dates become the standardized time, and the sine and cosine of the day of the year, of the day of the
    week and, if the column has hours, of the time of day.

    If the predicted column holds words, ``targets`` are class indices. If it holds at most 20 distinct whole numbers,
    ``targets`` are class indices and ``values`` are the numbers. If it holds other numbers, these are ``targets``.
    Numbers to predict are standardized: number = normalized * scale + shift + shift_rest, where ``scale``, ``shift``
    and its rounding error ``shift_rest`` are fields (B, 1).

    Args:
        path: The file.
        column: Column to predict; None for the last column.
        header: Whether the first line names the columns; otherwise they are called column_1, column_2, ...
        decimal: Decimal mark, ``point`` or ``comma``; None infers it from the rows.
        day_first: Whether 05/06/2020 is the fifth of June; None infers it from the rows.
        missing_words: Words that mark a missing value in this file, in addition to NA, null and the like.
        ignore: Columns to leave out: a list of names, or ``auto`` for columns that are empty, identify the rows or
            have a different text in most rows. None leaves nothing out and reads dates as words, as version 0.1 did.
        missing: Policy for missing values: ``refuse``, or ``mean`` of the training rows. They are always rejected in
            the column to predict.
        stratify: Whether the splits have the same fraction of every class, as far as possible.
        validation: Fraction of the rows to hold out for validation, in [0, 1).
        test: Fraction of the rows to hold out for testing, in (0, 1).
        batch_size: Examples per batch, at least 1.
        workers: Unused: the table stays in memory.
        on_bad_sample: Policy for unreadable lines: ``stop`` or ``skip``. A line is unreadable if it has the wrong
            number of cells, is not UTF-8, or has text in a column of numbers.
        max_bad_samples: Maximum number of lines to skip before the run stops, at least 1.
        fitted: Result of `fit` in an earlier run; None fits to the training rows of the file.
    """

    describe_file = staticmethod(describe_csv)

    def __init__(
        self,
        path: str,
        column: str | None = None,
        header: bool = True,
        decimal: str | None = None,
        day_first: bool | None = None,
        missing_words: list[str] | None = None,
        ignore: str | list[str] | None = "auto",
        missing: str = "refuse",
        stratify: bool = True,
        validation: float = 0.15,
        test: float = 0.15,
        batch_size: int = 64,
        workers: int = 0,
        on_bad_sample: str = "stop",
        max_bad_samples: int = MAX_BAD_SAMPLES,
        fitted: Fitted | None = None,
    ) -> None:
        check_held_out(validation, test)
        self.fill_missing = one_of("data.missing", missing, ("refuse", "mean")) == "mean"
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.bad = BadSamples(on_bad_sample, max_bad_samples)
        self.path = path
        self.notation = Notation(header, decimal, tuple(missing_words or ()))
        if fitted is not None:
            self._adopt(fitted)
        else:
            table = self._read()
            self.notation = replace(self.notation, trained_on=table.marks)
            self.table = drop_rows(table, find_stray_text(table, reject_mixed=ignore is not None), self.bad)
            features, target = self._choose_columns(column, ignore)
            self.parts = _split_rows(self.table, target, validation, test, stratify)
            self._fit(features, target, ignore is not None, day_first)
        size = sum(column.width for column in self.columns)
        self.spec = Spec(shape=(size,), size=size, **self.target.facts())
        self.prepare = nn.Identity()

    def _read(self) -> Table:
        return read_csv(existing_file(self.path, "an existing CSV file"), self.notation, self.bad)

    def _choose_columns(self, column: str | None, ignore: str | list[str] | None) -> tuple[list[int], int]:
        """Return the columns to read and the column to predict."""
        table = self.table
        if len(table) < MIN_ROWS:
            raise ConfigError(format_error("data.path", f"at least {MIN_ROWS} rows in {table.path}", len(table)))
        target = table.index_of(column or table.header[-1])
        self.left_out = _columns_to_ignore(table, target, ignore)
        features = [index for index, name in enumerate(table.header) if index != target and name not in self.left_out]
        if not features:
            reasons = listed(f"{name or '(no name)'} ({REASONS[why]})" for name, why in self.left_out.items())
            hint = f"Left out: {reasons}" if reasons else ""
            expected = "a column in addition to the predicted one"
            raise ConfigError(format_error("data.path", expected, table.header[target], hint))
        table.indices_of(table.header[index] for index in [*features, target])
        reject_missing(table, [target], "Remove such rows from the file")
        if ignore is not None and reason_to_ignore(table, target) == "texts":
            expected = "a column of classes or numbers to predict"
            raise ConfigError(format_error("data.column", expected, f"{table.header[target]} ({REASONS['texts']})"))
        return features, target

    def _fit(self, features: list[int], target: int, dates: bool, day_first: bool | None) -> None:
        """Fit the columns on the training rows, and encode all rows."""
        table, train = self.table, self.parts[0].numpy()
        self._check_missing(table, features)
        self.columns: list[Column] = [fit_column(table, index, train, dates, day_first) for index in features]
        self.target = fit_target(table, target, train)
        self.rows = {"inputs": self._encode(table, features), **self.target.rows(table, target)}

    def fit(self) -> Fitted:
        """Return the delimiter, decimal mark and quoting of the file, and the fitted columns and target."""
        marks = self.notation.trained_on
        columns = [[KINDS.index(type(column)), *column] for column in self.columns]
        return {"marks": list(marks or ()), "columns": columns, "target": list(self.target)}

    def _adopt(self, fitted: Fitted) -> None:
        self.notation = replace(self.notation, trained_on=Marks(*fitted["marks"]))
        self.columns = [KINDS[kind](*state) for kind, *state in fitted["columns"]]
        self.target = TableTarget(*fitted["target"])

    def evaluation(self) -> Source:
        """Return all rows of the file. Only the columns that the model reads and the target column are needed."""
        table = self._read()
        used = table.indices_of([*(column.name for column in self.columns), self.target.name])
        columns = [table.columns[index] for index in used]
        table = replace(table, header=[table.header[index] for index in used], columns=columns)
        table = drop_rows(table, find_stray_text(table, reject_mixed=False), self.bad)
        *features, target = range(len(used))
        reject_missing(table, [target], "Remove such rows from the file")
        return Source({"inputs": self._encode(table, features), **self.target.rows(table, target)}, self.prepare)

    def load(self) -> Splits:
        """Return the splits."""
        sources = (
            Source({name: value[part] for name, value in self.rows.items()}, self.prepare) for part in self.parts
        )
        train, val, test = sources
        return Splits(train, val if len(val) else None, test)

    def describe(self) -> list[str]:
        """Return lines about the rows that were read: columns, missing values, classes, splits."""
        table, target = self.table, self.target.name
        lines = [f"{table.path.name}: {count(len(table), 'row')}, {count(len(table.header), 'column')}"]
        lines += [f"{kind}: {listed(names)}" for kind, names in describe_columns(self.columns).items()]
        for reason, why in REASONS.items():
            if names := [name or "(no name)" for name, found in self.left_out.items() if found == reason]:
                lines.append(f"left out: {listed(names)} ({why})")
        lines += missing_line(table, [table.header.index(column.name) for column in self.columns])
        splits = dict(zip(("training", "validation", "test"), self.parts, strict=True))
        if self.spec.class_names is None:
            values = table.numbers(table.index_of(target))
            lines.append(f"to predict: {target}, numbers from {values.min():g} to {values.max():g}")
        else:
            lines.append(f"to predict: {target}, {len(self.spec.class_names)} classes")
            labels = {name: self.rows["targets"][rows].numpy() for name, rows in splits.items()}
            lines += classes_line(self.spec.class_names, labels)
        return [*lines, splits_line({name: len(rows) for name, rows in splits.items()}, "rows, at random")]

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read the rows of CSV files. Only the columns that the model reads are needed."""
        for file in files.expand("a CSV file"):
            with file.errors_as_input(), csv_errors(file.path), file.open_text() as lines:
                for table in iterate_tables(lines, file.path, files.batch_size, self.notation):
                    encoded = self._encode(table, table.indices_of([column.name for column in self.columns]))
                    units = {name: value.expand(len(encoded), 1) for name, value in self.target.units().items()}
                    names = [{"input": file.name, "line": line} for line in table.lines.tolist()]
                    yield Inputs({"inputs": encoded, **units}, names)

    def _check_missing(self, table: Table, features: list[int]) -> None:
        if not self.fill_missing:
            reject_missing(table, features, "data.missing=mean fills them")

    def _encode(self, table: Table, features: list[int]) -> Tensor:
        """Return the model inputs, (rows, size) in float32."""
        self._check_missing(table, features)
        encoded = [column.encode(table, index) for column, index in zip(self.columns, features, strict=True)]
        return torch.from_numpy(np.concatenate(encoded, axis=1).astype(np.float32))


def find_stray_text(table: Table, reject_mixed: bool) -> dict[int, str]:
    """Return an error message for each row with text in a column where at least 90% of the values are numbers.

    Columns with few distinct whole numbers are skipped, because both the numbers and the text may be class names.

    Args:
        table: The file.
        reject_mixed: Whether to reject columns with more text (up to half of the values), if the text has at most 20
            distinct words.
    """
    found: dict[int, str] = {}
    for column, name in enumerate(table.header):
        text, different = np.flatnonzero(table.text_mask(column)), table.different_numbers(column)
        continuous = len(different) > MAX_NUMERIC_CLASSES or (different % 1).any()
        known = len(text) + np.count_nonzero(~np.isnan(table.numbers(column)))
        if not len(text) or not continuous or 2 * len(text) > known:
            continue
        if len(text) <= MAX_STRAY_TEXT * known:
            for row in text.tolist():
                expected = f"a finite number in {table.describe_cell(column, row)}"
                found.setdefault(row, format_error("data.path", expected, table.columns[column][row]))
        elif reject_mixed and len(np.unique(table.columns[column].codes[text])) <= MAX_NUMERIC_CLASSES:
            word = table.columns[column][text[0]]
            got = f"{word} (text in {len(text)} of {len(table)} rows)"
            hint = f"data.missing_words=[{word}] reads it as missing, data.ignore=[{name}] leaves the column out"
            expected = f"only numbers or only words in {table.describe_cell(column, int(text[0]))}"
            raise ConfigError(format_error("data.path", expected, got, hint))
    return found


def _columns_to_ignore(table: Table, target: int, ignore: str | list[str] | None) -> dict[str, str]:
    """Return the columns to leave out, each with the reason; the column to predict is never left out."""
    if isinstance(ignore, list):
        for name in ignore:
            table.index_of(name, "data.ignore")
        return dict.fromkeys((name for name in ignore if name != table.header[target]), "ignore")
    if ignore is None:
        return {}
    if ignore != "auto":
        hint = f"data.ignore=[{ignore}] leaves this column out" if ignore in table.header else ""
        raise ConfigError(format_error("data.ignore", "auto, null or a list of columns", ignore, hint))
    reasons = {name: reason_to_ignore(table, index) for index, name in enumerate(table.header) if index != target}
    return {name: reason for name, reason in reasons.items() if reason}


def _split_rows(table: Table, target: int, validation: float, test: float, stratify: bool) -> list[Tensor]:
    """Return the rows of each split."""
    count = len(table)
    held_out = [held_out_size(count, validation), held_out_size(count, test)]
    labels = torch.from_numpy(np.unique(table.columns[target].codes, return_inverse=True)[1])
    if stratify and 1 < len(labels.unique()) <= max(MAX_NUMERIC_CLASSES, count // 10) and are_classes(table, target):
        rest, tested = hold_out_stratified(labels, test)
        train, val = hold_out_stratified(labels[rest], held_out[0] / len(rest))
        return [rest[train], rest[val], tested]
    return list(permutation(count).split([count - sum(held_out), *held_out]))

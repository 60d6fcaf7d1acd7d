"""Choose the columns of a table of texts, and encode the column to predict."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dltrain.data.splits import held_out_size, hold_out_stratified, permutation
from dltrain.datasets.csv_table import AS_TRAINED, Table, parse_column, reject_missing
from dltrain.datasets.numerics import nonzero_std
from dltrain.datasets.table_columns import reason_to_ignore, standardize
from dltrain.errors import ConfigError, format_error

MAX_NUMERIC_CLASSES = 20  # a column of whole numbers with at most this many distinct values may be classes


def choose_text(table: Table, name: str | None) -> int:
    """Return the column of texts: by name, or the only column in which most distinct cells have three words or more.

    Raises:
        ConfigError: The named column is missing; or no column, or more than one, looks like texts.
    """
    if name is not None:
        return table.index_of(name, "data.text")
    found = [column for column in range(len(table.header)) if _is_text(table, column)]
    if len(found) != 1:
        got = ", ".join(table.header[column] for column in found) or "none"
        hint = f"Set data.text to one of {', '.join(table.header)}"
        raise ConfigError(format_error("data.text", f"one column of texts in {table.path}", got, hint))
    return found[0]


def choose_pair(table: Table, first: str | None, second: str | None) -> tuple[int, int]:
    """Return two columns of texts: by name, or the only two in which most distinct cells have three words or more.

    Raises:
        ConfigError: Only one name is given, both names are the same, a named column is missing, or fewer or more than
            two columns look like texts.
    """
    if first is not None and second is not None and first != second:
        return table.index_of(first, "data.first"), table.index_of(second, "data.second")
    found = [column for column in range(len(table.header)) if _is_text(table, column)]
    if (first, second) != (None, None) or len(found) != 2:
        got = ", ".join(table.header[column] for column in found) or "none"
        got = got if (first, second) == (None, None) else f"{first or 'null'} and {second or 'null'}"
        hint = f"Set data.first and data.second to two of {', '.join(table.header)}"
        raise ConfigError(format_error("data.first", f"two columns of texts in {table.path}", got, hint))
    return found[0], found[1]


def choose_target(table: Table, name: str | None, *texts: int) -> int:
    """Return the column to predict: by name, or the only other nonempty column without identifiers or texts.

    Raises:
        ConfigError: The named column is missing or holds the texts, the column cannot be inferred, or it has missing
            values.
    """
    others = [column for column in range(len(table.header)) if column not in texts]
    found = [column for column in others if not (_is_text(table, column) or reason_to_ignore(table, column))]
    if name is not None:
        found = [table.index_of(name)]
    if len(found) != 1:
        got = ", ".join(table.header[column] for column in found) or "none"
        names = ", ".join(table.header[column] for column in others)
        hint = f"Set data.column to one of {names}" if names else ""
        raise ConfigError(format_error("data.column", f"one column to predict in {table.path}", got, hint))
    if found[0] in texts:
        raise ConfigError(format_error("data.column", "a column other than the texts", table.header[found[0]]))
    reject_missing(table, found, "Remove such rows from the file")
    return found[0]


def _is_text(table: Table, column: int) -> bool:
    words = [word for word in table.columns[column].words if not table.is_missing_word(word)]
    several = sum(len(word.split()) > 2 for word in words)
    return not table.is_numeric(column) and 2 * several > len(words)


@dataclass(frozen=True)
class TextTarget:
    """The column to predict: classes, numbers, or both.

    Args:
        name: Name of the column.
        classes: Names of the classes; None for numbers only.
        threshold: Number that splits values into two classes: at most this number, and above it. None for no threshold.
        mean, scale: Mean and scale of the training rows, used to standardize numbers; None for words.
    """

    name: str
    classes: tuple[str, ...] | None = None
    threshold: float | None = None
    mean: float | None = None
    scale: float | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """Spec values about the target."""
        classes = {"classes": len(self.classes), "class_names": self.classes} if self.classes else {}
        return {**classes, "targets": None if self.mean is None else 1, "target_names": (self.name,)}

    def units(self, count: int) -> dict[str, Tensor]:
        """Return the fields that convert normalized numbers back, (count, 1) each; empty for words."""
        if self.mean is None or self.scale is None:
            return {}
        shift = float(np.float32(self.mean))
        values = {"shift": shift, "shift_rest": self.mean - shift, "scale": self.scale}
        return {name: torch.full((count, 1), value, dtype=torch.float32) for name, value in values.items()}

    def encode(self, table: Table, column: int) -> dict[str, Tensor]:
        """Return ``targets``: class indices, or normalized numbers if there are no classes.

        For a column of numbers, also return `units` and, if there are classes, the normalized numbers as ``values``.
        """
        if self.mean is None or self.scale is None:
            return {"targets": self._classes(table, column, None)}
        values = parse_column(table, column, *AS_TRAINED)
        numbers = standardize(values, self.mean, self.scale, table, column).astype(np.float32)
        rows = {"values": torch.from_numpy(numbers)[:, None], **self.units(len(values))}
        if self.classes is None:
            return {"targets": rows.pop("values"), **rows}
        return {"targets": self._classes(table, column, values), **rows}

    def _classes(self, table: Table, column: int, values: np.ndarray | None) -> Tensor:
        if values is not None and self.threshold is not None:
            return torch.from_numpy((values > self.threshold).astype(np.int64))
        words = table.columns[column].words if values is None else [f"{value:.0f}" for value in values]
        numbers = {name: number for number, name in enumerate(self.classes or ())}
        labels = np.array([numbers.get(word, -1) for word in words], dtype=np.int64)
        labels = labels[table.columns[column].codes] if values is None else labels
        if len(unknown := np.flatnonzero(labels < 0)):
            expected = f"one of the classes ({', '.join(numbers)}) in {table.describe_cell(column, int(unknown[0]))}"
            raise ConfigError(format_error("data.path", expected, table.columns[column][int(unknown[0])]))
        return torch.from_numpy(labels)


def fit_target(table: Table, column: int, train: np.ndarray, threshold: float | None) -> TextTarget:
    """Fit the encoding of the target column: mean and scale on the rows ``train``, classes on all rows.

    Raises:
        ConfigError: There is only one class, all numbers are on one side of the threshold, or a threshold is given for
            a column of words.
    """
    name = table.header[column]
    if not table.is_numeric(column):
        if threshold is not None:
            raise ConfigError(f"data.threshold: not supported because column {name} has words")
        return _checked(TextTarget(name, tuple(sorted(table.columns[column].words))))
    values = parse_column(table, column)
    numbers = {"mean": float(values[train].mean()), "scale": float(nonzero_std(values[train]))}
    if threshold is not None:
        names = (f"up to {threshold:g}", f"above {threshold:g}")
        above = float((values > threshold).mean())
        if above in (0.0, 1.0):
            expected = f"a number from {values.min():g} to below {values.max():g}, the range of column {name}"
            raise ConfigError(format_error("data.threshold", expected, threshold))
        return TextTarget(name, names, threshold, **numbers)
    different = table.different_numbers(column)
    if len(different) <= MAX_NUMERIC_CLASSES and not (different % 1).any():
        return _checked(TextTarget(name, tuple(f"{number:.0f}" for number in different), None, **numbers))
    return TextTarget(name, None, None, **numbers)


def _checked(target: TextTarget) -> TextTarget:
    if len(target.classes or ()) < 2:
        got = f"only {target.classes[0]}" if target.classes else "none"
        raise ConfigError(format_error("data.column", "a column with at least two different values", got))
    return target


def split_rows(labels: np.ndarray | None, count: int, validation: float, test: float) -> list[Tensor]:
    """Return the rows of each split: random but fixed, with the same fraction of each class.

    Args:
        labels: Class of each row; None for no classes.
    """
    held_out = [held_out_size(count, validation), held_out_size(count, test)]
    if labels is None:
        return list(permutation(count).split([count - sum(held_out), *held_out]))
    classes = torch.from_numpy(labels)
    rest, tested = hold_out_stratified(classes, test)
    train, val = hold_out_stratified(classes[rest], held_out[0] / len(rest))
    return [rest[train], rest[val], tested]


def limit_rows(rows: Tensor, labels: Tensor | None, count: int) -> Tensor:
    """Return ``count`` of the training rows, always the same ones, with the same fraction of every class.

    Args:
        labels: Class of each row; None for no classes.

    Raises:
        ConfigError: There are fewer rows.
    """
    if count > len(rows):
        expected = f"a whole number from 1 to {len(rows):,}, the number of training texts"
        raise ConfigError(format_error("data.num_labels", expected, count))
    if labels is None:
        return rows[permutation(len(rows))[:count]]
    return rows[hold_out_stratified(labels, count / len(rows))[1]]

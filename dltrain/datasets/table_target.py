"""The column of a table to predict: classes, numbers, or whole numbers that can be both."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dltrain.data.loader import Batch
from dltrain.datasets.csv_table import AS_TRAINED, Table, parse_column
from dltrain.datasets.numerics import nonzero_std
from dltrain.datasets.table_columns import standardize
from dltrain.errors import ConfigError, format_error, suggest

MAX_NUMERIC_CLASSES = 20  # a column of whole numbers with at most this many distinct values may be classes


class TableTarget(NamedTuple):
    """The column to predict: its classes in all rows, and the scale of its numbers in the training rows.

    Args:
        name: Name of the column.
        words: Words that are classes, in order; None for numbers.
        numbers: Whole numbers that can be classes, in order; None for words, and for numbers that are not classes.
        mean: Mean of the numbers in the training rows.
        scale: Standard deviation of the numbers in the training rows; 1 if they are all equal.
    """

    name: str
    words: list[str] | None = None
    numbers: list[float] | None = None
    mean: float = 0.0
    scale: float = 1.0

    def facts(self) -> dict[str, Any]:
        """Return the spec values that describe this column."""
        facts: dict[str, Any] = {"target_names": (self.name,)}
        if self.words is None:
            facts["targets"] = 1
        if (names := self.class_names()) is not None:
            facts |= {"classes": len(names), "class_names": tuple(names)}
        return facts

    def class_names(self) -> list[str] | None:
        """Return the names of the classes, or None for numbers that are not classes."""
        return self.words if self.numbers is None else [f"{number:.0f}" for number in self.numbers]

    def units(self) -> Batch:
        """Return the fields that convert a normalized number back, (1, 1) each; empty for words."""
        if self.words is not None:
            return {}
        shift = float(np.float32(self.mean))
        fields = {"shift": shift, "shift_rest": self.mean - shift, "scale": self.scale}
        return {name: torch.tensor([[value]], dtype=torch.float32) for name, value in fields.items()}

    def rows(self, table: Table, column: int) -> dict[str, Tensor]:
        """Return ``targets``; for numbers also `units` and, if they can be classes, ``values``.

        A number that is not a class has the class -1.

        Raises:
            ConfigError: A cell holds a word that is not one of the classes, text in a column of numbers, or a number
                beyond the range of float32 after standardization.
        """
        if self.words is not None:
            return {"targets": torch.from_numpy(self._classes_of_words(table, column))}
        values = parse_column(table, column, *AS_TRAINED)
        normalized = standardize(values, self.mean, self.scale, table, column).astype(np.float32)
        units = {name: value.expand(len(values), 1).contiguous() for name, value in self.units().items()}
        numbers = torch.from_numpy(normalized)[:, None]
        if self.numbers is None:
            return {"targets": numbers, **units}
        known = np.array(self.numbers)
        labels = np.searchsorted(known, values).clip(max=len(known) - 1)
        labels[known[labels] != values] = -1
        return {"targets": torch.from_numpy(labels), "values": numbers, **units}

    def _classes_of_words(self, table: Table, column: int) -> np.ndarray:
        cells = table.columns[column]
        order = {word: number for number, word in enumerate(self.words or ())}
        classes = np.array([order.get(word, -1) for word in cells.words], dtype=np.int64)[cells.codes]
        if len(unknown := np.flatnonzero(classes < 0)):
            row = int(unknown[0])
            expected = f"one of the classes ({', '.join(order)}) in {table.describe_cell(column, row)}"
            raise ConfigError(format_error("data.path", expected, cells[row], suggest(cells[row], list(order))))
        return classes


def fit_target(table: Table, column: int, train: np.ndarray) -> TableTarget:
    """Fit the column to predict: its mean and scale on the rows ``train``, its classes on all rows."""
    name = table.header[column]
    if not table.is_numeric(column):
        cells = table.columns[column]
        words = sorted({cells.words[code] for code in np.unique(cells.codes)})
        _check_classes(words)
        return TableTarget(name, words)
    values = parse_column(table, column)
    numbers = np.unique(values).tolist() if are_classes(table, column) else None
    if numbers is not None:
        _check_classes([f"{number:.0f}" for number in numbers])
    return TableTarget(name, None, numbers, float(values[train].mean()), float(nonzero_std(values[train])))


def are_classes(table: Table, column: int) -> bool:
    """Return whether the column to predict holds words, or at most `MAX_NUMERIC_CLASSES` distinct whole numbers."""
    if not table.is_numeric(column):
        return True
    names = table.different_numbers(column)
    return len(names) <= MAX_NUMERIC_CLASSES and bool((names == names.round()).all())


def _check_classes(names: list[str]) -> None:
    if len(names) < 2:
        raise ConfigError(
            format_error("data.column", "a column with at least two different values", f"only {names[0]}")
        )

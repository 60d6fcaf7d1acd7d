"""Labels in arrays: classes as numbers or one-hot vectors, or numbers to predict."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.data.loader import Batch
from dltrain.datasets.class_counts import format_class_counts, shorten_names
from dltrain.errors import ConfigError, format_error

MIN_REPEATS = 2  # minimum average number of examples per class; numbers that repeat less often are not classes
SIGNS = [-1, 1]  # the only classes that include a negative number; elsewhere, -1 often marks a missing label
MAX_EXACT = 2**24  # float32 represents all whole numbers up to this


@dataclass(frozen=True)
class Labels:
    """Meaning of the labels of the training and test examples.

    Args:
        classes: The numbers that are classes, in ascending order; None if the labels are only numbers to predict.
        one_hot: Whether each label is a one-hot vector.
        targets: Number of values per example for regression; None if the labels are integer classes.
    """

    classes: np.ndarray | None
    one_hot: bool = False
    targets: int | None = None

    @property
    def width(self) -> int:
        """Number of values in the label of an example."""
        return len(self.classes) if self.one_hot and self.classes is not None else self.targets or 1

    def state(self) -> list[Any]:
        """Return the values from which `from_state` restores the labels."""
        return [None if self.classes is None else self.classes.tolist(), self.one_hot, self.targets]

    @classmethod
    def from_state(cls, classes: list[int] | None, one_hot: bool, targets: int | None) -> "Labels":
        """Restore the labels of an earlier run."""
        return cls(None if classes is None else np.array(classes, dtype=np.int64), one_hot, targets)

    def facts(self) -> dict[str, Any]:
        """Return the spec values about the targets."""
        names = None if self.classes is None else tuple(str(int(number)) for number in self.classes)
        return {"classes": names and len(names), "class_names": names, "targets": self.targets}

    def rows(self, y: np.ndarray) -> Tensor:
        """Return the labels as float32 (N, targets), or as class indices, int64 (N,), if ``targets`` is None."""
        if self.targets is not None:
            return torch.from_numpy(y.astype(np.float32)).reshape(len(y), -1)
        return torch.from_numpy(self.indices(y))

    def indices(self, y: np.ndarray) -> np.ndarray:
        """Return the index of the class of each example, (N,) in int64; -1 for a number that is not a class."""
        assert self.classes is not None
        if self.one_hot:
            return y.argmax(1)
        values = y.reshape(-1)
        found = np.searchsorted(self.classes, values).clip(max=len(self.classes) - 1).astype(np.int64)
        return np.where(self.classes[found] == values, found, -1)

    def prepare(self, pixels: nn.Module) -> nn.Module:
        """Return the module that prepares a batch: `pixels`, then `ClassTargets` if the classes are floats."""
        if self.classes is None or self.targets is None:
            return pixels
        return nn.Sequential(pixels, ClassTargets(None if self.one_hot else torch.from_numpy(self.classes).float()))

    def describe(self, train: np.ndarray, test: np.ndarray) -> list[str]:
        """Return lines about the labels: examples per class, and the mapping of labels to classes."""
        if self.classes is None:
            return [f"labels: {self.targets} number{'s' * (self.targets != 1)} to predict per example"]
        counts, tested = Counter(self.indices(train).tolist()), set(self.indices(test).tolist())
        names = [f"{number:.0f}" for number in self.classes]
        lines = [f"classes in y_train: {format_class_counts(counts, names)}"]
        if self.one_hot:
            lines.append(f"labels: one-hot, {len(names)} columns")
        elif names != [str(number) for number in range(len(names))]:
            mapped = f"{shorten_names(names)} are mapped to class indices 0 to {len(names) - 1}"
            lines.append(f"labels: {mapped}; class names are the labels")
        if self.targets is not None:
            lines.append("labels are floats: task=regression predicts them as numbers")
        if unseen := [name for number, name in enumerate(names) if not counts[number]]:
            where = " (only in y_test)" if tested >= {names.index(name) for name in unseen} else ""
            lines.append(f"no training example of class {shorten_names(unseen)}{where}")
        return lines


def find_labels(train: np.ndarray, test: np.ndarray, path: Path) -> Labels:
    """Return the meaning of the labels of a file.

    Raises:
        ConfigError: The labels are neither classes nor numbers to predict.
    """
    both, numeric = (train, test), all(y.dtype.kind in "fiub" for y in (train, test))
    is_float = any(y.dtype.kind == "f" for y in both)
    if numeric and train.shape[1:] == test.shape[1:] and all(map(_is_one_hot, both)):
        columns = train.shape[1]
        return Labels(np.arange(columns), one_hot=True, targets=columns if is_float else None)
    if numeric and all(y.size == len(y) > 0 for y in both):
        values = np.concatenate([y.reshape(-1) for y in both])
        numbers = np.unique(values)
        repeats = len(values) >= MIN_REPEATS * len(numbers)
        classes = numbers.astype(np.int64) if _are_classes(numbers, is_float) and repeats else None
        if is_float or not repeats or classes is not None:
            return Labels(classes, targets=1 if is_float or classes is None else None)
    elif numeric and is_float and len(train):
        return Labels(None, targets=train.reshape(len(train), -1).shape[1])
    expected = "class numbers of at least 0 (or -1 and 1), one-hot vectors or floats in y_train and y_test"
    raise ConfigError(format_error("data.path", f"{expected} of {path}", f"{_summary(train)} and {_summary(test)}"))


def _summary(y: np.ndarray) -> str:
    limits = f" from {y.min()} to {y.max()}" if y.dtype.kind in "iu" and y.size else ""
    return f"{y.dtype} with shape {y.shape}{limits}"


def _is_one_hot(y: np.ndarray) -> bool:
    return y.ndim == 2 and y.shape[1] > 1 and bool(((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all())


def _are_classes(numbers: np.ndarray, is_float: bool) -> bool:
    """Return whether distinct numbers, in ascending order, can be classes."""
    if not np.isfinite(numbers).all() or (numbers % 1).any() or (is_float and not len(numbers) >= 2):
        return False
    exact = not is_float or numbers[-1] < MAX_EXACT
    return bool(exact and (numbers[0] >= 0 or numbers.tolist() == SIGNS))


class ClassTargets(nn.Module):
    """Module that converts targets to class indices and keeps the original targets as ``values``.

    The index is -1 for a number that is not a class.

    Args:
        numbers: The numbers that are classes, in ascending order; None if targets are one-hot.

    Shape:
        targets (B, K) in float32 -> targets (B,) in int64, values (B, K)
    """

    numbers: Tensor | None

    def __init__(self, numbers: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("numbers", numbers)

    def forward(self, batch: Batch) -> Batch:
        """Convert the targets, if there are any."""
        values = batch.get("targets")
        if values is None:
            return batch
        if self.numbers is None:
            return {**batch, "targets": values.argmax(1), "values": values}
        found = torch.searchsorted(self.numbers, values.flatten()).clamp(max=len(self.numbers) - 1)
        found = torch.where(self.numbers[found] == values.flatten(), found, -1)
        return {**batch, "targets": found, "values": values}

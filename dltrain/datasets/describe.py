"""Lines that describe how a data set read its files."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dltrain.datasets.csv_table import Table

LISTED = 8  # maximum number of names in a list


def listed(names: Iterable[str]) -> str:
    """Join the first `LISTED` names with commas, and count the others."""
    names = list(names)
    more = len(names) - LISTED
    return ", ".join(names[:LISTED] + ([f"and {more} more"] if more > 0 else []))


def count(number: int, noun: str) -> str:
    """Return a number and its noun, which is plural unless the number is 1."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def missing_line(table: Table, columns: Iterable[int]) -> list[str]:
    """Return a line with the number of missing values per column, or an empty list if no value is missing."""
    counts = {table.header[column]: int(table.missing_mask(column).sum()) for column in columns}
    found = [f"{name or '(no name)'} {number:,}" for name, number in counts.items() if number]
    return [f"missing values: {listed(found)}"] if found else []


def classes_line(names: Sequence[str], splits: Mapping[str, np.ndarray]) -> list[str]:
    """Return a line with the number of examples per class, and a warning for each non-empty split that lacks a class.

    Args:
        names: The classes.
        splits: Name of each split -> class indices of its examples.
    """
    counts = {name: np.bincount(labels, minlength=len(names)) for name, labels in splits.items()}
    total = np.sum(list(counts.values()), axis=0)
    lines = [f"classes: {listed(f'{name} ({number:,})' for name, number in zip(names, total, strict=True))}"]
    for split, numbers in counts.items():
        absent = [name for name, number in zip(names, numbers, strict=True) if not number]
        if absent and numbers.sum():
            lines.append(f"warning: no example of {listed(absent)} in the {split} split")
    return lines


def splits_line(sizes: Mapping[str, int], noun: str) -> str:
    """Return a line with the size of each split."""
    return f"splits: {', '.join(f'{size:,} {name}' for name, size in sizes.items())} ({noun})"

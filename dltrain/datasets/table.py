"""A user's own table in a CSV file: numbers and words in columns, one of which is predicted."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.data.bad_samples import MOST, BadSamples
from dltrain.data.checks import at_least, file, fractions, one_of
from dltrain.data.inputs import Given
from dltrain.data.loader import Batch
from dltrain.data.spec import Inputs, Source, Spec, Splits
from dltrain.data.splits import permutation, share
from dltrain.datasets.csv_file import LARGEST, Table, is_hole, numbers, read, readable, refuse_holes, tables, without
from dltrain.datasets.exact import deviation
from dltrain.datasets.slips import FEW_CLASSES, slips
from dltrain.errors import ConfigError, format_error

MOST_WORDS = 1000
FEWEST_ROWS = 3
UNITS = ("shift", "shift_rest", "scale")


class CsvTable:
    """A CSV file with one example per row; which rows are held out is random but always the same.

    Columns of numbers are standardised with the mean and deviation of the training part. Columns of words become one
    column of 0 and 1 per word of the training part; another word, and a hole under ``holes=mean``, is a row of zeros.
    A column of words to predict is a set of classes; a column of numbers is a number to predict; a column of at most
    20 different whole numbers is both: a batch's ``targets`` are the classes and its ``values`` the numbers. Numbers to
    predict are standardised as well: number = normalised * scale + shift + shift_rest, with these (B, 1) beside; the
    last is what rounding took from the shift.

    Args:
        path: The file; its first line names the columns.
        column: What is predicted; None takes the last column.
        missing: What to do with empty cells, NA and NaN: ``refuse``, or ``mean`` of the training part. A hole in the
            predicted column is always refused.
        validation: Fraction of the rows that is held out for validation.
        test: Fraction of the rows that is held out for the test.
        batch_size: Examples per step.
        workers: Not needed here: the table stays in memory.
        on_bad_sample: What to do about a line that cannot be read: ``stop``, or ``skip`` to go on without it. Such a
            line has too few or too many cells, is no UTF-8, or has text where the column otherwise holds numbers.
        max_bad_samples: How many are skipped at most; one more stops the run.
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
        max_bad_samples: int = MOST,
    ) -> None:
        fractions(validation, test)
        self.fill = one_of("data.missing", missing, ("refuse", "mean")) == "mean"
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.bad = BadSamples(on_bad_sample, max_bad_samples)
        table = read(file(path, "an existing CSV file"), bad=self.bad)
        table = without(table, slips(table), self.bad)
        table.places(table.header)
        target = table.place(column or table.header[-1])
        places = [place for place in range(len(table.header)) if place != target]
        if not places:
            raise ConfigError(format_error("data.path", "a column besides the predicted one", table.header[target]))
        self.parts = _parts(table, validation, test)
        train = self.parts[0].numpy()
        self._refuse_holes(table, places)
        self.columns = [_fitted(table, place, train) for place in places]
        answers, facts = _answers(table, target, train)
        self.rows = {"inputs": self._seen(table, places), **answers}
        # One row of what turns a normalised answer into a number; of classes there is nothing to restore.
        self.units: Batch = {name: answers[name][:1] for name in UNITS if name in answers}
        size = self.rows["inputs"].shape[1]
        self.spec = Spec(shape=(size,), size=size, target_names=(table.header[target],), **facts)

    def load(self) -> Splits:
        """Cut the rows into the three parts."""
        train, val, test = ({name: value[part] for name, value in self.rows.items()} for part in self.parts)
        return as_they_are(train, val, test)

    def inputs(self, given: Given) -> Iterator[Inputs]:
        """Read the rows of a user's CSV files; of their columns only those that the model sees."""
        for found in given.files("a CSV file"):
            with found.blamed(), readable(found.path), found.lines() as lines:
                for table in tables(lines, found.path, given.batch):
                    seen = self._seen(table, table.places([column.name for column in self.columns]))
                    units: Batch = {name: value.expand(len(seen), 1) for name, value in self.units.items()}
                    names = [{"input": found.name, "line": line} for line in table.lines]
                    yield Inputs({"inputs": seen, **units}, names)

    def _refuse_holes(self, table: Table, places: list[int]) -> None:
        if not self.fill:
            refuse_holes(table, places, "data.missing=mean puts the mean of the column there")

    def _seen(self, table: Table, places: list[int]) -> Tensor:
        """All columns as a model sees them, (rows, size) in float32."""
        self._refuse_holes(table, places)
        blocks = [column.block(table, place) for column, place in zip(self.columns, places, strict=True)]
        return torch.from_numpy(np.concatenate(blocks, axis=1).astype(np.float32))


class Ready(nn.Module):
    """Rows that are stored as the task reads them."""

    def forward(self, rows: Batch) -> Batch:
        """Pass the rows on."""
        return dict(rows)


def as_they_are(train: Batch, val: Batch, test: Batch) -> Splits:
    """Three sources of rows that need no preparation; no validation where it has no rows."""
    sources = [Source(rows, Ready()) for rows in (train, val, test)]
    return Splits(sources[0], sources[1] if len(sources[1]) else None, sources[2])


def _parts(table: Table, validation: float, test: float) -> list[Tensor]:
    """Which rows train, validate and test."""
    count = len(table.rows)
    if count < FEWEST_ROWS:
        raise ConfigError(format_error("data.path", f"at least {FEWEST_ROWS} rows in {table.path}", count))
    held = [share(count, validation), share(count, test)]
    return list(permutation(count).split([count - sum(held), *held]))


class Numbers(NamedTuple):
    """A column of numbers as a model sees it: less its mean in training, in units of its deviation there."""

    name: str
    mean: float
    scale: float

    def block(self, table: Table, place: int) -> np.ndarray:
        """(rows, 1); 0 in a hole.

        Raises:
            ConfigError: A cell holds text, or is so far from the mean that float32 cannot say it.
        """
        values = numbers(table, place, "This column holds numbers in training")
        return np.nan_to_num(_standardised(values, self.mean, self.scale, table, place), nan=0.0)[:, None]


def _standardised(values: np.ndarray, mean: float, scale: float, table: Table, place: int) -> np.ndarray:
    """A column less its mean in training, in units of its deviation there; refused where float32 cannot say it."""
    found = (values - mean) / scale
    far = np.flatnonzero(np.abs(found) > LARGEST)
    if len(far):
        row = int(far[0])
        where = f"column {table.header[place]}, line {table.lines[row]} of {table.path}"
        raise ConfigError(
            format_error("data.column", f"a number like those of training in {where}", table.rows[row][place])
        )
    return found


class Words(NamedTuple):
    """A column of words as a model sees it: which of those in training it is."""

    name: str
    places: dict[str, int]

    def block(self, table: Table, place: int) -> np.ndarray:
        """(rows, words) of 0 and 1; a row of zeros for another word, and for a hole."""
        block = np.zeros((len(table.rows), len(self.places)), dtype=np.float32)
        for row, cell in enumerate(table.cells(place)):
            if cell in self.places:
                block[row, self.places[cell]] = 1.0
        return block


Column = Numbers | Words


def _fitted(table: Table, place: int, train: np.ndarray) -> Column:
    """What the training part says about one column."""
    name = table.header[place]
    if not table.numeric(place):
        return Words(name, _known_words(table, place, train))
    values = numbers(table, place)
    known = values[train][~np.isnan(values[train])]
    if not len(known):
        got = "holes only"
        raise ConfigError(format_error("data.path", f"a number in the training part of {name}", got))
    return Numbers(name, known.mean(), float(deviation(known)))


def _known_words(table: Table, place: int, train: np.ndarray) -> dict[str, int]:
    cells = table.cells(place)
    words = sorted({cells[row] for row in train if not is_hole(cells[row])})
    if len(words) > MOST_WORDS:
        expected = f"at most {MOST_WORDS:,} different words in column {table.header[place]} of {table.path}"
        raise ConfigError(format_error("data.path", expected, f"{len(words):,}", "Take the column out of the file"))
    return {word: number for number, word in enumerate(words)}


def _answers(table: Table, target: int, train: np.ndarray) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What is predicted, and the facts of it."""
    refuse_holes(table, [target], "Take such rows out of the file")
    if not table.numeric(target):
        names, labels = np.unique(table.cells(target), return_inverse=True)
        return {"targets": torch.from_numpy(labels)}, _classes(names.tolist())
    values = numbers(table, target)
    mean, scale = values[train].mean(), float(deviation(values[train]))
    shift = np.float32(mean)
    units = dict(zip(UNITS, (shift, mean - shift, scale), strict=True))
    numbers_of = {
        name: torch.from_numpy(np.broadcast_to(value, len(values)).astype(np.float32))[:, None]
        for name, value in (("values", _standardised(values, mean, scale, table, target)), *units.items())
    }
    names, labels = np.unique(values, return_inverse=True)
    if len(names) > FEW_CLASSES or not (names == names.round()).all():
        return {"targets": numbers_of.pop("values"), **numbers_of}, {"targets": 1}
    facts = {**_classes([f"{name:.0f}" for name in names]), "targets": 1}
    return {"targets": torch.from_numpy(labels), **numbers_of}, facts


def _classes(names: list[str]) -> dict[str, Any]:
    if len(names) < 2:
        raise ConfigError(format_error("data.column", "a column of at least two different values", names[0]))
    return {"classes": len(names), "class_names": tuple(names)}

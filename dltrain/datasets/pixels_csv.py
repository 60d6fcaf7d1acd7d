"""Small gray images in the rows of a CSV file, such as the faces of FER-2013."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from dltrain.data.bad_samples import MAX_BAD_SAMPLES, BadSamples
from dltrain.data.checks import at_least, check_class_names, check_held_out, existing_file
from dltrain.data.inputs import STANDARD_INPUT, InputFile, InputFiles
from dltrain.data.spec import Fitted, Inputs, Source, Splits
from dltrain.data.splits import hold_out_stratified
from dltrain.datasets.array_inputs import Example, stack_examples
from dltrain.datasets.class_counts import format_class_counts
from dltrain.datasets.image_inputs import SUFFIXES, examples_of_file
from dltrain.datasets.images import ImageTransform, Rows, image_spec, select_rows
from dltrain.datasets.pixel_rows import Columns, PixelRow, read_rows
from dltrain.errors import ConfigError, format_error, shorten

USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
TABLES = (".csv", ".tsv", ".txt")


class PixelsCsv:
    """A CSV file with a class, a square gray image as text, and a split in each row.

    ``Training`` rows are the training split, ``PublicTest`` rows the validation split, ``PrivateTest`` rows the test
    split. A split without rows is held out from the training rows, with the same fraction of each class.

    Args:
        path: The file.
        column: Column of classes: words or whole numbers.
        pixels: Column of gray values from 0 to 255, separated by spaces, row by row from the top.
        usage: Column of splits; None if there is none.
        class_names: Names of the classes 0, 1, ...; None uses the values of the column in the training rows.
        validation: Fraction to hold out of the training rows that remain after the test split, in [0, 1); unused if
            there are ``PublicTest`` rows.
        test: Fraction of the training rows to hold out for testing, in (0, 1); unused if there are ``PrivateTest``
            rows.
        mean: Subtracted from the pixels, on the scale from 0 (black) to 1 (white).
        std: Divisor after the subtraction, above 0.
        augment: Random changes in training; see `dltrain.datasets.images.ImageTransform`.
        batch_size: Examples per batch, at least 1.
        workers: Unused: the images stay in memory.
        on_bad_sample: Policy for rows that cannot be read: ``stop`` or ``skip``.
        max_bad_samples: Maximum number of rows to skip before the run stops, at least 1.
        fitted: Result of `fit` in an earlier run; None reads classes and size from the file.
    """

    def __init__(
        self,
        path: str,
        column: str = "emotion",
        pixels: str = "pixels",
        usage: str | None = "Usage",
        class_names: list[str] | None = None,
        validation: float = 0.15,
        test: float = 0.15,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 0.25,
        augment: dict[str, Any] | list[str] | None = None,
        batch_size: int = 64,
        workers: int = 0,
        on_bad_sample: str = "stop",
        max_bad_samples: int = MAX_BAD_SAMPLES,
        fitted: Fitted | None = None,
    ) -> None:
        check_held_out(validation, test)
        self.path, self.columns = path, Columns(pixels, column, usage)
        self.fractions = {"test": test, "val": validation}
        self.transform = ImageTransform(1, mean, std, augment)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.bad = BadSamples(on_bad_sample, max_bad_samples)
        self.parts: dict[str, Rows] = {}
        if fitted is None:
            rows = self._read()
            self.side = len(rows[0].pixels)
            parts = self._divide(rows)
            check_class_names(class_names)
            self.values = _find_values(parts["train"], class_names)
            self.names = list(class_names or self.values)
            self.parts = {split: self._rows(part) for split, part in parts.items()}
        else:
            self.values, self.names = list(fitted["values"]), list(fitted["names"])
            self.side = int(fitted["side"])
        self.prepare = self.transform.scaling()
        self.spec = self.transform.add_bounds(image_spec(1, self.side, self.side, self.names))

    def _read(self, columns: Columns | None = None, side: int | None = None) -> list[PixelRow]:
        path = existing_file(self.path, "an existing CSV file")
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = list(read_rows(lines, path, columns or self.columns, self.bad, side))
        if not rows:
            raise ConfigError(format_error("data.path", f"rows of images in {path}", "none"))
        return rows

    def _divide(self, rows: list[PixelRow]) -> dict[str, list[PixelRow]]:
        """Return the rows of each split that has rows."""
        if self.columns.usage is None:
            return {"train": rows}
        parts: dict[str, list[PixelRow]] = {}
        for row in rows:
            if row.usage not in USAGES:
                expected = f"one of {', '.join(USAGES)} in line {row.line} of {self.path}"
                self.bad.add(format_error("data.path", expected, row.usage or "nothing"))
            else:
                parts.setdefault(USAGES[row.usage], []).append(row)
        if "train" not in parts:
            raise ConfigError(format_error("data.path", f"Training rows in {self.path}", "none"))
        return parts

    def _rows(self, rows: Sequence[PixelRow]) -> Rows:
        """Return ``pixels`` (N, 1, side, side) in uint8 and ``labels`` (N,) in int64."""
        numbers, labels, kept = {value: number for number, value in enumerate(self.values)}, [], []
        for row in rows:
            if row.label in numbers:
                labels.append(numbers[row.label])
                kept.append(row.pixels)
            else:
                expected = f"one of the classes ({shorten(', '.join(self.values))}) in line {row.line} of {self.path}"
                self.bad.add(format_error("data.path", expected, row.label or "nothing"))
        pixels = np.stack(kept) if kept else np.empty((0, self.side, self.side), np.uint8)
        return {"pixels": torch.from_numpy(pixels)[:, None], "labels": torch.tensor(labels, dtype=torch.int64)}

    def fit(self) -> Fitted:
        """Return the values and names of the classes, and the size of the images."""
        return {"values": list(self.values), "names": list(self.names), "side": self.side}

    def evaluation(self) -> Source:
        """Return all rows of the file, from all splits."""
        rows = self._read(self.columns._replace(usage=None), self.side)
        return Source(self._rows(rows), self.prepare)

    def load(self) -> Splits:
        """Return the splits; splits without rows are held out from the training rows."""
        for split, fraction in self.fractions.items():
            if split not in self.parts:
                train = self.parts["train"]
                kept, held_out = hold_out_stratified(train["labels"], fraction)
                self.parts |= {"train": select_rows(train, kept), split: select_rows(train, held_out)}
        train, val, test = (self.parts[split] for split in ("train", "val", "test"))
        return self.transform.splits(train, val, test, len(self.names))

    def describe(self) -> list[str]:
        """Return lines about the rows that were read: splits, size, classes."""
        labels = torch.cat([part["labels"] for part in self.parts.values()]).tolist()
        sizes = ", ".join(f"{split} {len(self.parts[split]['labels']):,}" for split in ("train", "val", "test"))
        return [
            f"{len(labels):,} images of {self.side} x {self.side} pixels in {self.path}: {sizes}",
            f"classes: {format_class_counts(labels, self.names)}",
        ]

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read CSV files with a column of pixels, image files and arrays."""
        return stack_examples(self._examples(files), files.batch_size, "pixels")

    def _examples(self, files: InputFiles) -> Iterator[Example]:
        for file in files.expand("CSV files with a column of pixels, or image files", (*TABLES, *SUFFIXES)):
            with file.errors_as_input():
                if file.suffix in TABLES or file.name == STANDARD_INPUT:
                    yield from self._examples_of_table(file)
                else:
                    yield from examples_of_file(file, self.transform, (1, self.side, self.side))

    def _examples_of_table(self, file: InputFile) -> Iterator[Example]:
        with file.open_text() as lines:
            for row in read_rows(lines, file.path, Columns(self.columns.pixels), side=self.side):
                yield {"input": file.name, "line": row.line}, self.transform.to_stored_scale(row.pixels[None])


def _find_values(rows: Sequence[PixelRow], names: list[str] | None) -> list[str]:
    """Return the value of each class in the column: 0, 1, ... if `names` are given, otherwise the values in `rows`."""
    if names:
        return [str(number) for number in range(len(names))]
    values = {row.label for row in rows} - {""}
    return sorted(values, key=lambda value: (not _is_number(value), int(value) if _is_number(value) else 0, value))


def _is_number(value: str) -> bool:
    return value.removeprefix("-").isdecimal()

"""The bundled handwritten digits of 8x8 pixels."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dltrain.data.checks import at_least, check_fraction
from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Inputs, Splits
from dltrain.data.splits import hold_out_stratified
from dltrain.datasets.image_inputs import read_images
from dltrain.datasets.images import ImageTransform, image_spec, limit_labels, select_rows

BUNDLED = Path(__file__).parent / "bundled" / "digits.csv.gz"
WHITE = 16.0
TEST = 250


@functools.cache
def read_table() -> Tensor:
    """Return the digits, uint8 (1797, 65): 64 pixels from 0 to 16, then the class. Cached: do not modify the result."""
    return torch.from_numpy(np.loadtxt(BUNDLED, delimiter=",", dtype=np.uint8))


class Digits:
    """1,797 handwritten digits of 8x8 pixels in 10 classes; a fixed set of 250, about 25 per class, is the test split.

    Args:
        validation: Fraction of the other 1,547 images to hold out, in [0, 1).
        num_labels: Number of training examples that keep their label, at least 1; None keeps all.
        mean: Subtracted from the pixels, on the scale from 0 (black) to 1 (white).
        std: Divisor after the subtraction, above 0.
        augment: Random changes in training; see `dltrain.datasets.images.ImageTransform`.
        batch_size: Examples per batch, at least 1.
        workers: Unused: the images stay in memory.

    Source: Alpaydin, Kaynak 1998, "Optical recognition of handwritten digits", UCI (test set only).
    """

    def __init__(
        self,
        validation: float = 0.16,
        num_labels: int | None = None,
        mean: float | list[float] = 0.305,
        std: float | list[float] = 0.376,
        augment: dict[str, Any] | list[str] | None = None,
        batch_size: int = 64,
        workers: int = 0,
    ) -> None:
        self.validation = check_fraction("data.validation", validation)
        self.num_labels = None if num_labels is None else at_least("data.num_labels", num_labels, 1)
        self.transform = ImageTransform(1, mean, std, augment, WHITE)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.prepare = self.transform.scaling()
        self.spec = self.transform.add_bounds(image_spec(1, 8, 8, [str(digit) for digit in range(10)]))

    def load(self) -> Splits:
        """Return the splits."""
        table = read_table()
        rows = {"pixels": table[:, :64].reshape(-1, 1, 8, 8), "labels": table[:, 64].contiguous()}
        rest, test = hold_out_stratified(rows["labels"], TEST / len(table))
        train, val = hold_out_stratified(rows["labels"][rest], self.validation)
        parts = self.transform.splits(
            select_rows(rows, rest[train]), select_rows(rows, rest[val]), select_rows(rows, test), self.spec.classes
        )
        return limit_labels(parts, self.num_labels)

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read image files and arrays."""
        return read_images(files, self.transform, (1, 8, 8))

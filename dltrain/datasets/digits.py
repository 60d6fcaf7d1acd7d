"""The 8x8 handwritten digits that come with the package."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dltrain.data.checks import at_least, fraction
from dltrain.data.inputs import Given
from dltrain.data.spec import Inputs, Splits
from dltrain.data.splits import hold_out_of_each
from dltrain.datasets.image_inputs import picture_inputs
from dltrain.datasets.images import Look, answered, picked, picture_facts

BUNDLED = Path(__file__).parent / "bundled" / "digits.csv.gz"
WHITE = 16.0
TEST = 250


class Digits:
    """1,797 pictures of 8x8 pixels, 10 classes; always the same 250 of them, about 25 of each class, are the test.

    Args:
        validation: Fraction of the other 1,547 that is held out; 0 trains on all of them.
        num_labels: Training examples whose labels are known, at least 1; None for all.
        mean: Taken from the pixels, on the scale from 0 to 1.
        std: What the pixels are divided by after that.
        augment: Any of ``flip`` and ``crop``.
        batch_size: Examples per step.
        workers: Not needed here: all pictures stay in memory.

    Source: Alpaydin, Kaynak 1998, "Optical recognition of handwritten digits", UCI (its test set).
    """

    def __init__(
        self,
        validation: float = 0.16,
        num_labels: int | None = None,
        mean: float | list[float] = 0.305,
        std: float | list[float] = 0.376,
        augment: list[str] | None = None,
        batch_size: int = 64,
        workers: int = 0,
    ) -> None:
        self.validation = fraction("data.validation", validation)
        self.num_labels = None if num_labels is None else at_least("data.num_labels", num_labels, 1)
        self.look = Look(1, mean, std, augment or [], WHITE)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.spec = self.look.facts(picture_facts(1, 8, 8, [str(digit) for digit in range(10)]))

    def load(self) -> Splits:
        """Read the file: 64 pixels from 0 to 16 and the class in each line."""
        table = torch.from_numpy(np.loadtxt(BUNDLED, delimiter=",", dtype=np.uint8))
        rows = {"pixels": table[:, :64].reshape(-1, 1, 8, 8), "labels": table[:, 64].contiguous()}
        rest, test = hold_out_of_each(rows["labels"], TEST / len(table))
        train, val = hold_out_of_each(rows["labels"][rest], self.validation)
        parts = self.look.splits(picked(rows, rest[train]), picked(rows, rest[val]), picked(rows, test))
        return answered(parts, self.num_labels)

    def inputs(self, given: Given) -> Iterator[Inputs]:
        """Read a user's picture files and arrays."""
        return picture_inputs(given, self.look, (1, 8, 8))

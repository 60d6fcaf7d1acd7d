"""CIFAR-10 from torchvision's folder or from one file of arrays."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dltrain.data.checks import at_least, fraction
from dltrain.data.inputs import Given
from dltrain.data.spec import Inputs, Splits
from dltrain.data.splits import hold_out
from dltrain.datasets import array_file
from dltrain.datasets.download import fetch, not_there
from dltrain.datasets.image_inputs import picture_inputs
from dltrain.datasets.images import Look, Rows, picked, picture_facts

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER = "cifar-10-batches-py"
ARRAYS = Path("cifar10") / "cifar10.npz"
NAMES = ("x_train", "y_train", "x_test", "y_test")


class CIFAR10:
    """60,000 colour pictures of 32x32 pixels, 10 classes; the last 10,000 are the test.

    Args:
        root: Folder that holds torchvision's ``cifar-10-batches-py`` or else ``cifar10/cifar10.npz`` (arrays x_train,
            y_train, x_test, y_test).
        download: Fetch torchvision's files when neither is there.
        validation: Fraction of the 50,000 that is held out; 0 trains on all of them.
        mean: Taken from the pixels, on the scale from 0 to 1; a number, or one for red, green and blue.
        std: What the pixels are divided by after that; 0.5 for both scales them to -1 to 1.
        augment: Any of ``flip`` and ``crop``.
        batch_size: Examples per step.
        workers: Not needed here: all pictures stay in memory.

    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """

    def __init__(
        self,
        root: str = "~/.cache/dltrain",
        download: bool = False,
        validation: float = 0.1,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 0.5,
        augment: list[str] | None = None,
        batch_size: int = 128,
        workers: int = 0,
    ) -> None:
        self.root = Path(root).expanduser()
        self.download = download
        self.validation = fraction("data.validation", validation)
        self.look = Look(3, mean, std, augment or [])
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.spec = self.look.facts(picture_facts(3, 32, 32, CLASSES))

    def load(self) -> Splits:
        """Read all pictures, after fetching them if that was asked for."""
        rest, test = self._read()
        if not self.validation:
            return self.look.splits(rest, None, test)
        train, val = hold_out(len(rest["labels"]), self.validation)
        return self.look.splits(picked(rest, train), picked(rest, val), test)

    def inputs(self, given: Given) -> Iterator[Inputs]:
        """Read a user's picture files and arrays."""
        return picture_inputs(given, self.look, (3, 32, 32))

    def _read(self) -> tuple[Rows, Rows]:
        there = (self.root / FOLDER).is_dir()
        if not there and (self.root / ARRAYS).is_file():
            x, y, x_test, y_test = array_file.read("data.root", self.root / ARRAYS, NAMES)
            return _rows(x, y), _rows(x_test, y_test)
        if not there and not self.download:
            raise not_there("cifar10", self.root, self.root / FOLDER)
        return _from_torchvision(self.root, self.download)


def _from_torchvision(root: Path, download: bool) -> tuple[Rows, Rows]:
    parts = _parts(root)
    if parts is None and download:
        fetch("CIFAR10", root, lambda: _parts(root) is not None)
        parts = _parts(root)
    if parts is None:
        raise not_there("cifar10", root, root / FOLDER)
    train, test = (_rows(part.data, np.array(part.targets)) for part in parts)
    return train, test


def _parts(root: Path) -> list[Any] | None:
    """torchvision's training and test set, or None. Its files are pickled: it reads those with the right hash only."""
    # torchvision takes seconds to import, and only its own files need it.
    from torchvision import datasets

    try:
        return [datasets.CIFAR10(root, train=train) for train in (True, False)]
    except RuntimeError:
        return None


def _rows(pixels: np.ndarray, labels: np.ndarray) -> Rows:
    """Pictures with the channels last become pictures with the channels first."""
    channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return {"pixels": channels_first, "labels": torch.from_numpy(labels.astype(np.uint8)).flatten()}

"""CIFAR-10 in the layout of torchvision or in one .npz file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dltrain.data.checks import at_least, check_fraction
from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Inputs, Splits
from dltrain.data.splits import hold_out
from dltrain.datasets.array_file import load_arrays
from dltrain.datasets.download import download_dataset, missing_files_error
from dltrain.datasets.image_inputs import read_images
from dltrain.datasets.images import ImageTransform, Rows, image_spec, select_rows
from dltrain.errors import ConfigError, format_error

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER = "cifar-10-batches-py"
ARRAYS = Path("cifar10") / "cifar10.npz"
NAMES = ("x_train", "y_train", "x_test", "y_test")


class CIFAR10:
    """60,000 color images of 32x32 pixels in 10 classes; 10,000 of them are the test split.

    Args:
        root: Folder with torchvision's ``cifar-10-batches-py``, or with ``cifar10/cifar10.npz`` (arrays x_train,
            y_train, x_test, y_test).
        download: Download torchvision's files if neither the folder nor the .npz exists, or the folder is incomplete.
        validation: Fraction of the 50,000 training images to hold out, in [0, 1).
        mean: Subtracted from the pixels, on the scale from 0 (black) to 1 (white); one number, or one per channel.
        std: Divisor after the subtraction, above 0; one number, or one per channel.
        augment: Random changes in training; see `dltrain.datasets.images.ImageTransform`.
        batch_size: Examples per batch, at least 1.
        workers: Unused: the images stay in memory.

    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """

    def __init__(
        self,
        root: str = "~/.cache/dltrain",
        download: bool = False,
        validation: float = 0.1,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 0.5,
        augment: dict[str, Any] | list[str] | None = None,
        batch_size: int = 128,
        workers: int = 0,
    ) -> None:
        self.root = Path(root).expanduser()
        self.download = download
        self.validation = check_fraction("data.validation", validation)
        self.transform = ImageTransform(3, mean, std, augment)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.prepare = self.transform.scaling()
        self.spec = self.transform.add_bounds(image_spec(3, 32, 32, CLASSES))

    def load(self) -> Splits:
        """Return the splits, after a download if files are missing and ``download`` is set."""
        rest, test = self._read()
        if not self.validation:
            return self.transform.splits(rest, None, test, self.spec.classes)
        train, val = hold_out(len(rest["labels"]), self.validation)
        return self.transform.splits(select_rows(rest, train), select_rows(rest, val), test, self.spec.classes)

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read image files and arrays."""
        return read_images(files, self.transform, (3, 32, 32))

    def _read(self) -> tuple[Rows, Rows]:
        found = (self.root / FOLDER).is_dir()
        if not found and (self.root / ARRAYS).is_file():
            x, y, x_test, y_test = load_arrays("data.root", self.root / ARRAYS, NAMES)
            return self._checked_rows("train", x, y), self._checked_rows("test", x_test, y_test)
        if not found and not self.download:
            raise missing_files_error("cifar10", self.root, self.root / FOLDER)
        return _read_torchvision(self.root, self.download)

    def _checked_rows(self, part: str, pixels: np.ndarray, labels: np.ndarray) -> Rows:
        """Return the rows of arrays from the .npz file.

        Raises:
            ConfigError: The images or labels have another format than in CIFAR-10.
        """
        path = self.root / ARRAYS
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (32, 32, 3):
            expected = f"uint8 (N, 32, 32, 3) as x_{part} of {path}"
            raise ConfigError(format_error("data.root", expected, f"{pixels.dtype} {pixels.shape}"))
        if labels.dtype.kind not in "iu" or labels.size != len(pixels):
            expected = f"one whole number in y_{part} of {path} for each of {len(pixels)} images"
            raise ConfigError(format_error("data.root", expected, f"{labels.dtype} {labels.shape}"))
        if len(wrong := labels[(labels < 0) | (labels >= len(CLASSES))]):
            expected = f"labels from 0 to {len(CLASSES) - 1} in y_{part} of {path}"
            raise ConfigError(format_error("data.root", expected, int(wrong[0])))
        return _rows(pixels, labels)


def _read_torchvision(root: Path, download: bool) -> tuple[Rows, Rows]:
    parts = _load_torchvision(root)
    if parts is None and download:
        download_dataset("CIFAR10", root, lambda: _load_torchvision(root) is not None)
        parts = _load_torchvision(root)
    if parts is None:
        if not (root / FOLDER).is_dir():
            raise missing_files_error("cifar10", root, root / FOLDER)
        got = "missing or damaged files"
        raise ConfigError(
            format_error("data.root", f"all files in {root / FOLDER}", got, "data.download=true downloads them again")
        )
    train, test = (_rows(part.data, np.array(part.targets)) for part in parts)
    return train, test


def _load_torchvision(root: Path) -> list[Any] | None:
    """Return torchvision's training and test sets, or None if a file is missing or has a wrong hash.

    Hashes are verified because the files are pickles.
    """
    # torchvision takes seconds to import, and only files in its layout need it.
    from torchvision import datasets

    try:
        return [datasets.CIFAR10(root, train=train) for train in (True, False)]
    except RuntimeError:
        return None


def _rows(pixels: np.ndarray, labels: np.ndarray) -> Rows:
    """Convert images with the channels last to rows with the channels first."""
    channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return {"pixels": channels_first, "labels": torch.from_numpy(labels.astype(np.uint8)).flatten()}

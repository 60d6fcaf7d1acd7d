"""MNIST and Fashion-MNIST in their original IDX files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from dltrain.data.checks import at_least, check_fraction
from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Inputs, Splits
from dltrain.data.splits import hold_out
from dltrain.datasets.download import download_dataset, missing_files_error
from dltrain.datasets.image_inputs import read_images
from dltrain.datasets.images import ImageTransform, Rows, image_spec, limit_labels, select_rows
from dltrain.errors import ConfigError, format_error

SIZE = 28
CLASSES = 10
IMAGES_HEADER = 16
LABELS_HEADER = 8
PARTS = ("train", "t10k")


class MNIST:
    """70,000 handwritten digits of 28x28 pixels in 10 classes; 10,000 of them are the test split.

    Args:
        root: Folder with ``MNIST/raw``, the layout of torchvision.
        download: Download the files if one is missing or incomplete.
        validation: Fraction of the 60,000 training images to hold out, in [0, 1).
        num_labels: Number of training examples that keep their label, at least 1; None keeps all.
        mean: Subtracted from the pixels, on the scale from 0 (black) to 1 (white).
        std: Divisor after the subtraction, above 0.
        augment: Random changes in training; see `dltrain.datasets.images.ImageTransform`.
        batch_size: Examples per batch, at least 1.
        workers: Unused: the images stay in memory.

    Source: LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document recognition".
    """

    name: ClassVar[str] = "mnist"
    folder: ClassVar[str] = "MNIST"
    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")

    def __init__(
        self,
        root: str = "~/.cache/dltrain",
        download: bool = False,
        validation: float = 0.1,
        num_labels: int | None = None,
        mean: float | list[float] = 0.1307,
        std: float | list[float] = 0.3081,
        augment: dict[str, Any] | list[str] | None = None,
        batch_size: int = 64,
        workers: int = 0,
    ) -> None:
        self.root = Path(root).expanduser()
        self.download = download
        self.validation = check_fraction("data.validation", validation)
        self.num_labels = None if num_labels is None else at_least("data.num_labels", num_labels, 1)
        self.transform = ImageTransform(1, mean, std, augment)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.prepare = self.transform.scaling()
        self.spec = self.transform.add_bounds(image_spec(1, SIZE, SIZE, self.class_names))

    def load(self) -> Splits:
        """Return the splits, after a download if a file is missing or incomplete and ``download`` is set."""
        raw = self.root / self.folder / "raw"
        files = [path for part in PARTS for path in _paths(raw, part)]
        missing = [path for path in files if not path.is_file()]
        if self.download and not _complete(files):
            download_dataset(self.folder, self.root, lambda: _complete(files))
        elif missing:
            raise missing_files_error(self.name, self.root, missing[0])
        rest, test = (_read_part(raw, part) for part in PARTS)
        train, val = rest, None
        if self.validation:
            train, val = (select_rows(rest, indices) for indices in hold_out(len(rest["labels"]), self.validation))
        return limit_labels(self.transform.splits(train, val, test, self.spec.classes), self.num_labels)

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read image files and arrays."""
        return read_images(files, self.transform, (1, SIZE, SIZE))


class FashionMNIST(MNIST):
    """70,000 images of clothing in the format of MNIST; their mean is 0.2860, their standard deviation 0.3530.

    Source: Xiao, Rasul, Vollgraf 2017, "Fashion-MNIST: a novel image dataset for benchmarking machine learning".
    """

    name = "fashion_mnist"
    folder = "FashionMNIST"
    class_names = (
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )


def _paths(raw: Path, part: str) -> tuple[Path, Path]:
    return raw / f"{part}-images-idx3-ubyte", raw / f"{part}-labels-idx1-ubyte"


def _read_part(raw: Path, part: str) -> Rows:
    images, labels = _paths(raw, part)
    classes = _read_idx(labels, LABELS_HEADER)
    pixels = _read_idx(images, IMAGES_HEADER).view(-1, 1, SIZE, SIZE)
    if len(pixels) != len(classes):
        got = f"{len(pixels)} images and {len(classes)} labels"
        raise ConfigError(
            format_error("data.root", f"one label per image in {raw}", got, "Delete the files and download them again")
        )
    if len(classes) and (largest := int(classes.max())) >= CLASSES:
        raise ConfigError(format_error("data.root", f"labels from 0 to {CLASSES - 1} in {labels}", largest))
    return {"pixels": pixels, "labels": classes}


def _complete(files: list[Path]) -> bool:
    """Return whether all IDX files exist and have the size that their header states."""
    return all(path.is_file() and path.stat().st_size == _expected_size(path) for path in files)


def _expected_size(path: Path) -> int:
    """Return the size in bytes that an IDX file should have according to the number of examples in its header."""
    with path.open("rb") as file:
        count = int.from_bytes(file.read(8)[4:], "big")
    return IMAGES_HEADER + count * SIZE * SIZE if "images" in path.name else LABELS_HEADER + count


def _read_idx(path: Path, header: int) -> Tensor:
    """Return the bytes after the header of an IDX file."""
    if not _complete([path]):
        got = f"{path.stat().st_size:,} bytes"
        raise ConfigError(
            format_error("data.root", f"a complete file {path}", got, "data.download=true downloads it again")
        )
    return torch.from_numpy(np.fromfile(path, dtype=np.uint8)[header:])

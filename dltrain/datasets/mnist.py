"""MNIST and Fashion-MNIST from their original files."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from dltrain.data.checks import at_least, fraction
from dltrain.data.inputs import Given
from dltrain.data.spec import Inputs, Splits
from dltrain.data.splits import hold_out
from dltrain.datasets.download import fetch, not_there
from dltrain.datasets.image_inputs import picture_inputs
from dltrain.datasets.images import Look, Rows, answered, picked, picture_facts
from dltrain.errors import ConfigError, format_error

SIDE = 28
PICTURES_HEADER = 16
LABELS_HEADER = 8
PARTS = ("train", "t10k")


class MNIST:
    """70,000 handwritten digits of 28x28 pixels, 10 classes; the last 10,000 are the test.

    Args:
        root: Folder that holds ``MNIST/raw``, as torchvision lays it out.
        download: Fetch the files when they are not there.
        validation: Fraction of the 60,000 that is held out; 0 trains on all of them.
        num_labels: Training examples whose labels are known, at least 1; None for all.
        mean: Taken from the pixels, on the scale from 0 to 1.
        std: What the pixels are divided by after that.
        augment: Any of ``flip`` and ``crop``.
        batch_size: Examples per step.
        workers: Not needed here: all pictures stay in memory.

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
        augment: list[str] | None = None,
        batch_size: int = 64,
        workers: int = 0,
    ) -> None:
        self.root = Path(root).expanduser()
        self.download = download
        self.validation = fraction("data.validation", validation)
        self.num_labels = None if num_labels is None else at_least("data.num_labels", num_labels, 1)
        self.look = Look(1, mean, std, augment or [])
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.spec = self.look.facts(picture_facts(1, SIDE, SIDE, self.class_names))

    def load(self) -> Splits:
        """Read the four files, after fetching them if that was asked for."""
        raw = self.root / self.folder / "raw"
        files = [path for part in PARTS for path in _paths(raw, part)]
        missing = [path for path in files if not path.is_file()]
        if self.download and not _whole(files):
            fetch(self.folder, self.root, lambda: _whole(files))
        elif missing:
            raise not_there(self.name, self.root, missing[0])
        rest, test = (_read(raw, part) for part in PARTS)
        if not self.validation:
            return answered(self.look.splits(rest, None, test), self.num_labels)
        train, val = hold_out(len(rest["labels"]), self.validation)
        return answered(self.look.splits(picked(rest, train), picked(rest, val), test), self.num_labels)

    def inputs(self, given: Given) -> Iterator[Inputs]:
        """Read a user's picture files and arrays."""
        return picture_inputs(given, self.look, (1, SIDE, SIDE))


class FashionMNIST(MNIST):
    """70,000 pictures of clothes, laid out as MNIST is; their mean is 0.2860 and their deviation 0.3530.

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


def _read(raw: Path, part: str) -> Rows:
    pictures, labels = _paths(raw, part)
    classes = _bytes(labels, LABELS_HEADER)
    pixels = _bytes(pictures, PICTURES_HEADER).view(-1, 1, SIDE, SIDE)
    if len(pixels) != len(classes):
        got = f"{len(pixels)} pictures and {len(classes)} labels"
        raise ConfigError(
            format_error("data.root", f"one label for each picture in {raw}", got, "Download the files again")
        )
    return {"pixels": pixels, "labels": classes}


def _whole(files: list[Path]) -> bool:
    """Whether idx files are there and as long as they say."""
    return all(path.is_file() and path.stat().st_size == _length(path) for path in files)


def _length(path: Path) -> int:
    """The length of an idx file in bytes; its number of examples is its second big-endian word."""
    with path.open("rb") as file:
        count = int.from_bytes(file.read(8)[4:], "big")
    return PICTURES_HEADER + count * SIDE * SIDE if "images" in path.name else LABELS_HEADER + count


def _bytes(path: Path, header: int) -> Tensor:
    """What follows the header of an idx file."""
    if not _whole([path]):
        got = f"{path.stat().st_size:,} bytes"
        raise ConfigError(format_error("data.root", f"a whole file {path}", got, "data.download=true fetches it again"))
    return torch.from_numpy(np.fromfile(path, dtype=np.uint8)[header:])

"""A user's own images, one folder per class."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dltrain.data.bad_samples import MAX_BAD_SAMPLES, BadSamples
from dltrain.data.checks import at_least, check_fraction, check_held_out, existing_folder
from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Inputs, Splits
from dltrain.data.splits import hold_out_stratified
from dltrain.data.worker_pool import TIMEOUT_S
from dltrain.datasets.image_inputs import SUFFIXES, UNREADABLE, decode_image, read_images
from dltrain.datasets.images import ImageTransform, image_spec
from dltrain.errors import ConfigError, format_error

TRAIN = "train"
TEST = "test"
CHANNELS = 3

Listing = list[tuple[Path, int]]


class ImageFolder:
    """Images in ``path/train/<class>/`` and ``path/test/<class>/``, or in ``path/<class>/`` only.

    They are decoded when they are needed, converted to RGB (on white if they are transparent), scaled without
    distortion until they cover a square, and cropped at the center.

    Args:
        path: The folder.
        image_size: Height and width of the square in pixels, at least 1.
        validation: Fraction of each class of the training images to hold out, in [0, 1).
        test: Fraction of each class to hold out for testing, in (0, 1); unused if there is a folder ``test``.
        mean: Subtracted from the pixels, on the scale from 0 (black) to 1 (white); one number, or one per channel.
        std: Divisor of the pixels after that, above 0; one number, or one per channel.
        augment: Any of ``flip`` and ``crop``; see `dltrain.datasets.images.ImageTransform`.
        batch_size: Examples per step, at least 1.
        workers: Processes that decode images; 0 decodes in the main process between steps.
        worker_timeout: Seconds without a batch after which workers count as hanging and the run stops.
        on_bad_sample: Policy for unreadable images: ``stop`` or ``skip``.
        max_bad_samples: Images to skip at most before the run stops anyway, at least 1.
    """

    fitted = False

    def __init__(
        self,
        path: str,
        image_size: int = 64,
        validation: float = 0.15,
        test: float = 0.15,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 0.5,
        augment: list[str] | None = None,
        batch_size: int = 64,
        workers: int = 0,
        worker_timeout: float = TIMEOUT_S,
        on_bad_sample: str = "stop",
        max_bad_samples: int = MAX_BAD_SAMPLES,
    ) -> None:
        self.path = existing_folder(path, "an existing folder of images")
        self.image_size = at_least("data.image_size", image_size, 1)
        self.validation = check_fraction("data.validation", validation)
        self.test = test
        self.transform = ImageTransform(CHANNELS, mean, std, augment or [])
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.worker_timeout = worker_timeout
        self.bad = BadSamples(on_bad_sample, max_bad_samples)
        self.has_test = (self.path / TRAIN).is_dir() and (self.path / TEST).is_dir()
        if not self.has_test:
            check_held_out(validation, test)
        self.classes = _class_names(self.path / TRAIN if self.has_test else self.path)
        self.spec = self.transform.add_bounds(image_spec(CHANNELS, image_size, image_size, self.classes))

    def load(self) -> Splits:
        """List and split the files; no image is decoded yet."""
        if self.has_test:
            rest, test = self._list_images(self.path / TRAIN), self._list_images(self.path / TEST)
        else:
            rest, test = _split(self._list_images(self.path), self.test)
        train, val = _split(rest, self.validation)
        parts = [ImageFiles(part, self.image_size, self.path) for part in (train, val, test)]
        return self.transform.splits(*parts)

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read image files and arrays."""
        return read_images(files, self.transform, (CHANNELS, self.image_size, self.image_size))

    def _list_images(self, root: Path) -> Listing:
        """Return each image below ``root`` with the index of its class, in alphabetical order."""
        found: Listing = []
        if unknown := sorted(set(_class_names(root)) - set(self.classes)):
            expected = f"only the classes {', '.join(self.classes)} in {root}"
            raise ConfigError(format_error("data.path", expected, unknown[0]))
        for number, name in enumerate(self.classes):
            files = sorted(file for file in (root / name).rglob("*") if file.suffix.casefold() in SUFFIXES)
            found.extend((file, number) for file in files)
        if not found:
            raise ConfigError(format_error("data.path", f"images ({', '.join(SUFFIXES)}) in {root}", "none"))
        return found


class ImageFiles:
    """Image files below ``root``, decoded a batch at a time.

    Args:
        listing: Path and class of each image.
        size: Height and width of the decoded images in pixels.
        root: Folder that names of files are relative to.
    """

    def __init__(self, listing: Listing, size: int, root: Path) -> None:
        self.listing = listing
        self.size = size
        self.root = root

    def __len__(self) -> int:
        return len(self.listing)

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield the path below ``root`` and the size in bytes of each image; -1 if it no longer exists."""
        for path, _ in self.listing:
            yield path.relative_to(self.root).as_posix(), path.stat().st_size if path.exists() else -1

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """Decode ``pixels`` (B, 3, size, size) in uint8 and ``labels`` (B,) in int64."""
        pixels = np.stack([self._decode(index) for index in indices])
        return {
            "pixels": torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
            "labels": torch.tensor([self.listing[index][1] for index in indices]),
        }

    def _decode(self, index: int) -> np.ndarray:
        path = self.listing[index][0]
        try:
            return decode_image(path, "RGB", self.size, self.size)
        except UNREADABLE as error:
            expected = f"a readable image at {path} (number {index} of its split)"
            raise ConfigError(format_error("data.path", expected, str(error), "Replace or delete it")) from error


def _class_names(root: Path) -> list[str]:
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise ConfigError(format_error("data.path", f"one folder per class in {root}", "none"))
    return names


def _split(listing: Listing, fraction: float) -> tuple[Listing, Listing]:
    labels = torch.tensor([label for _, label in listing])
    kept, held_out = hold_out_stratified(labels, fraction)
    return [listing[index] for index in kept.tolist()], [listing[index] for index in held_out.tolist()]

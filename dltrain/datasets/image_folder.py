"""User-provided images, one folder per class."""

from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dltrain.data.bad_samples import MAX_BAD_SAMPLES, BadSamples
from dltrain.data.checks import at_least, check_fraction, check_held_out, existing_folder, user_path
from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Fitted, Inputs, Source, Splits
from dltrain.data.worker_pool import TIMEOUT_S
from dltrain.datasets import image_report
from dltrain.datasets.augmentation import Augmentation, crop_window
from dltrain.datasets.class_counts import format_class_counts, shorten_names
from dltrain.datasets.image_check import find_problem, reject_unreadable
from dltrain.datasets.image_inputs import UNREADABLE, Window, decode_image, read_images
from dltrain.datasets.image_layout import (
    TEST,
    TRAIN,
    VAL,
    Listing,
    SkippedFiles,
    class_names,
    find_splits,
    list_images,
    split_listing,
)
from dltrain.datasets.images import ImageTransform, image_spec
from dltrain.errors import ConfigError, format_error
from dltrain.keyed_random import draw

CHANNELS = 3


class ImageFolder:
    """Images in ``train/<class>/``, ``val/<class>/`` and ``test/<class>/`` below ``path``, or in ``<class>/`` only.

    A split without a folder is held out from ``train``. Folders may be links; hidden files and folders are left out.
    Images are decoded when they are needed, converted to RGB (on white if they are transparent), scaled without
    distortion until they cover a square, and cropped at the center.

    Args:
        path: The folder.
        image_size: Height and width of the square in pixels, at least 1.
        validation: Fraction of each class of the training images to hold out, in [0, 1); unused if there is a folder
            ``val``.
        test: Fraction of each class to hold out for testing, in (0, 1); unused if there is a folder ``test``.
        mean: Subtracted from the pixels, on the scale from 0 (black) to 1 (white); one number, or one per channel.
        std: Divisor after the subtraction, above 0; one number, or one per channel.
        augment: Random changes in training; see `dltrain.datasets.images.ImageTransform`.
        batch_size: Examples per batch, at least 1.
        workers: Processes that decode images; 0 decodes in the main process between steps.
        worker_timeout: Seconds without a batch after which workers count as hanging and the run stops.
        on_bad_sample: Policy for unreadable images: ``stop`` or ``skip``.
        max_bad_samples: Maximum number of images to skip before the run stops, at least 1.
        fitted: Result of `fit` in an earlier run; None uses the names of the class folders.
    """

    def __init__(
        self,
        path: str,
        image_size: int = 64,
        validation: float = 0.15,
        test: float = 0.15,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 0.5,
        augment: dict[str, Any] | list[str] | None = None,
        batch_size: int = 64,
        workers: int = 0,
        worker_timeout: float = TIMEOUT_S,
        on_bad_sample: str = "stop",
        max_bad_samples: int = MAX_BAD_SAMPLES,
        fitted: Fitted | None = None,
    ) -> None:
        self.path = user_path(path)
        self.image_size = at_least("data.image_size", image_size, 1)
        self.validation = check_fraction("data.validation", validation)
        self.test = test
        self.transform = ImageTransform(CHANNELS, mean, std, augment)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.worker_timeout = worker_timeout
        self.bad = BadSamples(on_bad_sample, max_bad_samples)
        if fitted is None:
            self.folders = self._find_splits()
            if TEST not in self.folders:
                check_held_out(0 if VAL in self.folders else validation, test)
            self.classes, self.empty = class_names(self.folders[TRAIN])
        else:
            self.classes = [str(name) for name in fitted["classes"]]
        self.parts: dict[str, Listing] = {}
        self.skipped = SkippedFiles()
        self.prepare = self.transform.scaling()
        self.spec = self.transform.add_bounds(image_spec(CHANNELS, image_size, image_size, self.classes))

    def _find_splits(self) -> dict[str, Path]:
        return find_splits(existing_folder(self.path, "an existing folder of images"))

    def fit(self) -> Fitted:
        """Return the names of the classes."""
        return {"classes": list(self.classes)}

    def evaluation(self) -> Source:
        """Return all images of the folder, from all splits."""
        folders = self._find_splits().items()
        listings = [list_images(folder, split, self.classes, self.skipped) for split, folder in folders]
        return Source(
            ImageFiles([*chain.from_iterable(listings)], self.image_size, self.path, self.transform.augment),
            self.prepare,
        )

    def load(self) -> Splits:
        """List the image files and return the splits, without decoding images."""
        self.skipped = SkippedFiles()
        self.parts = {
            split: list_images(folder, split, self.classes, self.skipped) for split, folder in self.folders.items()
        }
        for split, fraction in ((TEST, self.test), (VAL, self.validation)):
            if split not in self.folders:
                self.parts[TRAIN], self.parts[split] = split_listing(self.parts[TRAIN], fraction)
        augmentation, classes = self.transform.augment, len(self.classes)
        train, val, test = (
            ImageFiles(self.parts[split], self.image_size, self.path, augmentation) for split in (TRAIN, VAL, TEST)
        )
        return self.transform.splits(train, val, test, classes)

    def check(self) -> None:
        """Raise ConfigError if listed images cannot be read and must not be skipped; see `reject_unreadable`."""

        def problem(path: Path) -> str | None:
            reason = find_problem(path)
            return None if reason is None else f"{path}: {reason}"

        paths = [path for split in (TEST, VAL, TRAIN) for path, _ in self.parts[split]]
        reject_unreadable(paths, problem, "images", self.bad)

    def describe(self) -> list[str]:
        """Return lines about the files that `load` found: splits, classes, files left out, duplicates."""
        parts = {split: self.parts[split] for split in (TRAIN, VAL, TEST)}
        labels = [label for listing in parts.values() for _, label in listing]
        empty = [f"folders without images, which are not classes: {shorten_names(self.empty)}"] if self.empty else []
        return [
            f"{len(labels):,} images in {self.path}",
            ", ".join(f"{split} {len(listing):,}{self._origin(split)}" for split, listing in parts.items()),
            f"classes: {format_class_counts(labels, self.classes)}",
            *empty,
            *image_report.missing_classes(parts, self.classes),
            *image_report.describe_skipped(self.path, self.folders[TRAIN], self.skipped),
            *image_report.describe_copies(parts, self.path),
        ]

    def _origin(self, split: str) -> str:
        """Return the origin of a split; empty for the training split of a folder without split folders."""
        train = self.folders[TRAIN]
        if split in self.folders:
            return f" from {self.folders[split].name}/" if train != self.path else ""
        option = f"data.test={self.test}" if split == TEST else f"data.validation={self.validation}"
        if train == self.path:
            return f" ({option})"
        return f" from {train.name}/ ({option}; there is no {split} folder with images)"

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read image files and arrays."""
        return read_images(files, self.transform, (CHANNELS, self.image_size, self.image_size))


class ImageFiles:
    """Image files below ``root``, decoded one at a time.

    Args:
        listing: Path and class of each image.
        size: Height and width of the decoded images in pixels.
        root: Folder that file names are relative to.
        augmentation: Random changes in training; only the crop is applied here, at full resolution.
    """

    def __init__(self, listing: Listing, size: int, root: Path, augmentation: Augmentation) -> None:
        self.listing, self.size, self.root = listing, size, root
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.listing)

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield the path below ``root`` and the size in bytes of each image; -1 if it no longer exists."""
        for path, _ in self.listing:
            yield path.relative_to(self.root).as_posix(), path.stat().st_size if path.exists() else -1

    def targets(self) -> Tensor:
        """Return the class of each image."""
        return torch.tensor([label for _, label in self.listing])

    def example(self, index: int, key: int | None) -> tuple[np.ndarray, int]:
        """Decode an image (size, size, 3) in uint8, and return it with its class."""
        path, label = self.listing[index]
        crop = None if key is None or self.augmentation.min_area == 1 else partial(self._crop, key)
        try:
            return decode_image(path, "RGB", self.size, self.size, crop), label
        except UNREADABLE as error:
            expected = f"a readable image at {path} (index {index} of its split)"
            raise ConfigError(format_error("data.path", expected, str(error), "Replace or delete it")) from error

    def _crop(self, key: int, width: int, height: int) -> Window:
        """Return the random crop of an image as left, top, right and bottom in pixels."""
        left, top, across, along = crop_window(self.augmentation, draw(key, 4), height, width, height / width)
        right, bottom = left + across * np.float32(width), top + along * np.float32(height)
        return float(left), float(top), float(right), float(bottom)

    def stack(self, examples: list[tuple[np.ndarray, int]]) -> dict[str, Tensor]:
        """Return ``pixels`` (B, 3, size, size) in uint8 and ``labels`` (B,) in int64."""
        pixels, labels = zip(*examples, strict=True)
        stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)  # not contiguous; `ScalePixels` copies it
        return {"pixels": stacked, "labels": torch.tensor(labels)}

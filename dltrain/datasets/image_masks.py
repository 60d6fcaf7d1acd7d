"""User-provided images and masks, in two folders."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dltrain.data.bad_samples import MAX_BAD_SAMPLES, BadSamples
from dltrain.data.checks import at_least, check_class_names, check_fraction, check_held_out, existing_folder, user_path
from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Fitted, Inputs, Source, Splits
from dltrain.data.splits import hold_out
from dltrain.data.worker_pool import TIMEOUT_S
from dltrain.datasets.augmentation import Augmentation, crop_window
from dltrain.datasets.class_counts import shorten_names
from dltrain.datasets.image_check import reject_unreadable
from dltrain.datasets.image_inputs import MODES, UNREADABLE, Window, decode_image, read_images
from dltrain.datasets.images import ImageTransform
from dltrain.datasets.mask_files import (
    BINARY,
    MAX_CLASSES,
    Pair,
    decode_mask,
    find_pairs,
    find_values,
    lookup_table,
    mask_problem,
)
from dltrain.datasets.masks import mask_spec, mask_splits, prepare_masks
from dltrain.datasets.voc_layout import find_voc_pairs, has_voc_layout
from dltrain.errors import ConfigError, format_error
from dltrain.keyed_random import draw

PARTS = ("train", "val", "test")


class ImageMasks:
    """Images in ``images/`` and masks with the same names in ``masks/``, below ``path`` or below ``path/<split>``.

    The layout of Pascal VOC is also read: ``JPEGImages``, ``SegmentationClass``, lists in ``ImageSets/Segmentation``. A
    split without a folder or list is held out from ``train``. A mask holds the class of each pixel as a palette index
    or gray level. Images and masks are decoded when they are needed and resized to a square, masks by nearest neighbor.

    Args:
        path: The folder.
        image_size: Height and width of the square in pixels, at least 1.
        channels: 1 for gray images, 3 for color.
        class_names: Names of the values 0, 1, ...; two names are for 0 and 255 if the training masks have only these
            values. None uses the values that occur in the training masks.
        ignore: Value of pixels without a class; None if all have a class. If the training masks have only 0 and 255,
            and ``class_names`` is None or has two names, 0 and 255 are classes.
        block: Number of consecutive images, by name or in a list of Pascal VOC, that stay in one split, at least 1. Use
            it if neighbors are similar, such as slices of a volume.
        validation: Fraction of the training images to hold out, in [0, 1); unused if there is a folder or list
            ``val``.
        test: Fraction to hold out for testing, in (0, 1); unused if there is a folder or list ``test``.
        mean: Subtracted from the pixels, on the scale from 0 (black) to 1 (white); one number, or one per channel.
        std: Divisor after the subtraction, above 0; one number, or one per channel.
        augment: Random changes in training; see `dltrain.datasets.images.ImageTransform`.
        batch_size: Examples per batch, at least 1.
        workers: Processes that decode images; 0 decodes in the main process between steps.
        worker_timeout: Seconds without a batch after which workers count as hanging and the run stops.
        on_bad_sample: Policy for unreadable images and masks: ``stop`` or ``skip``.
        max_bad_samples: Maximum number of images to skip before the run stops, at least 1.
        fitted: Result of `fit` in an earlier run; None determines the classes from `class_names` or the training masks.
    """

    def __init__(
        self,
        path: str,
        image_size: int = 128,
        channels: int = 3,
        class_names: list[str] | None = None,
        ignore: int | None = 255,
        block: int = 1,
        validation: float = 0.15,
        test: float = 0.15,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 0.5,
        augment: dict[str, Any] | list[str] | None = None,
        batch_size: int = 8,
        workers: int = 0,
        worker_timeout: float = TIMEOUT_S,
        on_bad_sample: str = "stop",
        max_bad_samples: int = MAX_BAD_SAMPLES,
        fitted: Fitted | None = None,
    ) -> None:
        self.path = user_path(path)
        self.image_size = at_least("data.image_size", image_size, 1)
        _check_values(channels, ignore, class_names or [])
        self.block, self.validation, self.test = at_least("data.block", block, 1), validation, test
        self.transform = ImageTransform(channels, mean, std, augment)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.worker_timeout = worker_timeout
        self.bad = BadSamples(on_bad_sample, max_bad_samples)
        self.pairs: dict[str, list[Pair]] = {}
        if fitted is None:
            self.pairs = self._find_pairs()
            self.values = self._find_values(class_names, ignore)
            self.names = class_names or [str(value) for value in self.values]
        else:
            self.values, self.names = list(fitted["values"]), list(fitted["names"])
        self.ignored = ignore if ignore not in self.values else None
        self.channels, self.prepare = channels, prepare_masks(self.transform)
        self.spec = mask_spec(self.transform, (channels, image_size, image_size), self.names)

    def fit(self) -> Fitted:
        """Return the classes of pixels: the values in masks, and their names."""
        return {"values": self.values, "names": list(self.names)}

    def evaluation(self) -> Source:
        """Return all images of the folder with their masks, from all splits."""
        return Source(self._files([pair for pairs in self._find_folders().values() for pair in pairs]), self.prepare)

    def _find_values(self, class_names: list[str] | None, ignore: int | None) -> list[int]:
        """Return the pixel value of each class: 0, 1, ... or, without names, the values in the training masks.

        Two names are for 0 and 255 if the training masks have only these values.
        """
        if class_names and len(class_names) != len(BINARY):
            return list(range(len(class_names)))
        found = find_values(self.pairs["train"], ignore, self.bad.policy == "skip")
        return found if not class_names or found == BINARY else [0, 1]

    def _find_folders(self) -> dict[str, list[Pair]]:
        """Return the pairs of each split that has a folder or list; the training pairs may be in `path` itself."""
        path = existing_folder(self.path, "an existing folder with images/ and masks/")
        if has_voc_layout(path):
            return find_voc_pairs(path)
        folders = {part: path / part for part in PARTS if (path / part / "images").is_dir()}
        folders.setdefault("train", path)
        return {part: find_pairs(folder) for part, folder in folders.items()}

    def _find_pairs(self) -> dict[str, list[Pair]]:
        """Return the pairs of each split; splits without a folder or list are held out from ``train``."""
        pairs = self._find_folders()
        if "test" not in pairs:
            check_held_out(0 if "val" in pairs else self.validation, self.test)
        for part, fraction in (("test", self.test), ("val", check_fraction("data.validation", self.validation))):
            if part not in pairs:
                pairs["train"], pairs[part] = _cut(pairs["train"], fraction, self.block)
        if not pairs["train"] and self.block > 1:
            raise ConfigError(format_error("data.block", "a size that leaves images for training", self.block))
        if not pairs["train"]:
            hint = "Add images, or hold out a smaller fraction with data.validation and data.test"
            raise ConfigError(format_error("data.path", "at least one image for training", "none", hint))
        return pairs

    def load(self) -> Splits:
        """Return splits of files, without decoding them."""
        train, val, test = (self._files(self.pairs[part]) for part in PARTS)
        return mask_splits(self.transform, train, val, test)

    def check(self) -> None:
        """Raise ConfigError if an image or its mask is invalid and must not be skipped; see `mask_problem`."""
        table = lookup_table(self.values, self.ignored)
        pairs = [pair for part in reversed(PARTS) for pair in self.pairs[part]]
        reject_unreadable(pairs, partial(mask_problem, table=table), "images and masks", self.bad)

    def _files(self, pairs: list[Pair]) -> "MaskedImages":
        table, augmentation = lookup_table(self.values, self.ignored), self.transform.augment
        return MaskedImages(pairs, self.path, self.image_size, MODES[self.channels], table, augmentation)

    def describe(self) -> list[str]:
        """Return lines about the images, splits and classes that were found."""
        counts = ", ".join(f"{part} {len(self.pairs[part]):,}" for part in PARTS)
        ignored = "" if self.ignored is None else f"; {self.ignored} is ignored"
        named = (
            f"{value} {name}" if str(value) != name else name
            for value, name in zip(self.values, self.names, strict=True)
        )
        return [
            f"{sum(map(len, self.pairs.values())):,} images with masks in {self.path}",
            counts + (f", in blocks of {self.block}" if self.block > 1 else ""),
            f"classes of pixels: {shorten_names(named)}{ignored}",
        ]

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read image files and arrays."""
        return read_images(files, self.transform, (self.channels, self.image_size, self.image_size), whole=True)


class MaskedImages:
    """Image and mask files below ``root``, decoded one at a time.

    Args:
        pairs: Image and mask of each example.
        root: Folder that file names are relative to.
        size: Height and width of the result in pixels.
        mode: PIL mode of the images.
        table: Result of `dltrain.datasets.mask_files.lookup_table`.
        augmentation: Random changes in training; only the crop is applied here, at full resolution.
    """

    def __init__(
        self, pairs: list[Pair], root: Path, size: int, mode: str, table: np.ndarray, augmentation: Augmentation
    ) -> None:
        self.pairs, self.root, self.size, self.mode = pairs, root, size, mode
        self.table, self.augmentation = table, augmentation

    def __len__(self) -> int:
        return len(self.pairs)

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield the paths of each image and its mask, and their total size in bytes, -1 if one no longer exists."""
        for image, mask in self.pairs:
            exist = image.exists() and mask.exists()
            names = " ".join(path.relative_to(self.root).as_posix() for path in (image, mask))
            yield names, image.stat().st_size + mask.stat().st_size if exist else -1

    def example(self, index: int, key: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Decode an image (size, size, channels) and its mask (size, size), both in uint8."""
        image, mask = self.pairs[index]
        crop = partial(self._window, key)
        try:
            pixels = decode_image(image, self.mode, self.size, self.size, crop)
            return pixels.reshape(self.size, self.size, -1), decode_mask(mask, image, self.size, self.table, crop)
        except UNREADABLE as error:
            expected = f"a readable image and mask at {image} (index {index} of its split)"
            raise ConfigError(format_error("data.path", expected, str(error), "Replace or delete them")) from error

    def _window(self, key: int | None, width: int, height: int) -> Window:
        """Return the whole image, or its random crop in training, as left, top, right and bottom in pixels."""
        if key is None or self.augmentation.min_area == 1:
            return 0, 0, width, height
        left, top, across, along = map(float, crop_window(self.augmentation, draw(key, 4), height, width))
        return left, top, left + across * width, top + along * height

    def stack(self, examples: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Tensor]:
        """Return ``pixels`` (B, channels, size, size) and ``masks`` (B, size, size), both in uint8."""
        pixels, masks = zip(*examples, strict=True)
        stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)  # not contiguous; `ScalePixels` copies it
        return {"pixels": stacked, "masks": torch.from_numpy(np.stack(masks))}


def _check_values(channels: int, ignore: int | None, names: list[str]) -> None:
    if channels not in (1, 3):
        raise ConfigError(format_error("data.channels", "1 (gray) or 3 (color)", channels))
    if ignore is not None and not 0 <= ignore <= 255:
        raise ConfigError(format_error("data.ignore", "a value from 0 to 255, or null", ignore))
    if len(names) > MAX_CLASSES:
        raise ConfigError(format_error("data.class_names", f"at most {MAX_CLASSES} names", len(names)))
    check_class_names(names)


def _cut(pairs: list[Pair], fraction: float, block: int) -> tuple[list[Pair], list[Pair]]:
    blocks = [pairs[start : start + block] for start in range(0, len(pairs), block)]
    kept, held_out = hold_out(len(blocks), fraction)
    parts = ([pair for number in part.sort().values.tolist() for pair in blocks[number]] for part in (kept, held_out))
    first, second = parts
    return first, second

"""User-provided images with boxes, in the formats of COCO and Pascal VOC."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from dltrain.data.bad_samples import MAX_BAD_SAMPLES, BadSamples
from dltrain.data.checks import (
    at_least,
    check_class_names,
    check_fraction,
    check_held_out,
    existing_folder,
    one_of,
    user_path,
)
from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Fitted, Inputs, Source, Splits
from dltrain.data.splits import held_out_size, hold_out
from dltrain.data.worker_pool import TIMEOUT_S
from dltrain.datasets.annotation_layout import Parts, find_annotated
from dltrain.datasets.annotations import Annotated, check_images
from dltrain.datasets.boxed_images import BoxedImages, Part, tile_windows
from dltrain.datasets.boxed_inputs import read_boxed
from dltrain.datasets.boxes import PrepareBoxes, box_spec, box_splits
from dltrain.datasets.class_counts import shorten_names
from dltrain.datasets.image_inputs import MODES
from dltrain.datasets.image_layout import SPLIT_NAMES
from dltrain.datasets.images import ImageTransform
from dltrain.errors import ConfigError, format_error, suggest

PARTS = ("train", "val", "test")
SPLIT_BY = ("picture", "area")
ONLY = "object"  # name of the only class with `single_class`
MIN_TILE_ROWS = 3  # an image with fewer rows of tiles is not divided among the splits


class DetectionFolder:
    """Images with boxes below ``path``: one COCO JSON file per split, or one Pascal VOC XML file per image.

    A split without a file, folder or list is held out from ``train``. Images are decoded when they are needed
    and resized to a square, as a whole or in tiles. Crowds (COCO) and difficult objects (Pascal VOC) are not
    training targets, and detections of them count neither as true nor as false positives.

    Args:
        path: The folder.
        image_size: Height and width of the square in pixels, at least 1.
        channels: 1 for gray images, 3 for color images.
        class_names: Different names of the classes; None uses the classes of the training images, in alphabetical
            order. Must be None with `single_class`.
        single_class: Whether to ignore the classes of the objects and detect one class, called ``object``.
        tile: Side in pixels of tiles into which images are cut without overlap. None for whole images.
        min_visible: Minimum fraction of the area of a box inside a tile or crop, in [0, 1]; boxes with a smaller
            fraction are dropped.
        split_by: ``picture`` divides the images among the splits; ``area`` divides each image by rows of tiles: the
            lowest rows for testing, the rows above them for validation. Images of fewer than three rows are used only
            for training.
        block: Number of consecutive images, in the order of their paths, that are kept in one split, at least 1; unused
            if `split_by` is ``area``.
        validation: Fraction to hold out for validation, in [0, 1); unused if the folder has a validation split.
        test: Fraction to hold out for testing, in (0, 1); unused if the folder has a test split.
        mean: Subtracted from the pixels, on the scale from 0 (black) to 1 (white); one number, or one per channel.
        std: Divisor after the subtraction, above 0; one number, or one per channel.
        augment: Random changes in training; see `dltrain.datasets.images.ImageTransform`.
        batch_size: Examples per batch, at least 1.
        workers: Processes that decode images; 0 decodes in the main process between steps.
        worker_timeout: Seconds without a batch after which workers count as hanging and the run stops.
        on_bad_sample: Policy for unreadable images, images of a different size than annotated, and boxes outside their
            images: ``stop`` or ``skip``.
        max_bad_samples: Maximum number of images to skip during training before the run stops, at least 1; images that
            are unreadable at the start do not count.
        fitted: Result of `fit` in an earlier run; None determines the classes from `class_names`, `single_class` and
            the training images.
    """

    def __init__(
        self,
        path: str,
        image_size: int = 320,
        channels: int = 3,
        class_names: list[str] | None = None,
        single_class: bool = False,
        tile: int | None = None,
        min_visible: float = 0.25,
        split_by: str = "picture",
        block: int = 1,
        validation: float = 0.15,
        test: float = 0.15,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 0.25,
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
        if channels not in (1, 3):
            raise ConfigError(format_error("data.channels", "1 (gray) or 3 (color)", channels))
        self.tile = tile if tile is None else at_least("data.tile", tile, 1)
        self.by_area = one_of("data.split_by", split_by, SPLIT_BY) == "area"
        if self.by_area and tile is None:
            raise ConfigError(format_error("data.tile", "a side in pixels because data.split_by=area", None))
        self.min_visible, self.single_class = min_visible, single_class
        self.block, self.validation, self.test = at_least("data.block", block, 1), validation, test
        self.transform = ImageTransform(channels, mean, std, augment)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.worker_timeout = worker_timeout
        self.bad = BadSamples(on_bad_sample, max_bad_samples)
        self.found: Parts = {}
        if fitted is None:
            self.found = self._find()
            self.names = self._name_classes(class_names)
        else:
            self.names = [str(name) for name in fitted["names"]]
        self.channels, self.prepare = channels, PrepareBoxes(self.transform.scaling())
        self.splits: dict[str, BoxedImages] = {}
        self.left_out: list[str] = []
        self.spec = box_spec(self.transform, (channels, image_size, image_size), self.names)

    def fit(self) -> Fitted:
        """Return the names of the classes."""
        return {"names": list(self.names)}

    def _find(self) -> Parts:
        return find_annotated(existing_folder(self.path, "an existing folder of images with annotations"))

    def _name_classes(self, wanted: list[str] | None) -> list[str]:
        if self.single_class:
            if wanted:
                raise ConfigError(format_error("data.class_names", "null with data.single_class=true", wanted))
            return [ONLY]
        check_class_names(wanted)
        found = sorted({name for annotated in self.found["train"] for name in annotated.names})
        if not (wanted or found):
            raise ConfigError(format_error("data.path", f"boxes in the training images of {self.path}", "none"))
        return wanted or found

    def _checked(self, images: Sequence[Annotated]) -> list[Annotated]:
        """Check that all classes are known, and return the readable images with their valid boxes."""
        for annotated in images:
            for name in annotated.names if not self.single_class else ():
                if name not in self.names:
                    expected = f"one of the classes ({shorten_names(self.names)}) in {annotated.source}"
                    raise ConfigError(format_error("data.path", expected, name, suggest(name, self.names)))
        kept, left_out = check_images(images, self.bad.policy == "skip")
        self.left_out += left_out
        return kept

    def evaluation(self) -> Source:
        """Return all images of the folder, from all splits."""
        images = self._checked([*chain.from_iterable(self._find().values())])
        return Source(self._files(images, self._cut(range(len(images)), images)), self.prepare)

    def load(self) -> Splits:
        """Check all files and boxes, and return the splits.

        Raises:
            ConfigError: A file, box, class or fraction is invalid, or a split has no boxes. The validation split may
                have no images.
        """
        self.left_out = []
        found = {split: self._checked(images) for split, images in self.found.items()}
        for split, checked in found.items():
            if not checked and split != "val":
                expected = f"readable images for the {SPLIT_NAMES[split]} split"
                raise ConfigError(format_error("data.path", expected, "none"))
        images = [*chain.from_iterable(found.values())]
        numbers = iter(range(len(images)))
        own = {split: [next(numbers) for _ in listed] for split, listed in found.items()}
        if "test" not in own:
            check_held_out(0 if "val" in own else self.validation, self.test)
        elif "val" not in own:
            check_fraction("data.validation", self.validation)
        missing = [(split, part) for split, part in (("test", self.test), ("val", self.validation)) if split not in own]
        if self.by_area:
            parts = self._split_areas(own, images, dict(missing))
        else:
            for split, fraction in missing:
                own["train"], own[split] = _hold_out(own["train"], fraction, self.block)
            parts = {split: self._cut(listed, images) for split, listed in own.items()}
        self.splits = {split: self._files(images, parts[split]) for split in PARTS}
        self._check_boxes()
        return box_splits(
            self.transform,
            self.splits["train"],
            self.splits["val"] if len(self.splits["val"]) else None,
            self.splits["test"],
        )

    def _cut(self, numbers: Sequence[int], images: Sequence[Annotated]) -> list[Part]:
        """Return the parts of the images with these indices."""
        if self.tile is None:
            return [Part(number) for number in numbers]
        sizes = {number: images[number].size or (0, 0) for number in numbers}
        return [Part(n, window) for n in numbers for window in tile_windows(*sizes[n], self.tile)]

    def _split_areas(
        self, own: dict[str, list[int]], images: Sequence[Annotated], fractions: dict[str, float]
    ) -> dict[str, list[Part]]:
        """Return the tiles of each split; missing splits get the lowest rows of tiles in the training images."""
        parts = {split: self._cut(own.get(split, []), images) for split in PARTS}
        tiles, parts["train"] = parts["train"], []
        for number in own["train"]:
            rows = sorted({part.window[1] for part in tiles if part.image == number and part.window})
            kept = rows
            for split, fraction in fractions.items() if len(rows) >= MIN_TILE_ROWS else ():
                count = min(held_out_size(len(rows), fraction), len(kept) - 1)
                kept, held = kept[: len(kept) - count], kept[len(kept) - count :]
                parts[split] += [part for part in tiles if part.image == number and part.window[1] in held]  # type: ignore[index]
            parts["train"] += [part for part in tiles if part.image == number and part.window[1] in kept]  # type: ignore[index]
        return parts

    def _files(self, images: Sequence[Annotated], parts: Sequence[Part]) -> BoxedImages:
        kinds = {name: number for number, name in enumerate(self.names, 1)}
        if self.single_class:
            images = [replace(each, names=(ONLY,) * len(each.names)) for each in images]
        size, mode, augmentation = self.image_size, MODES[self.channels], self.transform.augment
        return BoxedImages(images, parts, self.path, kinds, size, mode, self.min_visible, augmentation)

    def _check_boxes(self) -> None:
        for split, files in self.splits.items():
            name = SPLIT_NAMES[split]
            if len(files) and not sum(files.count_boxes().values()):
                raise ConfigError(format_error("data.path", f"boxes in the images of the {name} split", "none"))
            if not len(files) and split != "val":
                if not self.by_area and self.block == 1:
                    got = f"none for the {name} split"
                    raise ConfigError(format_error("data.path", "at least one image for each split", got))
                key, size = ("data.tile", self.tile) if self.by_area else ("data.block", self.block)
                raise ConfigError(format_error(key, f"a size that leaves images for the {name} split", size))

    def describe(self) -> list[str]:
        """Return lines about the images, splits and boxes that were found, and about images and boxes left out."""
        counts = {split: files.count_boxes() for split, files in self.splits.items()}
        images = {part.image for files in self.splits.values() for part in files.parts}
        what = "images" if self.tile is None else f"tiles of {self.tile} x {self.tile} pixels"
        total: Counter[str] = sum(counts.values(), Counter())
        named = (f"{name} {total[name]:,}" for name in self.names)
        return [
            f"{len(images):,} images with {total.total():,} boxes in {self.path}",
            ", ".join(f"{split} {len(self.splits[split]):,} {what}" for split in PARTS),
            f"boxes: {', '.join(f'{split} {counts[split].total():,}' for split in PARTS)}",
            f"classes of objects: {shorten_names(named)}",
            *([f"left out: {len(self.left_out):,}; the first: {self.left_out[0]}"] if self.left_out else []),
        ]

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read image files, which are cut into tiles as in training, and arrays, which are not cut."""
        return read_boxed(files, self.transform, (self.channels, self.image_size, self.image_size), self.tile)


def _hold_out(numbers: list[int], fraction: float, block: int) -> tuple[list[int], list[int]]:
    """Return the images to keep and the images to hold out, chosen in blocks of consecutive images."""
    blocks = [numbers[start : start + block] for start in range(0, len(numbers), block)]
    kept, held_out = (part.sort().values.tolist() for part in hold_out(len(blocks), fraction))
    return [n for index in kept for n in blocks[index]], [n for index in held_out for n in blocks[index]]

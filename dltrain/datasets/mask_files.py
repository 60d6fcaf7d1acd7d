"""Masks as image files: find the mask of each image, and read the pixel values of masks."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dltrain.data.folders import find_files
from dltrain.datasets.image_check import find_problem, image_size
from dltrain.datasets.image_inputs import FORMATS, SUFFIXES, UNREADABLE, Crop
from dltrain.datasets.masks import UNKNOWN
from dltrain.errors import ConfigError, format_error

INDEXED = ("1", "L", "P")  # PIL modes whose pixels are numbers rather than colors
DEEP = ("I", "I;16", "I;16B", "I;16L")  # modes with larger numbers; only values up to 255 can be classes
FOREIGN = 254  # in a lookup table: a value that is not a class
BINARY = [0, 255]  # values of black and white masks
MAX_CLASSES = FOREIGN  # the last class has the number 253

Pair = tuple[Path, Path]  # image and mask


def find_pairs(root: Path) -> list[Pair]:
    """Return each image in ``images`` with its mask: the image file in ``masks`` with the same name.

    Suffixes may differ. Pairs are sorted by name.

    Raises:
        ConfigError: There is no image, an image has no mask, or two files of a folder differ only in suffix.
    """
    images, masks = (_by_name(root / folder) for folder in ("images", "masks"))
    if not images:
        hint = "data.path must contain images/ and masks/, train/ with both, or the folders of Pascal VOC"
        raise ConfigError(format_error("data.path", f"images in {root / 'images'}", "none", hint))
    if lacking := sorted(images.keys() - masks.keys()):
        more = f" and {len(lacking) - 1:,} more" if len(lacking) > 1 else ""
        raise ConfigError(
            format_error("data.path", f"a mask in {root / 'masks'} for each image", f"none for {lacking[0]}{more}")
        )
    return [(images[name], masks[name]) for name in sorted(images)]


def _by_name(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    found: dict[str, Path] = {}
    for path in sorted(path for path in find_files(folder) if path.suffix.casefold() in SUFFIXES):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise ConfigError(
                format_error("data.path", f"one file per name in {folder}", f"{found[name].name} and {path.name}")
            )
        found[name] = path
    return found


def find_values(pairs: Iterable[Pair], ignore: int | None, skip: bool = False) -> list[int]:
    """Return the pixel values of masks in ascending order, without `ignore` unless all are 0 or 255.

    Args:
        skip: Leave out masks that cannot be read.

    Raises:
        ConfigError: A mask cannot be read, or there are more than `MAX_CLASSES` values.
    """
    found: set[int] = set()
    for _, mask in pairs:
        try:
            found.update(np.unique(_read(mask)).tolist())
        except UNREADABLE as error:
            if not skip:
                raise ConfigError(format_error("data.path", f"a readable mask at {mask}", str(error))) from error
    values = sorted(found if found <= {*BINARY} else found - {ignore})
    if len(values) > MAX_CLASSES:
        raise ConfigError(format_error("data.path", f"masks of at most {MAX_CLASSES} classes", f"{len(values)} values"))
    return values


def lookup_table(values: list[int], ignored: int | None) -> np.ndarray:
    """Return the class index of each pixel value, uint8 (256,): `UNKNOWN` for `ignored`, `FOREIGN` for other values."""
    table = np.full(256, FOREIGN, dtype=np.uint8)
    table[values] = np.arange(len(values))
    if ignored is not None:
        table[ignored] = UNKNOWN
    return table


def decode_mask(path: Path, image: Path, size: int, table: np.ndarray, crop: Crop) -> np.ndarray:
    """Decode a mask to class indices (size, size) in uint8, by nearest neighbor; `UNKNOWN` for pixels without a class.

    Args:
        image: File of the image, whose size the mask must have.
        table: Result of `lookup_table`.
        crop: Function of the mask's width and height that returns the region to resize: left, top, right, bottom.

    Raises:
        OSError, SyntaxError, ValueError, Image.DecompressionBombError: The mask cannot be read, has
            a different size than the image, or contains a value that is not a class.
    """
    values = _read(path)
    expected = image_size(image)
    if values.shape[::-1] != expected:
        sizes = *values.shape[::-1], *expected
        raise ValueError("a mask of {} x {} pixels for an image of {} x {}".format(*sizes))
    classes = table[values]
    if (classes == FOREIGN).any():
        known = " ".join(map(str, np.flatnonzero(table < FOREIGN)))
        raise ValueError(f"the value {values[classes == FOREIGN][0]} in the mask, which is none of {known}")
    window = crop(values.shape[1], values.shape[0])
    return np.asarray(Image.fromarray(classes).resize((size, size), Image.Resampling.NEAREST, window))


def mask_problem(pair: Pair, table: np.ndarray) -> str | None:
    """Return the file that is invalid and why, or None if the image and its mask are valid.

    Args:
        table: Result of `lookup_table`.
    """
    image, mask = pair
    if (reason := find_problem(image)) is not None:
        return f"{image}: {reason}"
    try:
        decode_mask(mask, image, 1, table, lambda width, height: (0, 0, width, height))
    except UNREADABLE as error:
        return f"{mask}: {error}"
    return None


def _read(path: Path) -> np.ndarray:
    """Return the pixel values of a mask, (height, width) in uint8, upright according to its EXIF data."""
    with Image.open(path, formats=FORMATS) as image:
        values = np.asarray(ImageOps.exif_transpose(image))
        if image.mode not in (*INDEXED, *DEEP):
            raise ValueError(f"colors ({image.mode}), but classes must be palette indices or gray levels")
    if values.max(initial=0) > 255 or values.min(initial=0) < 0:
        raise ValueError(f"values from {values.min()} to {values.max()}, but classes are numbers from 0 to 255")
    return values.astype(np.uint8)

"""Annotated images: find image files by name, and check images and boxes."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from dltrain.data.folders import find_files
from dltrain.datasets.image_inputs import DEEP_MODES, FORMATS, UNREADABLE, read_upright
from dltrain.datasets.image_layout import is_image, split_of
from dltrain.errors import ConfigError, format_error

END_OF_JPEG = b"\xff\xd9"
TAIL = 4096  # bytes to read at the end of a file; only zeros may follow END_OF_JPEG
ORIENTATION, TURNED = 0x0112, 5  # EXIF tag, and the smallest of its values that swap width and height


@dataclass(frozen=True)
class Annotated:
    """An image and the objects in it.

    Args:
        image: The image file.
        source: The annotation file, for messages.
        size: Width and height in pixels according to the annotation; None if it does not state them.
        boxes: Left, top, right and bottom edge in pixels of the upright image, (M, 4) in float64.
        names: The class of each object.
        crowds: Whether each box is ignored: a crowd in COCO, a difficult object in Pascal VOC.
    """

    image: Path
    source: Path
    size: tuple[int, int] | None
    boxes: np.ndarray
    names: tuple[str, ...]
    crowds: tuple[bool, ...]


def split_in(name: str) -> str | None:
    """Return the split that a name such as ``instances_val2017`` contains; None if it contains none or several."""
    words = re.split(r"[\W_\d]+", name)
    named = {split for word in (name, *words) if (split := split_of(word))}
    return named.pop() if len(named) == 1 else None


class ImageIndex:
    """Index of image files by file name.

    Args:
        root: Folder that is searched for images at any depth.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.by_name: dict[str, list[Path]] = {}
        for path in sorted(find_files(root)):
            if is_image(path):
                self.by_name.setdefault(path.name, []).append(path)

    def find(self, name: str, source: Path, split: str | None = None) -> Path | None:
        """Return the image file called `name`, or None if there is none.

        If no path ends with `name`, only the file name is compared. If several files match, choose the one in the
        folder of the annotation file or in its subfolder ``images``. If there is none, choose the only one in a folder
        of `split`.

        Args:
            name: Path of the image as written in the annotation.
            source: The annotation file.
            split: The split of the annotation file; None if unknown.

        Raises:
            ConfigError: Several files have this name, and none can be chosen.
        """
        parts = Path(name.replace("\\", "/"))
        found = [path for path in self.by_name.get(parts.name, []) if path.parts[-len(parts.parts) :] == parts.parts]
        found = found or self.by_name.get(parts.name, [])
        if len(found) > 1:
            near = [path for path in found if path.parent in (source.parent, source.parent / "images")]
            same = [path for path in found if any(split_in(part) == split for part in path.parts[:-1])]
            found = near or (same if split and len(same) == 1 else found)
        if len(found) > 1:
            expected = f"one image file {name} for {source.name}"
            raise ConfigError(format_error("data.path", expected, f"{found[0]} and {found[1]}"))
        return found[0] if found else None


def probe(path: Path) -> tuple[int, int]:
    """Return the width and height of an image, upright according to its EXIF data, and check that it is complete.

    JPEG files that end with the end marker are not decoded. For most PNG files, only the checksums are verified. All
    other images are decoded.

    Raises:
        OSError, SyntaxError, ValueError, Image.DecompressionBombError: The image cannot be read.
    """
    with Image.open(path, formats=FORMATS) as image:
        form, deep, size = image.format, image.mode.startswith(DEEP_MODES), image.size
        turned = form != "PNG" and image.getexif().get(ORIENTATION, 1) >= TURNED
        if form == "PNG" and not deep and "exif" not in image.info:
            image.verify()
            return size
    if form == "JPEG" and _ends(path):
        return size[::-1] if turned else size
    return read_upright(path, "RGB").size


def _ends(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        return file.read().rstrip(b"\0").endswith(END_OF_JPEG)


def check_images(images: Iterable[Annotated], skip: bool) -> tuple[list[Annotated], list[str]]:
    """Return the images with their sizes and clipped boxes, and a message for each image or box that is left out.

    Args:
        skip: Leave out invalid images and boxes instead of raising an error.

    Raises:
        ConfigError: An image cannot be read or has a different size than its annotation states, or a box has no area
            inside its image.
    """
    kept, problems = list[Annotated](), list[str]()
    for annotated in images:
        try:
            size = probe(annotated.image)
        except UNREADABLE as error:
            problems.append(format_error("data.path", f"a readable image at {annotated.image}", str(error)))
            continue
        if annotated.size is not None and annotated.size != size:
            expected = (
                f"{annotated.size[0]} x {annotated.size[1]} pixels in {annotated.image}, as in {annotated.source.name}"
            )
            problems.append(format_error("data.path", expected, f"{size[0]} x {size[1]}"))
            continue
        inside, outside = _cut(replace(annotated, size=size))
        kept.append(inside)
        problems += outside
    if problems and not skip:
        more = f" In total, {len(problems):,} images and boxes are invalid." if len(problems) > 1 else ""
        raise ConfigError(f"{problems[0]}. data.on_bad_sample=skip leaves such images and boxes out.{more}")
    return kept, problems


def _cut(annotated: Annotated) -> tuple[Annotated, list[str]]:
    """Return the image with clipped boxes, and a message for each box that is dropped because no area is left."""
    assert annotated.size is not None
    width, height = annotated.size
    boxes = annotated.boxes.clip(0, [width, height, width, height])
    good = (boxes[:, 2:] > boxes[:, :2]).all(1)
    expected = f"boxes with an area inside the {width} x {height} pixels of {annotated.image.name}"
    lines = [
        format_error("data.path", expected, f"{' '.join(f'{edge:g}' for edge in box)} in {annotated.source}")
        for box in annotated.boxes[~good]
    ]
    kept = np.flatnonzero(good)
    names, crowds = tuple(annotated.names[index] for index in kept), tuple(annotated.crowds[index] for index in kept)
    return replace(annotated, boxes=boxes[good], names=names, crowds=crowds), lines


def as_boxes(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """Return boxes as an array (M, 4); (0, 4) if there are none."""
    return np.array(rows, dtype=np.float64).reshape(-1, 4)

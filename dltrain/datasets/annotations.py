"""Pictures with the boxes of their annotation files, and checks of both."""

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
TAIL = 4096  # bytes at the end of a file in which that marker is expected
ORIENTATION, TURNED = 0x0112, 5  # EXIF tag, and the smallest of its values that swap width and height


@dataclass(frozen=True)
class Annotated:
    """A picture and the objects in it.

    Args:
        image: The file.
        source: The annotation file, for messages.
        size: Width and height in pixels according to the annotation; None if it does not state them.
        boxes: Left, top, right and bottom edge in pixels of the upright picture, (M, 4) in float64.
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
    """Index of picture files by their names in annotations.

    Args:
        root: Folder below which pictures are searched.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.by_name: dict[str, list[Path]] = {}
        for path in sorted(find_files(root)):
            if is_image(path):
                self.by_name.setdefault(path.name, []).append(path)

    def find(self, name: str, source: Path, split: str | None = None) -> Path | None:
        """Return the file called `name` below the root, or None; of several, the one next to the annotation file.

        Args:
            name: Path of the picture as written in the annotation.
            source: The annotation file.
            split: The split of the annotation, to choose between several other files of this name.

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
            expected = f"one picture {name}, of {source.name}"
            raise ConfigError(format_error("data.path", expected, f"{found[0]} and {found[1]}"))
        return found[0] if found else None


def probe(path: Path) -> tuple[int, int]:
    """Return the width and height of a picture, upright according to its EXIF data, and check that it is complete.

    Truncated JPEG files are found by their end, PNG files by their checksums; other files are decoded.

    Raises:
        OSError, SyntaxError, ValueError, Image.DecompressionBombError: The picture cannot be read.
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


def check_pictures(pictures: Iterable[Annotated], skip: bool) -> tuple[list[Annotated], list[str]]:
    """Return the pictures with their sizes and their boxes cut at the edges, and a message for each one left out.

    Args:
        skip: Leave out pictures that are unreadable or of another size, and boxes outside, instead of raising an error.

    Raises:
        ConfigError: A picture cannot be read, has another size than its annotation states, or a box is outside.
    """
    kept, left_out, problems = list[Annotated](), list[str](), list[str]()
    for picture in pictures:
        try:
            size = probe(picture.image)
        except UNREADABLE as error:
            problems.append(format_error("data.path", f"a readable picture at {picture.image}", str(error)))
            continue
        if picture.size is not None and picture.size != size:
            expected = f"{picture.size[0]} x {picture.size[1]} pixels in {picture.image}, as in {picture.source.name}"
            problems.append(format_error("data.path", expected, f"{size[0]} x {size[1]}"))
            continue
        inside, outside = _cut(replace(picture, size=size))
        kept.append(inside)
        problems += outside
    if problems and not skip:
        more = f" {len(problems):,} pictures and boxes are wrong in all." if len(problems) > 1 else ""
        raise ConfigError(f"{problems[0]}. data.on_bad_sample=skip leaves such pictures or boxes out.{more}")
    left_out = problems
    return kept, left_out


def _cut(picture: Annotated) -> tuple[Annotated, list[str]]:
    """Return the picture with its boxes cut at the edges, without those of no area left, and a message for each."""
    assert picture.size is not None
    width, height = picture.size
    boxes = picture.boxes.clip(0, [width, height, width, height])
    good = (boxes[:, 2:] > boxes[:, :2]).all(1)
    expected = f"boxes of some area inside the {width} x {height} pixels of {picture.image.name}"
    lines = [
        format_error("data.path", expected, f"{' '.join(f'{edge:g}' for edge in box)} in {picture.source}")
        for box in picture.boxes[~good]
    ]
    kept = np.flatnonzero(good)
    names, crowds = tuple(picture.names[index] for index in kept), tuple(picture.crowds[index] for index in kept)
    return replace(picture, boxes=boxes[good], names=names, crowds=crowds), lines


def as_boxes(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """Return boxes as an array (M, 4), also if there are none."""
    return np.array(rows, dtype=np.float64).reshape(-1, 4)

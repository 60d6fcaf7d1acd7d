"""Annotations in the XML format of Pascal VOC."""

import math
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from dltrain.datasets.annotations import Annotated, ImageIndex, as_boxes
from dltrain.datasets.image_inputs import SUFFIXES
from dltrain.errors import ConfigError, format_error

EXPECTED = "Pascal VOC annotations"
EDGES = ("xmin", "ymin", "xmax", "ymax")
MAX_BYTES = 2**26


def read_voc(paths: Iterable[Path], images: ImageIndex, split: str | None = None) -> list[Annotated]:
    """Return the annotated image of each file, sorted by path; images without objects are kept.

    Pascal VOC counts pixels from 1, and a box includes the pixels at xmax and ymax. If xmin or ymin of any box is 0 or
    below, the coordinates in all files are assumed to be edges counted from 0, and are not converted.

    Raises:
        ConfigError: A file cannot be read, is too large, or is not an annotation of Pascal VOC.
    """
    found = [_read(path, images, split) for path in sorted(paths)]
    if any((annotated.boxes[:, :2] <= 0).any() for annotated in found):
        return found
    for annotated in found:
        annotated.boxes[:, :2] -= 1
    return found


def _read(path: Path, images: ImageIndex, split: str | None) -> Annotated:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"a file of more than {MAX_BYTES:,} bytes")
        root = ElementTree.fromstring(path.read_bytes())
        if root.tag != "annotation":
            raise ValueError(f"<{root.tag}> instead of <annotation>")
        objects = root.findall("object")
        boxes = as_boxes([[_number(entry, f"bndbox/{edge}") for edge in EDGES] for entry in objects])
        names = tuple(_text(entry, "name") for entry in objects)
        difficult = tuple((entry.findtext("difficult") or "0").strip() not in ("", "0") for entry in objects)
        size = _size(root)
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise ConfigError(format_error("data.path", f"{EXPECTED} in {path}", str(error))) from None
    return Annotated(_find_image(path, root, images, split), path, size, boxes, names, difficult)


def _find_image(path: Path, root: ElementTree.Element, images: ImageIndex, split: str | None) -> Path:
    """Return the image that an annotation names, or the image with the annotation's stem; the file need not exist."""
    named = (root.findtext("filename") or "").strip()
    for name in (named, *(path.stem + suffix for suffix in SUFFIXES), *(path.stem + s.upper() for s in SUFFIXES)):
        if name and (found := images.find(name, path, split)):
            return found
    return path.with_name(named or f"{path.stem}.jpg")


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    if root.find("size") is None:
        return None
    width, height = (int(_number(root, f"size/{name}")) for name in ("width", "height"))
    return (width, height) if width and height else None


def _text(entry: ElementTree.Element, name: str) -> str:
    text = (entry.findtext(name) or "").strip()
    if not text:
        raise ValueError(f"an object without <{name}>")
    return text


def _number(entry: ElementTree.Element, name: str) -> float:
    text = entry.findtext(name)
    if text is None:
        raise ValueError(f"no <{name}>")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"<{name}> with {text!r} instead of a number")
    return value

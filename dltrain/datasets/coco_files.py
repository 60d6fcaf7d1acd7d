"""Annotations in the JSON format of COCO."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dltrain.datasets.annotations import Annotated, ImageIndex, as_boxes
from dltrain.errors import ConfigError, format_error

EXPECTED = "COCO annotations (an object with images, annotations and categories)"


def is_coco(content: Any) -> bool:
    """Return whether parsed JSON looks like COCO annotations."""
    return isinstance(content, dict) and "images" in content and "annotations" in content


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        ConfigError: The file cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            format_error("data.path", f"{EXPECTED} in {path}", f"a file that cannot be read as JSON: {error}")
        ) from None


def read_coco(path: Path, content: Mapping[str, Any], images: ImageIndex, split: str | None) -> list[Annotated]:
    """Return the images of a COCO file in the order of their paths; images without objects are kept.

    Raises:
        ConfigError: An entry is incomplete, has an invalid box or refers to an unknown image or category, two images
            or categories have the same id, or several files match the name of an image.
    """
    try:
        return _read(path, content, images, split)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        got = f"an entry without {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(format_error("data.path", f"{EXPECTED} in {path}", got)) from None


def _read(path: Path, content: Mapping[str, Any], images: ImageIndex, split: str | None) -> list[Annotated]:
    for key in ("images", "categories"):
        number, times = next(iter(Counter(entry["id"] for entry in content[key]).most_common(1)), (None, 1))
        if times > 1:
            raise ValueError(f"{times} {key} with id {number}")
    names = {kind["id"]: str(kind["name"]) for kind in content["categories"]}
    objects: dict[Any, list[Mapping[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for entry in content["annotations"]:
        if entry["category_id"] not in names:
            _reject(path, entry, "category_id", f"one of the categories {' '.join(map(str, names))}")
        if entry["image_id"] not in objects:
            _reject(path, entry, "image_id", "the id of one of the images")
        if not _is_box(entry["bbox"]):
            _reject(path, entry, "bbox", "four finite numbers (left, top, width and height)")
        objects[entry["image_id"]].append(entry)
    found = [_annotated(path, image, objects[image["id"]], names, images, split) for image in content["images"]]
    return sorted(found, key=lambda annotated: annotated.image.as_posix())


def _annotated(
    path: Path,
    image: Mapping[str, Any],
    objects: list[Mapping[str, Any]],
    names: Mapping[Any, str],
    images: ImageIndex,
    split: str | None,
) -> Annotated:
    corners = [(left, top, left + width, top + height) for left, top, width, height in (o["bbox"] for o in objects)]
    size = (int(image["width"]), int(image["height"])) if image.get("width") and image.get("height") else None
    file = images.find(str(image["file_name"]), path, split) or images.root / str(image["file_name"])
    kinds = tuple(names[entry["category_id"]] for entry in objects)
    crowds = tuple(bool(entry.get("iscrowd", 0)) for entry in objects)
    return Annotated(file, path, size, as_boxes(corners), kinds, crowds)


def _is_box(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 4 and all(type(edge) in (int, float) for edge in value)
    return numbers and all(map(math.isfinite, value))


def _reject(path: Path, entry: Mapping[str, Any], key: str, expected: str) -> None:
    where = f"annotation {entry.get('id', '?')} of {path}"
    raise ConfigError(format_error("data.path", f"{expected} as {key} in {where}", entry[key]))

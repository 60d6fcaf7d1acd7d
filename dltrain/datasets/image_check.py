"""Find image files that cannot be decoded, before training and without decoding all files."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image

from dltrain.data.bad_samples import BadSamples
from dltrain.datasets.image_inputs import DEEP_MODES, FORMATS, UNREADABLE, decode_image
from dltrain.errors import ConfigError

T = TypeVar("T")
MAX_CHECKED = 20_000  # maximum number of files to check; more would delay the start of training
TAIL_BYTES = 4096
# End marker of a complete file. A file without this marker in its last bytes is decoded, because it may still be valid.
# Files of other formats are always decoded.
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}


def find_problem(path: Path) -> str | None:
    """Return why an image file cannot be decoded, or None.

    An 8-bit JPEG or PNG file with the end marker in its last `TAIL_BYTES` bytes is not decoded, so damage before the
    marker is not found.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            end, deep = ENDS.get(image.format or ""), image.mode.startswith(DEEP_MODES)
        if end is None or deep or end not in _tail(path):
            decode_image(path, "RGB", 1, 1)
    except UNREADABLE as error:
        return str(error)
    return None


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height of an image file in pixels, after applying its EXIF orientation."""
    with Image.open(path, formats=FORMATS) as image:
        turned = image.getexif().get(0x0112, 1) >= 5
        return image.size[::-1] if turned else image.size


def reject_unreadable(
    examples: Sequence[T], problem: Callable[[T], str | None], kind: str, bad: BadSamples, limit: int = MAX_CHECKED
) -> None:
    """Reject examples that cannot be read, unless they may be skipped.

    Args:
        examples: The examples in order of importance; only the first ``limit`` are checked.
        problem: Function that returns the file of an example and why it cannot be read, or None if it can.
        kind: Name of the examples for the message.

    Raises:
        ConfigError: Some of the checked examples cannot be read; the message has their number and names the first one.
    """
    if bad.policy == "skip":
        return
    found = [line for example in examples[:limit] if (line := problem(example)) is not None]
    if found:
        checked = f"{min(limit, len(examples)):,} checked {kind}"
        others = f" ({len(found):,} of {checked} are unreadable)" if len(found) > 1 else ""
        hint = "Replace or delete it. data.on_bad_sample=skip skips such examples"
        raise ConfigError(f"data.path: expected readable {kind}, got {found[0]}{others}. {hint}.")


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read()

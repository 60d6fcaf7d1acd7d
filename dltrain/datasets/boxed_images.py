"""Images with boxes, decoded one at a time, whole or cut into tiles."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from dltrain.datasets.annotations import Annotated
from dltrain.datasets.augmentation import Augmentation, crop_window
from dltrain.datasets.boxes import Boxed, cut_boxes, stack_boxed, to_window
from dltrain.datasets.image_inputs import UNREADABLE, Window, read_upright
from dltrain.errors import ConfigError, format_error
from dltrain.keyed_random import draw

CACHED_BYTES = 2**29  # maximum total size of the cached images, per split and process


class Part(NamedTuple):
    """A window of an image; it may extend beyond the right and bottom edges.

    Args:
        image: Index of the image.
        window: Left, top, right and bottom edge in pixels; None for the whole image.
    """

    image: int
    window: tuple[int, int, int, int] | None = None


def tile_windows(width: int, height: int, tile: int) -> list[tuple[int, int, int, int]]:
    """Return squares that tile an image row by row; they may extend beyond its right and bottom edges."""
    rows, columns = math.ceil(height / tile), math.ceil(width / tile)
    corners = [(column * tile, row * tile) for row in range(rows) for column in range(columns)]
    return [(left, top, left + tile, top + tile) for left, top in corners]


def cut_window(image: Image.Image, window: Window, size: int) -> np.ndarray:
    """Return a window of an image, resized to a square (size, size, channels) in uint8; black beyond the edges."""
    whole = window[0] >= 0 and window[1] >= 0 and window[2] <= image.width and window[3] <= image.height
    if not whole:
        left, top = math.floor(window[0]), math.floor(window[1])
        image = image.crop((left, top, math.ceil(window[2]), math.ceil(window[3])))
        window = (window[0] - left, window[1] - top, window[2] - left, window[3] - top)
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, window))
    return pixels.reshape(size, size, -1)


class BoxedImages:
    """Parts of images with their boxes; implements `dltrain.data.spec.Files`.

    Args:
        images: All images.
        parts: The part of an image that each example shows.
        root: Folder that file names are relative to.
        kinds: Class name -> class number, from 1.
        size: Height and width of an example in pixels.
        mode: PIL mode of the images.
        visible: Minimum fraction of the area of a box inside a part; boxes with a smaller fraction are dropped.
        augmentation: Random changes in training; only the crop is applied here, at full resolution.
    """

    def __init__(
        self,
        images: Sequence[Annotated],
        parts: Sequence[Part],
        root: Path,
        kinds: Mapping[str, int],
        size: int,
        mode: str,
        visible: float,
        augmentation: Augmentation,
    ) -> None:
        self.images, self.parts, self.root, self.kinds = images, parts, root, kinds
        self.size, self.mode, self.visible, self.augmentation = size, mode, visible, augmentation
        self.cache: dict[int, Image.Image] = {}
        self.cached_bytes = 0

    def __len__(self) -> int:
        return len(self.parts)

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield, for each part, the image path with a hash of objects and window, and the file size (-1 if missing)."""
        for number, window in self.parts:
            annotated = self.images[number]
            content = f"{annotated.boxes.tolist()} {annotated.names} {annotated.crowds} {window}"
            digest = hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()[:16]
            exists = annotated.image.exists()
            yield (
                f"{annotated.image.relative_to(self.root).as_posix()} {digest}",
                (annotated.image.stat().st_size if exists else -1),
            )

    def count_boxes(self) -> Counter[str]:
        """Return the number of boxes of each class, without crowds; a box in several tiles counts in each."""
        counts: Counter[str] = Counter()
        for number, window in self.parts:
            annotated = self.images[number]
            indices = np.flatnonzero(~np.array(annotated.crowds, dtype=bool))
            if window is not None:
                _, indices = cut_boxes(annotated.boxes[indices], indices, window, self.visible)
            counts.update(annotated.names[index] for index in indices)
        return counts

    def example(self, index: int, key: int | None) -> Boxed:
        """Decode a part of an image, cropped at random in training, with its boxes."""
        number, window = self.parts[index]
        annotated = self.images[number]
        try:
            upright = self._open(number, keep=window is not None)
        except UNREADABLE as error:
            expected = f"a readable image at {annotated.image} (index {index} of its split)"
            raise ConfigError(format_error("data.path", expected, str(error), "Replace or delete it")) from error
        part = self._crop(window or (0, 0, *upright.size), key)
        signs = np.where(annotated.crowds, -1, 1)
        kinds = signs * np.array([self.kinds[name] for name in annotated.names], dtype=np.int64)
        boxes, kinds = cut_boxes(annotated.boxes, kinds.astype(np.int64), part, self.visible)
        moved, frame = to_window(boxes, part, self.size)
        return Boxed(cut_window(upright, part, self.size), moved, kinds, frame)

    def _open(self, number: int, keep: bool) -> Image.Image:
        """Return a decoded image; with `keep`, cache it for its other parts as long as `CACHED_BYTES` allows."""
        if number in self.cache:
            return self.cache[number]
        upright = read_upright(self.images[number].image, self.mode)
        used = upright.width * upright.height * len(upright.getbands())
        if keep and self.cached_bytes + used <= CACHED_BYTES:
            self.cache[number] = upright
            self.cached_bytes += used
        return upright

    def _crop(self, window: Window, key: int | None) -> Window:
        if key is None or self.augmentation.min_area == 1:
            return window
        left, top, right, bottom = window
        size = bottom - top, right - left
        x, y, across, along = map(float, crop_window(self.augmentation, draw(key, 4), *map(int, size)))
        return left + x, top + y, left + x + across * size[1], top + y + along * size[0]

    def stack(self, examples: list[Boxed]) -> dict[str, Tensor]:
        """Return the fields of a batch."""
        return stack_boxed(examples)

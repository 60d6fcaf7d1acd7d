"""User-provided images for detection: whole, or cut into tiles as in training."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import UnidentifiedImageError

from dltrain.data.inputs import InputFile, InputFiles
from dltrain.data.spec import Inputs
from dltrain.datasets import array_inputs
from dltrain.datasets.boxed_images import cut_window, tile_windows
from dltrain.datasets.boxes import Boxed, stack_boxed, to_window
from dltrain.datasets.image_inputs import MODES, SUFFIXES, UNREADABLE, Window, read_upright
from dltrain.datasets.images import ImageTransform
from dltrain.errors import ConfigError, format_error

NO_BOXES = np.zeros((0, 4), np.float32)
NO_KINDS = np.zeros(0, np.int64)
Decoded = tuple[dict[str, Any], list[Boxed]]  # name and parts of an image


def read_boxed(
    files: InputFiles, transform: ImageTransform, shape: tuple[int, int, int], tile: int | None = None
) -> Iterator[Inputs]:
    """Yield batches of images or tiles with the fields ``frame`` and ``parts`` of `Boxed`.

    All tiles of an image are in one batch.

    Args:
        files: Image files, which are resized, and arrays, whose shape and scale must be those of the data set.
        transform: Transform with the pixel scale of the data set.
        shape: Channels, height and width of the images of the data set; height and width are equal.
        tile: Side of the tiles to cut images into; None for whole images.
    """
    pending: list[Decoded] = []
    error = None
    try:
        for image in _images(files, transform, shape, tile):
            pending.append(image)
            if sum(len(parts) for _, parts in pending) >= files.batch_size:
                yield _stack(pending)
                pending = []
    except ConfigError as caught:
        error = caught
    if pending:
        yield _stack(pending)
    if error is not None:
        raise error


def _stack(images: list[Decoded]) -> Inputs:
    rows = stack_boxed([part for _, parts in images for part in parts])
    kept = {name: value for name, value in rows.items() if name not in ("boxes", "kinds")}
    return Inputs(kept, [name for name, _ in images])


def _images(
    files: InputFiles, transform: ImageTransform, shape: tuple[int, int, int], tile: int | None
) -> Iterator[Decoded]:
    for file in files.expand("image files, folders of them, or .npy and .npz files of images", SUFFIXES):
        with file.errors_as_input():
            content = file.read_bytes()
            if file.suffix in array_inputs.SUFFIXES or content.startswith(array_inputs.MAGIC):
                for name, pixels in array_inputs.iterate_examples(file, content, shape):
                    stored = transform.arrays.to_stored(pixels, "INPUT", name["input"])
                    frame = np.array([0, 0, 1, 1], np.float32)
                    yield name, [Boxed(stored.transpose(1, 2, 0), NO_BOXES, NO_KINDS, frame)]
            else:
                yield _decode(file, content, shape, tile)


def _decode(file: InputFile, content: bytes, shape: tuple[int, int, int], tile: int | None) -> Decoded:
    channels, size, _ = shape
    try:
        upright = read_upright(io.BytesIO(content), MODES[channels])
    except UNREADABLE as error:
        reason = "a file that is not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ConfigError(format_error("INPUT", f"a readable image at {file.path}", reason)) from error
    windows: list[Window] = [(0, 0, *upright.size)]
    if tile is not None:
        windows = list(tile_windows(*upright.size, tile))
    parts = []
    for window in windows:
        _, frame = to_window(NO_BOXES, window, size)
        parts.append(Boxed(cut_window(upright, window, size), NO_BOXES, NO_KINDS, frame, len(windows)))
    return {"input": file.name, "width": upright.width, "height": upright.height}, parts

"""Spec values, windows and batches of all data sets of images with boxes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.data.spec import Files, Source, Spec, Splits
from dltrain.datasets.changes import make_changes
from dltrain.datasets.geometry import Frame
from dltrain.datasets.images import ImageTransform, Rows, ScalePixels, image_spec
from dltrain.errors import ConfigError

FIELDS = ("boxes", "kinds", "frame", "parts")


class Boxed(NamedTuple):
    """A decoded part of an image.

    Args:
        pixels: Pixels of the part, (size, size, channels) in uint8.
        boxes: Left, top, right and bottom edge in these pixels, (M, 4) in float32.
        kinds: Classes from 1, negative for crowds, (M,) in int64.
        frame: Left, top, horizontal scale, vertical scale; they map boxes to pixels of the file, (4,) in float32.
        parts: Number of parts of the image.
    """

    pixels: np.ndarray
    boxes: np.ndarray
    kinds: np.ndarray
    frame: np.ndarray
    parts: int = 1


class PrepareBoxes(nn.Module):
    """Module that scales pixels and leaves boxes unchanged.

    Shape:
        pixels (B, channels, height, width) in uint8 -> inputs in float32; `FIELDS` are unchanged
    """

    def __init__(self, scaling: ScalePixels) -> None:
        super().__init__()
        self.scaling = scaling

    def forward(self, rows: Rows) -> Rows:
        """Prepare any number of images."""
        return self.scaling({"pixels": rows["pixels"]}) | {name: rows[name] for name in FIELDS if name in rows}


def box_spec(transform: ImageTransform, size: tuple[int, int, int], names: Sequence[str]) -> Spec:
    """Return the spec values of images of size (channels, height, width) with objects of these classes."""
    spec = transform.add_bounds(image_spec(*size, None))
    return replace(spec, object_classes=len(names), object_class_names=tuple(names))


def box_splits(transform: ImageTransform, train: Files, val: Files | None, test: Files) -> Splits:
    """Return the splits of files with boxes. Only training images are augmented; decoding applies their random crop.

    Raises:
        ConfigError: Mixup or cutmix is enabled.
    """
    augmentation = transform.augment
    if augmentation.mixup or augmentation.cutmix:
        raise ConfigError("augment.mixup augment.cutmix: not supported because each box has one class")
    prepare, moves = PrepareBoxes(transform.scaling()), augmentation.without_crop()
    frame = Frame({"inputs": prepare.scaling.offset}, boxes=("boxes",))
    augment = make_changes(moves, frame, transform.unit())
    return Splits(Source(train, prepare, augment), None if val is None else Source(val, prepare), Source(test, prepare))


def cut_boxes(
    boxes: np.ndarray, kinds: np.ndarray, window: Sequence[float], visible: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes inside a window, clipped to it, in pixels of the image, and their classes.

    Args:
        window: Left, top, right and bottom edge.
        visible: Minimum fraction of the area of a box inside the window; boxes with a smaller fraction are dropped.
    """
    left, top, right, bottom = window
    inside = boxes.clip([left, top, left, top], [right, bottom, right, bottom])
    area, whole = ((part[:, 2:] - part[:, :2]).prod(1) for part in (inside, boxes))
    kept = (area > 0) & (area >= visible * whole)
    return inside[kept], kinds[kept]


def to_window(boxes: np.ndarray, window: Sequence[float], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes in pixels of a window that is resized to a square, and the frame that maps them back."""
    left, top, right, bottom = window
    scale = np.array([(right - left) / size, (bottom - top) / size])
    corner = np.array([left, top])
    moved = (boxes - np.tile(corner, 2)) / np.tile(scale, 2)
    return moved.astype(np.float32), np.concatenate([corner, scale]).astype(np.float32)


def stack_boxed(examples: Sequence[Boxed]) -> dict[str, Tensor]:
    """Return ``pixels`` (B, channels, size, size), ``boxes`` (B, M, 4), ``kinds`` (B, M), ``frame`` and ``parts``.

    M is the largest number of boxes of an image in the batch, at least 1; other images are padded with boxes of kind 0.
    """
    most = max(1, *(len(each.kinds) for each in examples))
    boxes = np.zeros((len(examples), most, 4), np.float32)
    kinds = np.zeros((len(examples), most), np.int64)
    for row, each in enumerate(examples):
        boxes[row, : len(each.boxes)], kinds[row, : len(each.kinds)] = each.boxes, each.kinds
    pixels = torch.from_numpy(np.stack([each.pixels for each in examples])).permute(0, 3, 1, 2).contiguous()
    frames = torch.from_numpy(np.stack([each.frame for each in examples]))
    rows: Mapping[str, Tensor] = {"boxes": torch.from_numpy(boxes), "kinds": torch.from_numpy(kinds), "frame": frames}
    return {"pixels": pixels, **rows, "parts": torch.tensor([each.parts for each in examples])}

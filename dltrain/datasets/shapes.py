"""Synthetic images of shapes, with pixel classes and bounding boxes."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dltrain.data.checks import at_least
from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Inputs, Splits
from dltrain.datasets.boxed_inputs import read_boxed
from dltrain.datasets.images import ImageTransform
from dltrain.datasets.masks import mask_spec, mask_splits, prepare_masks
from dltrain.keyed_random import uniform

NAMES = ("background", "disc", "square", "triangle")
HELD_OUT = {"val": range(400, 500), "test": range(500, 600)}  # indices of the images
SHAPES = 3  # per image; later shapes cover earlier ones
NOISE = 60  # range of the noise in gray levels
CHUNK = 250  # images that are drawn together
VISIBLE = 0.25  # a shape has a box if at least this fraction of its pixels in the image is visible


class Shapes:
    """Gray images of discs, squares and triangles with noise; they do not depend on the seed of a run.

    Args:
        image_size: Height and width of the images in pixels, at least 1.
        examples: Number of training images, at least 1; 100 more are for validation and 100 for testing.
        mean: Subtracted from the pixels, on the scale from 0 (black) to 1 (white).
        std: Divisor after the subtraction, above 0.
        augment: Random changes in training; see `dltrain.datasets.images.ImageTransform`.
        batch_size: Examples per batch, at least 1.
        workers: Unused: the images stay in memory.
    """

    def __init__(
        self,
        image_size: int = 32,
        examples: int = 400,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 0.25,
        augment: dict[str, Any] | list[str] | None = None,
        batch_size: int = 16,
        workers: int = 0,
    ) -> None:
        self.image_size = at_least("data.image_size", image_size, 1)
        self.examples = at_least("data.examples", examples, 1)
        self.transform = ImageTransform(1, mean, std, augment)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.prepare = prepare_masks(self.transform)
        spec = mask_spec(self.transform, (1, image_size, image_size), NAMES)
        self.spec = replace(spec, object_classes=len(NAMES) - 1, object_class_names=NAMES[1:])

    def load(self) -> Splits:
        """Draw all images, and return the splits."""
        held_out = torch.tensor([number for numbers in HELD_OUT.values() for number in numbers])
        every = torch.arange(self.examples + len(held_out))
        numbers = {"train": every[~torch.isin(every, held_out)][: self.examples]}
        numbers |= {split: torch.tensor(numbers) for split, numbers in HELD_OUT.items()}
        train, val, test = (_draw_in_parts(each, self.image_size) for each in numbers.values())
        return mask_splits(self.transform, train, val, test)

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read image files and arrays."""
        return read_boxed(files, self.transform, (1, self.image_size, self.image_size))


def _draw_in_parts(images: Tensor, size: int) -> dict[str, Tensor]:
    """Return the result of `draw_shapes`, computed for `CHUNK` images at a time to save memory."""
    parts = [draw_shapes(part, size) for part in images.split(CHUNK)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def draw_shapes(images: Tensor, size: int) -> dict[str, Tensor]:
    """Draw images in which later shapes cover earlier ones.

    Args:
        images: Indices of the images, which determine their content, int64 (count,).
        size: Height and width in pixels.

    Returns:
        ``pixels`` (count, 1, size, size) and ``masks`` (count, size, size) in uint8. ``boxes`` (count, shapes, 4) are
        the left, top, right and bottom edges of the visible part of each shape in pixels, and ``kinds`` (count, shapes)
        the classes. Box and class are 0 if later shapes cover more than three quarters of the shape.
    """
    count, numbers = len(images), uniform(images, SHAPES * 5 + 1 + size * size)
    shade, shapes, noise = numbers.split([1, SHAPES * 5, size * size], 1)
    levels = (60 + 80 * shade[:, :, None]).expand(-1, size, size)
    masks = torch.zeros(count, size, size, dtype=torch.uint8)
    visible: list[Tensor] = []
    areas, kinds = list[Tensor](), list[Tensor]()
    rows, columns = (torch.arange(size) + 0.5)[:, None], (torch.arange(size) + 0.5)[None]
    for x, y, radius, kind, level in (part[..., None, None].unbind(1) for part in shapes.split(5, 1)):
        half = size * (0.1 + 0.15 * radius)
        across, along = columns - size * (0.15 + 0.7 * x), rows - size * (0.15 + 0.7 * y)
        number = (kind * 3).floor() + 1
        disc = across.square() + along.square() < half.square()
        square = torch.maximum(across.abs(), along.abs()) < 0.9 * half
        triangle = (along < half) & (along > 2 * across.abs() - half)
        inside = torch.where(number == 1, disc, torch.where(number == 2, square, triangle))
        masks = torch.where(inside, number.byte(), masks)
        levels = torch.where(inside, 150 + 80 * level, levels)
        visible = [*(part & ~inside for part in visible), inside]
        areas.append(inside.sum((1, 2)))
        kinds.append(number.view(-1).long())
    pixels = levels + NOISE * (noise.view(-1, size, size) - 0.5)
    parts = torch.stack(visible, 1)
    kept = parts.sum((2, 3)) >= VISIBLE * torch.stack(areas, 1).clamp(min=1)
    boxes, drawn = boxes_around(parts) * kept[..., None], torch.stack(kinds, 1) * kept
    return {"pixels": pixels.clamp(0, 255).byte()[:, None], "masks": masks, "boxes": boxes, "kinds": drawn}


def boxes_around(parts: Tensor) -> Tensor:
    """Return the box (..., 4) around each mask (..., height, width): left, top, right, bottom; 0 for an empty mask."""
    edges = []
    for true in (parts.any(-2), parts.any(-1)):
        places = torch.arange(true.shape[-1])
        low = torch.where(true, places, true.shape[-1]).amin(-1)
        edges.append((low, torch.where(true, places + 1, 0).amax(-1)))
    boxes = torch.stack([edges[0][0], edges[1][0], edges[0][1], edges[1][1]], -1)
    return boxes.float() * parts.any(-1).any(-1)[..., None]

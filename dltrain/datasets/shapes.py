"""Synthetic segmentation data: small images of shapes with the class of each pixel."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dltrain.data.checks import at_least
from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Inputs, Splits
from dltrain.datasets.image_inputs import read_images
from dltrain.datasets.images import ImageTransform
from dltrain.datasets.masks import mask_spec, mask_splits, prepare_masks
from dltrain.keyed_random import uniform

NAMES = ("background", "disc", "square", "triangle")
HELD_OUT = {"val": range(400, 500), "test": range(500, 600)}  # numbers of the images
SHAPES = 3  # per image; later ones cover earlier ones
NOISE = 60  # gray levels


class Shapes:
    """Gray images of discs, squares and triangles on a noisy background; they do not depend on a seed.

    Args:
        image_size: Height and width of the images in pixels, at least 1.
        examples: Images to train on, at least 1; there are 100 each for validation and testing, always the same.
        mean: Subtracted from the pixels, on the scale from 0 (black) to 1 (white).
        std: Divisor of the result, above 0.
        augment: Random changes in training; see `dltrain.datasets.images.ImageTransform`.
        batch_size: Examples per step, at least 1.
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
        self.spec = mask_spec(self.transform, (1, image_size, image_size), NAMES)

    def load(self) -> Splits:
        """Draw all images and split them."""
        held_out = torch.tensor([number for numbers in HELD_OUT.values() for number in numbers])
        every = torch.arange(self.examples + len(held_out))
        numbers = {"train": every[~torch.isin(every, held_out)][: self.examples]}
        numbers |= {split: torch.tensor(numbers) for split, numbers in HELD_OUT.items()}
        train, val, test = (draw_shapes(each, self.image_size) for each in numbers.values())
        return mask_splits(self.transform, train, val, test)

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read image files and arrays."""
        return read_images(files, self.transform, (1, self.image_size, self.image_size), whole=True)


def draw_shapes(numbers: Tensor, size: int) -> dict[str, Tensor]:
    """Return the ``pixels`` (N, 1, size, size) and ``masks`` (N, size, size) of images by their numbers, in uint8."""
    count = len(numbers)
    shade, shapes, noise = uniform(numbers, SHAPES * 5 + 1 + size * size).split([1, SHAPES * 5, size * size], 1)
    levels = (60 + 80 * shade[:, :, None]).expand(-1, size, size)
    masks = torch.zeros(count, size, size, dtype=torch.uint8)
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
    pixels = levels + NOISE * (noise.view(-1, size, size) - 0.5)
    return {"pixels": pixels.clamp(0, 255).byte()[:, None], "masks": masks}

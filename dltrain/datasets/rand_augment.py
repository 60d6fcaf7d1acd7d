"""RandAugment for a whole batch; the operations of each example are random."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.datasets.colors import ENHANCERS, Unit, blend
from dltrain.datasets.geometry import Frame, move_boxes, sample_bilinear, sample_nearest
from dltrain.keyed_random import mix, uniform

Fields = dict[str, Tensor]
OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "saturation", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
MOVES = OPERATIONS[1:6]
LARGEST = 30  # largest magnitude
SHEAR, SHIFT, TURN, ENHANCE, BITS = 0.3, 150 / 331, 30.0, 0.9, 4  # strengths at the largest magnitude
LANE = 201  # added to keys, so that these random numbers are independent of the other augmentations


class RandAugment(nn.Module):
    """Random geometric and color operations, or the identity, drawn for each example with equal probability.

    Geometric operations sample images bilinearly and masks by nearest neighbor. Areas outside the image become black
    in images and the ignored class in masks.

    Args:
        count: Number of operations in succession, at least 1.
        magnitude: Strength of the operations, from 0 to 30.
        unit: Scale of the inputs.
        frame: Fields of a batch to change; masks and boxes are changed only by geometric operations.

    Shape:
        Each field keeps its shape.

    Source: Cubuk, Zoph, Shlens, Le 2020, "RandAugment: Practical automated data augmentation", section 3; the
    magnitudes have the same ranges as in torchvision.
    Differs: shears keep the center, not a corner, in place.
    """

    def __init__(self, count: int, magnitude: float, unit: Unit, frame: Frame) -> None:
        super().__init__()
        self.count, self.strength, self.unit, self.frame = count, magnitude / LARGEST, unit, frame

    def forward(self, batch: Fields, keys: Tensor) -> Fields:
        """Apply `count` operations to each example; its key determines which."""
        for number in range(self.count):
            choice, sign = uniform(mix(keys + LANE + number), 2).unbind(1)
            operation = (choice * len(OPERATIONS)).long()
            batch = self.operate(batch, operation, torch.where(sign < 0.5, -1.0, 1.0))
        return batch

    def operate(self, batch: Fields, operation: Tensor, sign: Tensor) -> Fields:
        """Apply one operation to each example.

        Args:
            operation: Index in `OPERATIONS`, (B,).
            sign: Direction of the operation, (B,): -1 or 1.
        """
        height, width = batch[next(iter(self.frame.images))].shape[-2:]
        matrix = self.matrix(operation, sign, height, width)
        moves = (operation > 0) & (operation <= len(MOVES))
        changed = dict(batch)
        for name in self.frame.images:
            changed[name] = self.unit.change(batch[name], lambda x: self._change(x, operation, sign, matrix, moves))
        for name, ignored in self.frame.masks.items():
            outside = torch.full((1, 1, 1), ignored, dtype=batch[name].dtype, device=sign.device)
            moved = sample_nearest(batch[name][:, None], matrix, outside, False)[:, 0]
            changed[name] = torch.where(moves[:, None, None], moved, batch[name])
        for name in self.frame.boxes:
            moved = move_boxes(batch[name], matrix, height, width)
            changed[name] = torch.where(moves[:, None, None], moved, batch[name])
        return changed

    def _change(self, images: Tensor, operation: Tensor, sign: Tensor, matrix: Tensor, moves: Tensor) -> Tensor:
        black = images.new_zeros(images.shape[1], 1, 1)
        moved = torch.where(moves[:, None, None, None], sample_bilinear(images, matrix, black, False), images)
        factor = (1 + ENHANCE * self.strength * sign)[:, None, None, None]
        for name, change in CHANGES.items():
            chosen = (operation == OPERATIONS.index(name))[:, None, None, None]
            moved = torch.where(chosen, change(images, factor, self.strength), moved)
        return moved

    def matrix(self, operation: Tensor, sign: Tensor, height: int, width: int) -> Tensor:
        """Return the matrices (B, 2, 3) that map output positions to source positions, as `Geometry.matrix` does."""
        amount = self.strength * sign
        shear_x, shear_y, right, down, turn = (
            torch.where(operation == number, size * amount, 0.0)
            for number, size in enumerate((SHEAR, SHEAR, SHIFT * width, SHIFT * height, math.radians(TURN)), 1)
        )
        cosine, sine, x, y = turn.cos(), turn.sin(), width / 2, height / 2
        a, b = shear_x - sine, shear_y + sine  # off-diagonal entries
        first = torch.stack([cosine, a, x - cosine * x - a * y - right.trunc()])
        second = torch.stack([b, cosine, y - b * x - cosine * y - down.trunc()])
        return torch.stack([first, second]).permute(2, 0, 1)


def sharpen(images: Tensor, factor: Tensor) -> Tensor:
    """Blend images with a blurred copy; pixels at the edges stay unchanged."""
    if min(images.shape[2:]) < 3:
        return images
    inner = (9 * F.avg_pool2d(images, 3, stride=1) + 4 * images[:, :, 1:-1, 1:-1]) / 13
    blurred = images.clone()
    blurred[:, :, 1:-1, 1:-1] = inner
    return blend(blurred, images, factor)


def posterize(images: Tensor, bits: int) -> Tensor:
    """Keep the `bits` most significant bits of each pixel."""
    levels = 2**bits
    return (images * levels).floor().clamp(0, levels - 1) / levels


def stretch_contrast(images: Tensor) -> Tensor:
    """Stretch each channel of each image to the range from 0 to 1; constant channels stay unchanged."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    width = high - low
    return torch.where(width > 0, (images - low) / width.where(width > 0, 1), images).clamp(0, 1)


def equalize(images: Tensor) -> Tensor:
    """Equalize the histogram of each channel of each image, with 256 levels, as Pillow does."""
    levels = (images * 255).round().clamp(0, 255).long().flatten(2)
    counts = levels.new_zeros(*levels.shape[:2], 256).scatter_add(2, levels, torch.ones_like(levels))
    highest = counts.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - highest) // 255
    table = ((counts.cumsum(2) - counts + step // 2) // step.clamp(min=1)).clamp(0, 255)
    found = table.gather(2, levels).view(images.shape) / 255
    return torch.where(step[..., None] > 0, found, images)


Change = Callable[[Tensor, Tensor, float], Tensor]  # (images, factors, strength) -> images
CHANGES: dict[str, Change] = {
    "brightness": lambda x, factor, _: ENHANCERS["brightness"](x, factor),
    "saturation": lambda x, factor, _: ENHANCERS["saturation"](x, factor),
    "contrast": lambda x, factor, _: ENHANCERS["contrast"](x, factor),
    "sharpness": lambda x, factor, _: sharpen(x, factor),
    "posterize": lambda x, _, strength: posterize(x, 8 - round(BITS * strength)),
    "solarize": lambda x, _, strength: torch.where(x >= 1 - strength, 1 - x, x),
    "autocontrast": lambda x, *_: stretch_contrast(x),
    "equalize": lambda x, *_: equalize(x),
}

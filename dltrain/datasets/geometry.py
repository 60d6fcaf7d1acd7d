"""Random geometric changes: one matrix per example transforms its images, masks and boxes."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.datasets.augmentation import Augmentation, crop_windows
from dltrain.keyed_random import uniform

Fields = dict[str, Tensor]
DRAWS = 10  # uniform numbers per example, in a fixed order, so that runs of earlier versions can be repeated
FLIP, UPSIDE = 0, 5  # positions of the numbers for horizontal and vertical flips


class Frame(NamedTuple):
    """Fields of a batch to transform, by name; other fields are unchanged.

    Args:
        images: Name of a field (B, channels, height, width) -> its values outside the image, (channels, 1, 1).
        masks: Name of a field with the class of each pixel, (B, height, width) -> its value outside the image.
        boxes: Names of fields with left, top, right and bottom edges in pixels, (B, boxes, 4); a box that lies
            entirely outside the image becomes all zeros.
    """

    images: Mapping[str, Tensor]
    masks: Mapping[str, int] = {}
    boxes: tuple[str, ...] = ()


class Geometry(nn.Module):
    """Random flip, shift, crop, rotation and zoom of each example, computed for a whole batch.

    If only flips and shifts are enabled, pixels are moved without interpolation. Otherwise images are sampled
    bilinearly. Masks are always sampled by nearest neighbor.

    Args:
        augmentation: What to change and how much.
        frame: Fields of a batch to transform.

    Shape:
        Each field keeps its shape.
    """

    def __init__(self, augmentation: Augmentation, frame: Frame) -> None:
        super().__init__()
        self.augmentation, self.frame = augmentation, frame
        for name, outside in frame.images.items():
            self.register_buffer(f"outside_{name}", outside.clone())

    def forward(self, batch: Fields, keys: Tensor) -> Fields:
        """Transform the fields in `frame` of each example by a random matrix drawn with its key.

        Other fields are unchanged.
        """
        if self.augmentation.flips_only and not self.frame.boxes:
            return batch | {name: self._flip(batch[name], keys) for name in (*self.frame.images, *self.frame.masks)}
        height, width = batch[next(iter(self.frame.images))].shape[-2:]
        matrix = self.matrix(keys, height, width)
        aligned = not self.augmentation.rotation
        moved = dict(batch)
        for name in self.frame.images:
            sample = sample_nearest if self.augmentation.exact else sample_bilinear
            moved[name] = sample(batch[name], matrix, getattr(self, f"outside_{name}"), aligned)
        for name, ignored in self.frame.masks.items():
            outside = torch.full((1, 1, 1), ignored, dtype=batch[name].dtype, device=keys.device)
            moved[name] = sample_nearest(batch[name][:, None], matrix, outside, aligned)[:, 0]
        for name in self.frame.boxes:
            moved[name] = move_boxes(batch[name], matrix, height, width)
        return moved

    def _flip(self, values: Tensor, keys: Tensor) -> Tensor:
        """Flip as `matrix` does, without computing the source of each pixel."""
        drawn = uniform(keys, DRAWS).view(len(keys), DRAWS, *[1] * (values.dim() - 1))
        change = self.augmentation
        for enabled, number, axis in ((change.flip, FLIP, -1), (change.flip_vertical, UPSIDE, -2)):
            if enabled:
                flipped = values.flip(axis)
                values = torch.where(drawn[:, number] < 0.5, flipped, values, out=flipped)
        return values

    def matrix(self, keys: Tensor, height: int, width: int) -> Tensor:
        """Return matrices (B, 2, 3) that map positions to source positions, ``matrix @ (x, y, 1)``, in pixels."""
        change = self.augmentation
        flip, down, right, turn, size, upside, *crop = uniform(keys, DRAWS).unbind(1)
        cosine, sine = change.rotated_and_zoomed(turn, size)
        left, top, across, along = crop_windows(change, crop, height, width)
        x, y = left - width / 2, top - height / 2  # top left of the crop, relative to the center
        first = torch.stack([cosine * across, -sine * along, cosine * x - sine * y + width / 2 + change.shifted(right)])
        second = torch.stack([sine * across, cosine * along, sine * x + cosine * y + height / 2 + change.shifted(down)])
        if change.flip:
            first = torch.where(flip < 0.5, _mirror(first, width), first)
        if change.flip_vertical:
            second = torch.where(upside < 0.5, _mirror(second, height), second)
        return torch.stack([first, second]).permute(2, 0, 1)


def _mirror(row: Tensor, size: int) -> Tensor:
    return torch.stack([-row[0], -row[1], size - row[2]])


def _coordinates(matrix: Tensor, height: int, width: int, aligned: bool) -> tuple[Tensor, Tensor]:
    """Return x and y of the source of each pixel's center: (B, 1 or height, width) and (B, height, 1 or width).

    Args:
        aligned: Whether no example is rotated; x then depends only on the column, and y only on the row.
    """
    columns = torch.arange(width, device=matrix.device)[None, None] + 0.5
    rows = torch.arange(height, device=matrix.device)[None, :, None] + 0.5
    (a, b, c), (d, e, f) = (part[..., None, None].unbind(1) for part in matrix.unbind(1))
    if aligned:
        return a * columns + c, e * rows + f
    return a * columns + b * rows + c, d * columns + e * rows + f


def sample_nearest(values: Tensor, matrix: Tensor, outside: Tensor, aligned: bool) -> Tensor:
    """Sample each pixel from the nearest source pixel, or use `outside` if the source lies beyond the edges.

    Shape:
        values (B, channels, height, width); matrix (B, 2, 3); outside (channels, 1, 1) -> (B, channels, height, width)
    """
    count, channels, height, width = values.shape
    x, y = (position.floor().long() for position in _coordinates(matrix, height, width, aligned))
    inside = ((x >= 0) & (x < width)) & ((y >= 0) & (y < height))
    indices = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    indices = indices.view(count, 1, height * width).expand(-1, channels, -1)
    moved = values.flatten(2).gather(2, indices).view(values.shape)
    return torch.where(inside[:, None], moved, outside)


def sample_bilinear(values: Tensor, matrix: Tensor, outside: Tensor, aligned: bool) -> Tensor:
    """Sample each pixel by bilinear interpolation at its source, with `outside` beyond the edges.

    Shape:
        values (B, channels, height, width); matrix (B, 2, 3); outside (channels, 1, 1) -> (B, channels, height, width)
    """
    height, width = values.shape[2:]
    x, y = _coordinates(matrix, height, width, aligned)
    grid = torch.stack(torch.broadcast_tensors(2 * x / width - 1, 2 * y / height - 1), -1)
    return F.grid_sample(values - outside, grid, align_corners=False) + outside


def move_boxes(boxes: Tensor, matrix: Tensor, height: int, width: int) -> Tensor:
    """Return the smallest boxes around the moved corners, clipped to the image; all zeros if nothing is left.

    Shape:
        boxes (B, N, 4) as left, top, right, bottom; matrix (B, 2, 3) -> (B, N, 4)
    """
    (a, b, c), (d, e, f) = (part[..., None, None].unbind(1) for part in matrix.unbind(1))
    x, y = boxes[..., [0, 2, 2, 0]] - c, boxes[..., [1, 1, 3, 3]] - f
    area = a * e - b * d
    columns, rows = (e * x - b * y) / area, (a * y - d * x) / area
    low = torch.stack([columns.amin(-1), rows.amin(-1)], -1).clamp(min=0)
    high = torch.stack([columns.amax(-1).clamp(max=width), rows.amax(-1).clamp(max=height)], -1)
    kept = ((high > low).all(-1) & (boxes[..., 2:] > boxes[..., :2]).all(-1))[..., None]
    return torch.where(kept, torch.cat([low, high], -1), 0.0)

"""Cutout, which erases a square of each training image, and its combination with geometric changes."""

import torch
from torch import Tensor, nn

from dltrain.datasets.augmentation import Augmentation
from dltrain.datasets.geometry import Fields, Frame, Geometry
from dltrain.keyed_random import mix, uniform


class Cutout(nn.Module):
    """Set a square of each image to zero, the mean of normalized pixels.

    The center of the square is a random pixel of the image, so that a part of the square may lie outside.

    Args:
        side: Side of the square in pixels, at least 1.

    Shape:
        inputs (B, channels, height, width) -> the same

    Source: DeVries and Taylor 2017, "Improved regularization of convolutional neural networks with cutout", section 3.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, batch: Fields, keys: Tensor) -> Fields:
        """Erase a square of each image."""
        images = batch["inputs"]
        # Hashed once more, so that the square does not depend on the random numbers of the geometry.
        down, right = uniform(mix(keys), 2).unbind(1)
        rows, columns = (self._erased(*part) for part in ((down, images.shape[2]), (right, images.shape[3])))
        return {**batch, "inputs": images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0.0)}

    def _erased(self, drawn: Tensor, size: int) -> Tensor:
        """Return which rows or columns of each image are erased, bool (B, size)."""
        first = (drawn * size).long() - self.side // 2
        places = torch.arange(size, device=drawn.device)
        return (places >= first[:, None]) & (places < first[:, None] + self.side)


class InOrder(nn.Module):
    """Several random changes of each example, one after the other."""

    def __init__(self, changes: list[nn.Module]) -> None:
        super().__init__()
        self.changes = nn.ModuleList(changes)

    def forward(self, batch: Fields, keys: Tensor) -> Fields:
        """Return the changed examples of a batch."""
        for change in self.changes:
            batch = change(batch, keys)
        return batch


def make_augment(augmentation: Augmentation, frame: Frame) -> nn.Module | None:
    """Return the random changes of each example; None if all are disabled."""
    changes: list[nn.Module] = [Geometry(augmentation, frame)] if augmentation.moves else []
    changes += [Cutout(augmentation.erase)] if augmentation.erase else []
    return InOrder(changes) if changes else None

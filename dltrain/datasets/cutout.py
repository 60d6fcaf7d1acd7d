"""Cutout, which erases a square of each training image."""

import torch
from torch import Tensor, nn

from dltrain.keyed_random import mix, uniform

Fields = dict[str, Tensor]
LANE = 301  # added to keys, so that these random numbers are independent of the other augmentations


class Cutout(nn.Module):
    """Cutout: a square of each image becomes zero, the value of ``data.mean`` after normalization.

    The center of the square is a random pixel of the image, so a part of the square may lie outside the image.

    Args:
        side: Side of the square in pixels, at least 1.

    Shape:
        inputs (B, channels, height, width) -> inputs of the same shape

    Source: DeVries and Taylor 2017, "Improved regularization of convolutional neural networks with cutout", section 3.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, batch: Fields, keys: Tensor) -> Fields:
        """Erase a square of each image."""
        images = batch["inputs"]
        down, right = uniform(mix(keys + LANE), 2).unbind(1)
        rows, columns = (self._erased(*part) for part in ((down, images.shape[2]), (right, images.shape[3])))
        return {**batch, "inputs": images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0.0)}

    def _erased(self, drawn: Tensor, size: int) -> Tensor:
        """Return which rows or columns of each image are erased, bool (B, size)."""
        first = (drawn * size).long() - self.side // 2
        positions = torch.arange(size, device=drawn.device)
        return (positions >= first[:, None]) & (positions < first[:, None] + self.side)

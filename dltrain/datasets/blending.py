"""Blend the examples of a batch by mixup or CutMix. The targets become class probabilities."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.datasets.augmentation import Augmentation
from dltrain.keyed_random import uniform

Fields = dict[str, Tensor]


class Mixup(nn.Module):
    """Mixup: the weighted mean of each example and a random example of its batch.

    Args:
        alpha: Parameter of the symmetric beta distribution of the weights, above 0.
        classes: Number of classes.

    Shape:
        inputs (B, ...) -> inputs of the same shape; targets (B,) in int64 -> (B, classes) in float32

    Source: Zhang et al. 2018, "mixup: Beyond empirical risk minimization", section 2. Differs: each example has its own
    weight.
    """

    def __init__(self, alpha: float, classes: int) -> None:
        super().__init__()
        self.alpha, self.classes = alpha, classes

    def forward(self, batch: Fields, keys: Tensor) -> Fields:
        """Blend the examples of a batch."""
        first, second, order = uniform(keys, 3).unbind(1)
        share, partner, inputs = symmetric_beta(first, second, self.alpha), order.argsort(), batch["inputs"]
        mixed = inputs.lerp(inputs[partner], (1 - share).view(-1, *[1] * (inputs.dim() - 1)))
        return {**batch, "inputs": mixed, "targets": mix_targets(batch["targets"], partner, share, self.classes)}


class CutMix(nn.Module):
    """CutMix: a rectangle of a random image of the batch is pasted into each image; targets are weighted by area.

    Args:
        alpha: Parameter of the symmetric beta distribution of the fraction of the image that stays, above 0.
        classes: Number of classes.

    Shape:
        inputs (B, channels, height, width), or (B, channels, frames, height, width) with the same rectangle in all
        frames -> inputs of the same shape; targets (B,) in int64 -> (B, classes) in float32

    Source: Yun et al. 2019, "CutMix: Regularization strategy to train strong classifiers", section 3. Differs: each
    example has its own rectangle.
    """

    def __init__(self, alpha: float, classes: int) -> None:
        super().__init__()
        self.alpha, self.classes = alpha, classes

    def forward(self, batch: Fields, keys: Tensor) -> Fields:
        """Blend the examples of a batch."""
        first, second, order, x, y = uniform(keys, 5).unbind(1)
        side, partner, inputs = (1 - symmetric_beta(first, second, self.alpha)).sqrt(), order.argsort(), batch["inputs"]
        rows, columns = (_inside(center, side, size) for center, size in zip((y, x), inputs.shape[-2:], strict=True))
        pasted = rows[:, :, None] & columns[:, None, :]
        share = 1 - pasted.float().mean((1, 2))
        everywhere = pasted.view(len(pasted), *[1] * (inputs.dim() - 3), *pasted.shape[1:])  # in each channel and frame
        mixed = torch.where(everywhere, inputs[partner], inputs)
        return {**batch, "inputs": mixed, "targets": mix_targets(batch["targets"], partner, share, self.classes)}


def make_blend(augmentation: Augmentation, classes: int | None) -> nn.Module | None:
    """Return the `Mixup` or `CutMix` that is enabled; None if neither is, or if there are no classes."""
    if classes and augmentation.mixup:
        return Mixup(augmentation.mixup, classes)
    return CutMix(augmentation.cutmix, classes) if classes and augmentation.cutmix else None


def mix_targets(targets: Tensor, partner: Tensor, share: Tensor, classes: int) -> Tensor:
    """Return class probabilities (B, classes): `share` (B,) for `targets`, 1 - `share` for the targets of `partner`."""
    own = F.one_hot(targets, classes).float()
    return own[partner].lerp(own, share[:, None])


def symmetric_beta(first: Tensor, second: Tensor, alpha: float) -> Tensor:
    """Return numbers with the distribution Beta(alpha, alpha) for pairs of uniform numbers; all (B,) in float32.

    Source: Devroye 1996, "Random variate generation in one line of code", section 5: Student's t with 2 alpha
    degrees of freedom by the polar method, mapped to a beta variate.
    """
    turn = (2 * math.pi * second.double()).cos()
    squared = ((1 - first.double()).pow(-1 / alpha) - 1) * turn.square()
    return (0.5 + 0.5 * turn.sign() * (1 / (1 + 1 / squared)).sqrt()).clamp(0, 1).float()


def _inside(center: Tensor, side: Tensor, size: int) -> Tensor:
    """Return a mask (B, size) of the pixels within `side` / 2 of `center`, both fractions of `size`."""
    positions = (torch.arange(size, device=center.device) + 0.5) / size
    return (positions - center[:, None]).abs() < 0.5 * side[:, None]

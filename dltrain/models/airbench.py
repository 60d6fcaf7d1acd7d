"""Airbench: a small convolutional network that learns CIFAR-10 in a few epochs."""

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.models.layers import check_sizes

SIDE = 2  # side of the whitened patches in pixels
WHITENED = 5000  # maximum number of training images whose patches are used
EPSILON = 5e-4  # added to each eigenvalue
SMALLEST = 3  # minimum height and width of an image in pixels


class Whitening(nn.Module):
    """Fixed 2x2 convolution that whitens the patches of images, with trainable biases.

    The filters are the eigenvectors of the second-moment matrix of image patches, each divided by the square root of
    its eigenvalue, and their negatives. They are random until `fit` is called.

    Args:
        channels: Channels of the images.

    Shape: (B, channels, H, W) -> (B, 8 * channels, H - 1, W - 1).
    """

    filters: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        size = channels * SIDE * SIDE
        self.register_buffer("filters", torch.randn(2 * size, channels, SIDE, SIDE) / size**0.5)
        self.bias = nn.Parameter(torch.zeros(2 * size))

    def forward(self, x: Tensor) -> Tensor:
        """Return the whitened patches plus the biases; images are not padded."""
        return F.conv2d(x, self.filters, self.bias)

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Compute the filters from batches of images (B, channels, H, W)."""
        moments, count = torch.zeros((), dtype=torch.float64), 0
        for images in batches:
            patches = F.unfold(images.cpu().double(), SIDE).transpose(0, 1).flatten(1)
            moments, count = moments + patches @ patches.T, count + patches.shape[1]
        variances, components = torch.linalg.eigh(moments / count)
        filters = (components / (variances + EPSILON).sqrt()).T.reshape(-1, *self.filters.shape[1:])
        self.filters.copy_(torch.cat([filters, -filters]))


class ShiftedNorm(nn.BatchNorm2d):
    """Batch normalization with a bias but no scale.

    Args:
        channels: Number of channels.
        bias_factor: Factor of the bias; with SGD, the learning rate of the bias is in effect multiplied by
            ``bias_factor**2``.
        momentum: Weight of the current batch in the running statistics.
    """

    ones: Tensor

    def __init__(self, channels: int, bias_factor: float, momentum: float) -> None:
        super().__init__(channels, momentum=momentum, affine=False)
        self.bias_factor = bias_factor
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("ones", torch.ones(channels), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalized channels plus ``bias_factor * bias``."""
        statistics = self.running_mean, self.running_var
        bias = self.bias * self.bias_factor
        return F.batch_norm(input, *statistics, self.ones, bias, self.training, self.momentum or 0.0, self.eps)


class Halve(nn.Module):
    """Max pooling over 2x2 pixels, or over 2 pixels of maps with one row or column.

    Shape: (B, channels, H, W) -> (B, channels, H // 2, W // 2); if H or W is 1, both divisions round up.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the maxima."""
        return F.max_pool2d(x, 2, ceil_mode=min(x.shape[2:]) == 1)


class Airbench(nn.Module):
    """Whitened patches, three stages of two 3x3 convolutions with GELU, and a linear output layer.

    Each 3x3 convolution starts as the identity on its first channels. Max pooling after the first convolution of each
    stage halves height and width.

    Args:
        channels, outputs: At least 1.
        height, width: Size of the images in pixels, at least 3.
        hidden_size: Channels of the three stages.
        bias_factor: Factor of the biases of the norms, see `ShiftedNorm`.
        norm_momentum: Weight of the current batch in the running statistics of the norms, above 0 and at most 1.
        logit_scale: Factor of the outputs; a small factor keeps the softmax from saturating early in training.

    Shape: (B, channels, height, width) -> (B, outputs).
    Source: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", section 3.
    Differs: `bias_factor` (8, the square root of the published 64) replaces a larger learning rate for the norms'
        biases; the biases of the whitening layer are trained in all epochs.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        outputs: int,
        hidden_size: list[int],
        bias_factor: float = 8.0,
        norm_momentum: float = 0.4,
        logit_scale: float = 0.11111111,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, outputs=outputs, hidden_size=min(hidden_size, default=1))
        if len(hidden_size) != 3:
            raise ConfigError(format_error("model.hidden_size", "three numbers, one for each stage", hidden_size))
        if min(height, width) < SMALLEST:
            expected = f"images of at least {SMALLEST}x{SMALLEST} pixels for airbench"
            hint = "Use larger images, or another model."
            raise ConfigError(format_error("data", expected, f"{height}x{width}", hint))

        def stage(inputs: int, width: int) -> nn.Sequential:
            first, second = (nn.Conv2d(count, width, 3, padding=1, bias=False) for count in (inputs, width))
            for conv in (first, second):
                nn.init.dirac_(conv.weight[: conv.in_channels].detach())
            norms = (ShiftedNorm(width, bias_factor, norm_momentum) for _ in range(2))
            return nn.Sequential(first, Halve(), next(norms), nn.GELU(), second, next(norms), nn.GELU())

        self.whitening = Whitening(channels)
        widths = [8 * channels, *hidden_size]
        stages = [stage(*pair) for pair in pairwise(widths)]
        self.features = nn.Sequential(nn.GELU(), *stages)
        self.head = nn.Linear(widths[-1], outputs, bias=False)
        self.logit_scale = logit_scale

    def fit_inputs(self, batches: Iterable[Tensor]) -> str:
        """Compute the whitening filters from the first training images; return a note for the user."""
        taken: list[Tensor] = []
        for images in batches:
            taken.append(images[: WHITENED - sum(map(len, taken))])
            if sum(map(len, taken)) == WHITENED:
                break
        self.whitening.fit(taken)
        return f"whitening filters: from {sum(map(len, taken)):,} training images"

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of each image."""
        return self.head(self.features(self.whitening(x)).amax((2, 3))) * self.logit_scale

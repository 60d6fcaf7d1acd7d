"""Layers of LeNet-5 as published in 1998: scaled tanh, trainable sub-sampling, partially connected convolution."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Maps of S2 that each of the 16 maps of C3 reads (table I).
TABLE = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)
AMPLITUDE, SLOPE = 1.7159, 2 / 3  # so that the scaled tanh maps -1 to -1 and 1 to 1 (appendix A)
INIT = 2.4  # weights are drawn uniformly between -INIT / fan-in and INIT / fan-in (appendix A)


def uniform(weight: Tensor, fan_in: int) -> None:
    """Draw weights uniformly from -INIT / ``fan_in`` to INIT / ``fan_in``."""
    nn.init.uniform_(weight, -INIT / fan_in, INIT / fan_in)


class ScaledTanh(nn.Module):
    """Hyperbolic tangent that maps -1 to -1 and 1 to 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``AMPLITUDE * tanh(SLOPE * x)``."""
        return AMPLITUDE * torch.tanh(SLOPE * x)


class SubSampling(nn.Module):
    """Sum of 2x2 pixels, multiplied by a trainable coefficient per map, plus a trainable bias.

    Shape: (B, maps, height, width) -> (B, maps, height // 2, width // 2).
    """

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(maps)), nn.Parameter(torch.zeros(maps))
        uniform(self.weight, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sub-sampled maps."""
        return 4 * F.avg_pool2d(x, 2) * self.weight[:, None, None] + self.bias[:, None, None]


class PartialConvolution(nn.Module):
    """5x5 convolution in which each output map reads only the input maps that `TABLE` lists for it.

    Shape: (B, 6, height, width) -> (B, 16, height - 4, width - 4).
    """

    maps: Tensor
    sources: Tensor

    def __init__(self) -> None:
        super().__init__()
        pairs = torch.tensor([(number, source) for number, read in enumerate(TABLE) for source in read])
        self.register_buffer("maps", pairs[:, 0], persistent=False)
        self.register_buffer("sources", pairs[:, 1], persistent=False)
        self.weight, self.bias = nn.Parameter(torch.empty(len(pairs), 5, 5)), nn.Parameter(torch.zeros(len(TABLE)))
        for read, weight in zip(TABLE, self.weight.detach().split([len(read) for read in TABLE]), strict=True):
            uniform(weight, 25 * len(read))

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature maps."""
        weight = self.weight.new_zeros(len(TABLE), 6, 5, 5).index_put((self.maps, self.sources), self.weight)
        return F.conv2d(x, weight, self.bias)


def features(channels: int, padding: tuple[int, int]) -> list[nn.Module]:
    """Return the layers C1 to S4."""
    first = nn.Conv2d(channels, 6, 5, padding=padding)
    uniform(first.weight, 25 * channels)
    if first.bias is not None:
        nn.init.zeros_(first.bias)
    layers = [first, SubSampling(6), PartialConvolution(), SubSampling(16)]
    return [part for layer in layers for part in (layer, ScaledTanh())]


def head(size: int, outputs: int, dropout: float) -> nn.Sequential:
    """Return the layers C5 and F6 and a linear output."""
    linear = [nn.Linear(size, 120), nn.Linear(120, 84), nn.Linear(84, outputs)]
    for layer in linear:
        uniform(layer.weight, layer.in_features)
        nn.init.zeros_(layer.bias)
    c5, f6, last = linear
    return nn.Sequential(
        nn.Flatten(), c5, ScaledTanh(), nn.Dropout(dropout), f6, ScaledTanh(), nn.Dropout(dropout), last
    )

"""Autoencoders: one network makes a short code of an example, another makes the example of its code again.

What a code is, the task says: a point, or mean and log-variance of a Gaussian, as in a variational autoencoder.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from dltrain.errors import ConfigError, format_error
from dltrain.models.conditional import Told, told_classes
from dltrain.models.layers import activation as activation_named
from dltrain.models.layers import check, fully_connected

KERNEL = 4  # a multiple of the stride, so that a transposed convolution reaches every pixel equally often


class DenseAutoencoder(nn.Module):
    """Fully connected encoder and decoder, one the mirror of the other.

    Args:
        shape: Of one example.
        statistics: Numbers that the encoder gives for each latent variable: 2 where the code is a Gaussian (all means,
            then all log-variances), 1 where it is a point.
        hidden_size: Width of the encoder's hidden layer, at least 1; a list says it layer by layer.
        latent: Latent variables, at least 1.
        activation: Of the hidden layers.
        conditional: Encoder and decoder are told the class of an example.
        classes: Number of classes, where there are any.

    Shape:
        - encoder: (B, *shape), and labels int64 (B,) or None -> (B, statistics * latent).
        - decoder: (B, latent), and labels likewise -> (B, *shape), raw numbers that the task makes an example of.
        - Input and output of the whole: (B, *shape).

    Raises:
        ConfigError: When a value is out of range, a name unknown, or there is no class to be told.

    Source: Kingma and Welling 2014, "Auto-encoding variational Bayes", appendix C; the sizes are those of PyTorch's
    public example (784-400-20, ReLU).
    """

    parts: ClassVar[tuple[str, ...]] = ("encoder", "decoder")

    def __init__(
        self,
        shape: list[int],
        statistics: int,
        hidden_size: int | list[int] = 400,
        latent: int = 20,
        activation: str = "relu",
        conditional: bool = False,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        widths = [hidden_size] if isinstance(hidden_size, int) else list(hidden_size)
        check(statistics=statistics, hidden_size=min(widths, default=1), latent=latent)
        told, size, self.latent = told_classes(conditional, classes), math.prod(shape), latent
        inwards = fully_connected(size + told, widths, statistics * latent, activation, "none", 0.0)
        outwards = fully_connected(latent + told, widths[::-1], size, activation, "none", 0.0)
        self.encoder = Told(inwards, told)
        self.decoder = Told(nn.Sequential(*outwards, nn.Unflatten(1, tuple(shape))), told)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the decoder makes of the code, or of its mean."""
        return self.decoder(self.encoder(x, labels)[:, : self.latent], labels)


class ConvAutoencoder(nn.Module):
    """Convolutions that halve a picture, a linear code, and transposed convolutions that double it again.

    Args:
        channels: Of the picture, at least 1.
        height: Of the picture in pixels.
        width: Likewise.
        statistics: As in `DenseAutoencoder`.
        hidden_size: Channels behind each convolution; every one of them halves the picture.
        latent: Latent variables, at least 1.
        activation: Of all layers but the code and the last.
        conditional: Encoder and decoder are told the class of an example.
        classes: Number of classes, where there are any.

    Shape:
        - encoder: (B, channels, height, width), and labels int64 (B,) or None -> (B, statistics * latent).
        - decoder: (B, latent), and labels likewise -> (B, channels, height, width), raw numbers.
        - Input and output of the whole: (B, channels, height, width).

    Raises:
        ConfigError: When a value is out of range, a name unknown, the picture too small, or there is no class to be
            told.

    Source: strides instead of pooling, Radford et al. 2016, "Unsupervised representation learning with DCGANs"; kernels
    of 4, Odena et al. 2016, "Deconvolution and checkerboard artifacts".
    """

    parts: ClassVar[tuple[str, ...]] = ("encoder", "decoder")

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        statistics: int,
        hidden_size: list[int],
        latent: int = 20,
        activation: str = "relu",
        conditional: bool = False,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        check(channels=channels, statistics=statistics, hidden_size=min(hidden_size, default=0), latent=latent)
        told, self.latent = told_classes(conditional, classes), latent
        sides = _halved(height, width, len(hidden_size))
        size = hidden_size[-1] * sides[-1][0] * sides[-1][1]
        halving = _halving([channels + told, *hidden_size], activation)
        inwards = [*halving, nn.Flatten(), nn.Linear(size, statistics * latent)]
        outwards = [nn.Linear(latent + told, size), activation_named(activation)]
        doubling = _doubling([*hidden_size[::-1], channels], sides, activation)
        outwards += [nn.Unflatten(1, (hidden_size[-1], *sides[-1])), *doubling]
        self.encoder = Told(nn.Sequential(*inwards), told, planes=True)
        self.decoder = Told(nn.Sequential(*outwards), told)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the decoder makes of the code, or of its mean."""
        return self.decoder(self.encoder(x, labels)[:, : self.latent], labels)


def _halved(height: int, width: int, times: int) -> list[tuple[int, int]]:
    """Height and width in front of each convolution, and behind the last."""
    sides = [(height >> number, width >> number) for number in range(times + 1)]
    if min(sides[-1]) < 1:
        most = min(height, width).bit_length() - 1
        got = f"{times}, each halving a picture of {height}x{width}"
        raise ConfigError(format_error("model.hidden_size", f"at most {most} convolutions", got))
    return sides


def _halving(channels: Sequence[int], activation: str) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, behind in pairwise(channels):
        layers += [nn.Conv2d(before, behind, KERNEL, stride=2, padding=1), activation_named(activation)]
    return layers


def _doubling(channels: Sequence[int], sides: Sequence[tuple[int, int]], activation: str) -> list[nn.Module]:
    """The way back through the same sides; one that was odd gets its last row or column again."""
    layers: list[nn.Module] = []
    for (before, behind), (height, width) in zip(pairwise(channels), sides[-2::-1], strict=True):
        odd = (height % 2, width % 2)
        doubled = nn.ConvTranspose2d(before, behind, KERNEL, stride=2, padding=1, output_padding=odd)
        layers += [activation_named(activation), doubled]
    return layers[1:]  # the code's layer has its activation already

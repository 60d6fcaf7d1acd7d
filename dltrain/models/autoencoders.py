"""Autoencoders, fully connected and convolutional.

The task determines whether the code is a point or, for a variational autoencoder, the mean and log-variance of a
Gaussian.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from dltrain.errors import ConfigError, format_error
from dltrain.models.conditional import Conditional, num_conditioning_classes
from dltrain.models.layers import KERNEL, check_sizes, fully_connected, upsampling
from dltrain.models.layers import activation as make_activation


class AutoencoderBase(nn.Module):
    """Base class of autoencoders: an encoder and a decoder.

    Args:
        encoder: (B, *shape) and labels -> (B, statistics * latent); see `DenseAutoencoder` for ``statistics``.
        decoder: (B, latent) and labels -> (B, *shape), unbounded; the task maps it to the range of the data.

    Shape: (B, *shape) -> (B, *shape).
    """

    parts: ClassVar[tuple[str, ...]] = ("encoder", "decoder")

    def __init__(self, encoder: Conditional, decoder: Conditional, latent: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.latent = encoder, decoder, latent
        self.num_conditioning_classes = decoder.num_classes

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the reconstruction from the code, or from the mean of a Gaussian code."""
        return self.decoder(self.encoder(x, labels)[:, : self.latent], labels)


class DenseAutoencoder(AutoencoderBase):
    """Fully connected encoder and a decoder that mirrors it.

    Args:
        statistics: Encoder outputs per latent variable: 2 for a Gaussian code (all means, then all log-variances), 1
            for a point.
        hidden_size: Width of the encoder's hidden layer, at least 1; a list gives one width per layer.
        latent: Number of latent variables, at least 1.

    Shape: (B, *shape), and labels int64 (B,) or None -> (B, *shape).
    Source: Kingma and Welling 2014, "Auto-encoding variational Bayes", appendix C; sizes of PyTorch's VAE example
    (784-400-20, ReLU).
    """

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
        widths = [hidden_size] if isinstance(hidden_size, int) else list(hidden_size)
        check_sizes(statistics=statistics, hidden_size=min(widths, default=1), latent=latent)
        num_classes, size = num_conditioning_classes(conditional, classes), math.prod(shape)
        encoder = fully_connected(size + num_classes, widths, statistics * latent, activation, "none", 0.0)
        decoder = fully_connected(latent + num_classes, widths[::-1], size, activation, "none", 0.0)
        decoder.append(nn.Unflatten(1, tuple(shape)))
        super().__init__(Conditional(encoder, num_classes), Conditional(decoder, num_classes), latent)


class ConvAutoencoder(AutoencoderBase):
    """Strided convolutions and a linear layer, mirrored by a linear layer and transposed convolutions.

    Args:
        channels, latent: At least 1.
        height, width: Size of the images in pixels.
        hidden_size: Output channels of each convolution; each convolution halves the image.

    Shape: (B, channels, height, width), and labels int64 (B,) or None -> (B, channels, height, width).
    Source: strides instead of pooling, Radford et al. 2016, "Unsupervised representation learning with DCGANs"; a
    kernel size of 4, Odena et al. 2016, "Deconvolution and checkerboard artifacts".
    """

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
        if not hidden_size:
            raise ConfigError(format_error("model.hidden_size", "a list of at least one number", hidden_size))
        check_sizes(channels=channels, statistics=statistics, hidden_size=min(hidden_size), latent=latent)
        num_classes = num_conditioning_classes(conditional, classes)
        sizes = _halved(height, width, len(hidden_size))
        flat = hidden_size[-1] * sizes[-1][0] * sizes[-1][1]
        convolutions = _downsampling([channels + num_classes, *hidden_size], activation)
        encoder = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(flat, statistics * latent))
        decoder = nn.Sequential(
            nn.Linear(latent + num_classes, flat),
            make_activation(activation),
            nn.Unflatten(1, (hidden_size[-1], *sizes[-1])),
            *_upsampling([*hidden_size[::-1], channels], sizes, activation),
        )
        super().__init__(Conditional(encoder, num_classes, as_channels=True), Conditional(decoder, num_classes), latent)


def _halved(height: int, width: int, times: int) -> list[tuple[int, int]]:
    """Return height and width of the image and of the output of each convolution."""
    sizes = [(height >> number, width >> number) for number in range(times + 1)]
    if min(sizes[-1]) < 1:
        limit = min(height, width).bit_length() - 1
        expected = f"at most {limit} convolutions for images of {height}x{width} pixels"
        raise ConfigError(format_error("model.hidden_size", expected, times, "Each convolution halves the image."))
    return sizes


def _downsampling(channels: Sequence[int], activation: str) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers += [nn.Conv2d(inputs, outputs, KERNEL, stride=2, padding=1), make_activation(activation)]
    return layers


def _upsampling(channels: Sequence[int], sizes: Sequence[tuple[int, int]], activation: str) -> list[nn.Module]:
    """Return transposed convolutions that restore `sizes` in reverse order, with activations between them."""
    layers: list[nn.Module] = []
    for (inputs, outputs), size in zip(pairwise(channels), sizes[-2::-1], strict=True):
        layers += [make_activation(activation), upsampling(inputs, outputs, size)]
    return layers[1:]  # the linear layer before them already has an activation

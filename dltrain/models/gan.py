"""Generative adversarial networks: a generator and a critic, fully connected or convolutional."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from dltrain.errors import ConfigError, choose, format_error
from dltrain.models.conditional import Conditional, num_conditioning_classes
from dltrain.models.layers import KERNEL, check_sizes, fully_connected, layer_widths, upsampling
from dltrain.models.layers import norm as make_norm

CRITIC_NORMS: Mapping[str, str] = {name: name for name in ("batch", "layer", "none")}
NEGATIVE_SLOPE = 0.2  # slope of the critic's leaky ReLU; Radford et al. 2016, section 3
INIT_STD = 0.02  # standard deviation of initial weights; Radford et al. 2016, section 3
MIN_SIDE = 4  # minimum side in pixels of the coarsest feature maps; images below 8 pixels have smaller ones


class GANBase(nn.Module):
    """Base class of GANs: a generator and a critic.

    Args:
        generator: (B, latent) and labels -> (B, ...), unbounded; the task maps it to the range of the data.
        critic: (B, ...) and labels -> (B, answers), unbounded; its outputs are larger for examples that look real.

    Shape: (B, ...), and labels int64 (B,) or None -> (B, 2 * answers).
    """

    parts: ClassVar[tuple[str, ...]] = ("generator", "critic")

    def __init__(self, generator: Conditional, critic: Conditional, latent: int) -> None:
        super().__init__()
        self.generator, self.critic, self.latent = generator, critic, latent
        self.num_conditioning_classes = generator.num_classes

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the critic's outputs for ``x`` and for examples generated with the values of ``x`` as noise."""
        numbers = x.flatten(1)
        noise = numbers.repeat(1, -(-self.latent // numbers.shape[1]))[:, : self.latent]
        return torch.cat([self.critic(x, labels), self.critic(self.generator(noise, labels), labels)], dim=1)


class GAN(GANBase):
    """Fully connected generator and critic for examples of any shape.

    Args:
        size, latent: Number of values of an example and of the noise, at least 1.
        answers: Outputs of the critic for each example, at least 1.
        hidden_size: Width of the hidden layers; a list gives one per layer, in reverse order for the critic.
        num_layers: Number of hidden layers of each network; must be the length of ``hidden_size`` if that is a list.
        critic_norm: Normalization before each activation of the critic: ``batch``, ``layer`` or ``none``.

    Source: Goodfellow et al. 2014, "Generative adversarial nets"; conditional: Mirza and Osindero 2014; spectral:
    Miyato et al. 2018, "Spectral normalization for generative adversarial networks", one power iteration per forward
    pass in training.
    """

    def __init__(
        self,
        shape: list[int],
        size: int,
        answers: int,
        latent: int = 64,
        hidden_size: int | list[int] = 128,
        num_layers: int = 3,
        activation: str = "relu",
        critic_norm: str = "none",
        spectral: bool = False,
        conditional: bool = False,
        classes: int | None = None,
    ) -> None:
        widths = layer_widths(hidden_size, num_layers)
        check_sizes(size=size, answers=answers, latent=latent)
        num_classes, norm = num_conditioning_classes(conditional, classes), _choose_norm(critic_norm, spectral)
        generator = fully_connected(latent + num_classes, widths, size, activation, "none", 0.0)
        generator.append(nn.Unflatten(1, tuple(shape)))
        critic = fully_connected(size + num_classes, widths[::-1], answers, activation, norm, 0.0)
        if spectral:
            _add_spectral_norm(critic)
        super().__init__(Conditional(generator, num_classes), Conditional(critic, num_classes), latent)


class DCGAN(GANBase):
    """Convolutional generator and critic with strides instead of pooling and no fully connected hidden layers.

    The critic halves the image until its shorter side has 4 to 7 pixels, and at least once; the feature maps of the
    generator have the same sizes in reverse order: 7-14-28 for 28x28 images, 4-8-16-32 for 32x32, 4-8-16-32-64 for
    64x64.

    Args:
        channels: At least 1.
        answers: Outputs of the critic for each example, at least 1.
        latent: Number of values of the noise, at least 1.
        height, width: Size of the images in pixels, at least 2.
        hidden_size: Channels of the feature maps at half the image size, at least 1; doubled at each further halving.
        critic_norm: Normalization after each convolution of the critic except the first: ``batch``, ``layer`` or
            ``none``.

    Source: Radford, Metz and Chintala 2016, "Unsupervised representation learning with deep convolutional generative
    adversarial networks", section 3; 4x4 kernels and numbers of channels as in PyTorch's DCGAN example.
    Differs: the number of halvings depends on the size of the image (in the paper, four for 64x64 pixels); the critic
    returns logits, not probabilities.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        answers: int,
        latent: int = 100,
        hidden_size: int = 64,
        critic_norm: str = "batch",
        spectral: bool = False,
        conditional: bool = False,
        classes: int | None = None,
    ) -> None:
        check_sizes(minimum=2, height=height, width=width)
        check_sizes(channels=channels, answers=answers, latent=latent, hidden_size=hidden_size)
        num_classes, norm = num_conditioning_classes(conditional, classes), _choose_norm(critic_norm, spectral)
        halvings = max(1, (min(height, width) // MIN_SIDE).bit_length() - 1)
        sizes = [(height >> number, width >> number) for number in range(halvings + 1)]
        widths = [hidden_size * 2**number for number in range(halvings)]
        generator = nn.Sequential(*_upsampling(latent + num_classes, [*widths[::-1], channels], sizes[::-1]))
        critic = nn.Sequential(
            *_downsampling([channels + num_classes, *widths], norm),
            nn.Flatten(),
            nn.Linear(widths[-1] * math.prod(sizes[-1]), answers),
        )
        generator.apply(_initialize)
        critic.apply(_initialize)
        if spectral:
            _add_spectral_norm(critic)
        critic_on_images = Conditional(critic, num_classes, as_channels=True)
        super().__init__(Conditional(generator, num_classes), critic_on_images, latent)


def _upsampling(latent: int, channels: list[int], sizes: list[tuple[int, int]]) -> list[nn.Module]:
    """Return layers that map noise to feature maps of the first size, then enlarge them size by size."""
    flat = channels[0] * math.prod(sizes[0])
    layers: list[nn.Module] = [nn.Linear(latent, flat, bias=False), nn.Unflatten(1, (channels[0], *sizes[0]))]
    for (inputs, outputs), size in zip(pairwise(channels), sizes[1:], strict=True):
        layers += [nn.BatchNorm2d(inputs), nn.ReLU(), upsampling(inputs, outputs, size, bias=size == sizes[-1])]
    return layers


def _downsampling(channels: list[int], norm: str) -> list[nn.Module]:
    """Return convolutions that halve the image; the first has no norm, to keep the image's brightness."""
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(channels)):
        norm_here = norm if number else "none"
        layers += [nn.Conv2d(inputs, outputs, KERNEL, stride=2, padding=1, bias=norm_here == "none")]
        layers += [make_norm(norm_here, outputs, dims=2), nn.LeakyReLU(NEGATIVE_SLOPE)]
    return layers


def _initialize(module: nn.Module) -> None:
    """Draw weights with mean 0 (1 in norms) and standard deviation 0.02, and set biases to 0."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, INIT_STD)
    elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
        nn.init.normal_(module.weight, 1.0, INIT_STD)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _add_spectral_norm(critic: nn.Module) -> None:
    """Divide each weight, as a matrix (out, in * height * width), by its largest singular value."""
    for module in list(critic.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d):
            spectral_norm(module)


def _choose_norm(name: str, spectral: bool) -> str:
    norm = choose("model.critic_norm", name, CRITIC_NORMS)
    if spectral and norm != "none":
        hint = "The scale of a norm would undo the bound of spectral normalization."
        raise ConfigError(format_error("model.critic_norm", "none with model.spectral=true", name, hint))
    return norm

"""Adversarial networks: a generator makes examples of noise, a critic tells them from real ones."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from dltrain.errors import ConfigError, format_error
from dltrain.models.conditional import Told
from dltrain.models.layers import check, choose, fully_connected
from dltrain.models.layers import norm as norm_named

NORMS: Mapping[str, str] = {name: name for name in ("batch", "layer", "none")}
KERNEL = 4  # a multiple of the stride, so that a transposed convolution reaches every pixel equally often
SLOPE = 0.2  # of the critic's leaky units; Radford et al. 2016, section 3
DEVIATION = 0.02  # of all weights before training; likewise
LEAST_SIDE = 4  # the coarsest maps keep at least so many pixels each way, unless the picture itself has fewer than 8


class Adversaries(nn.Module):
    """A generator and a critic, and what their task needs to know about them.

    Args:
        generator: Makes raw numbers in the shape of an example of noise.
        critic: Says of every example how real it looks, in any real numbers.
        latent: Numbers of noise per example.

    Shape:
        - generator: (B, latent), and labels int64 (B,) or None -> (B, ...), in the shape of an example.
        - critic: (B, ...), and labels likewise -> (B, answers).
        - Input and output of the whole: (B, ...) -> (B, 2 * answers).
    """

    parts: ClassVar[tuple[str, ...]] = ("generator", "critic")

    def __init__(self, generator: nn.Module, critic: nn.Module, latent: int) -> None:
        super().__init__()
        self.generator, self.critic, self.latent = generator, critic, latent

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The critic's answers to examples, and to what the generator makes when their own numbers are the noise."""
        numbers = x.flatten(1)
        noise = numbers.repeat(1, -(-self.latent // numbers.shape[1]))[:, : self.latent]
        return torch.cat([self.critic(x, labels), self.critic(self.generator(noise, labels), labels)], dim=1)


class GAN(Adversaries):
    """Fully connected generator and critic for examples of any shape.

    Args:
        shape: Of one example.
        size: Numbers per example, at least 1; what has a shape and no size is no numbers, but tokens.
        answers: Numbers that the critic says of each example, at least 1.
        latent: Numbers of noise per example, at least 1.
        hidden_size: Width of the hidden layers of both, at least 1; or a list, one width per layer of the generator,
            which the critic mirrors.
        num_layers: Number of hidden layers of each, at least 1; the length of ``hidden_size`` where that is a list.
        activation: Of the hidden layers of both.
        critic_norm: In front of each activation of the critic: ``batch``, ``layer`` or ``none``.
        spectral: Divide every weight of the critic by its spectral norm, its largest singular value.
        conditional: Both are told the class of an example.
        classes: Number of classes, where there are any.

    Raises:
        ConfigError: When a value is out of range, a name unknown, or two of them exclude each other.

    Source: Goodfellow et al. 2014, "Generative adversarial nets"; conditional: Mirza and Osindero 2014; spectral:
    Miyato et al. 2018, "Spectral normalization for generative adversarial networks", one power iteration per pass.
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
        widths = [hidden_size] * num_layers if isinstance(hidden_size, int) else list(hidden_size)
        check(size=size, answers=answers, latent=latent, hidden_size=min(widths, default=1), num_layers=num_layers)
        if len(widths) != num_layers:
            hint = f"Set model.num_layers={len(widths)}, or give model.hidden_size as one number."
            raise ConfigError(
                format_error("model.num_layers", f"{len(widths)}, the length of model.hidden_size", num_layers, hint)
            )
        told, norm = told_classes(conditional, classes), critic_norm_of(critic_norm, spectral)
        makes = fully_connected(latent + told, widths, size, activation, "none", 0.0)
        judges = fully_connected(size + told, widths[::-1], answers, activation, norm, 0.0)
        generator = Told(nn.Sequential(*makes, nn.Unflatten(1, tuple(shape))), told)
        critic = Told(judges, told)
        super().__init__(generator, bounded(critic) if spectral else critic, latent)


class DCGAN(Adversaries):
    """Convolutional generator and critic: strides instead of pooling, batch norm, no hidden fully connected layers.

    The critic halves the picture until its shorter side has 4 to 7 pixels, the generator takes the same sides
    backwards: 28x28 is 7-14-28, 32x32 is 4-8-16-32, 64x64 is 4-8-16-32-64.

    Args:
        channels: Of the picture, at least 1.
        height: Of the picture in pixels, at least 2.
        width: Likewise.
        answers: Numbers that the critic says of each example, at least 1.
        latent: Numbers of noise per example, at least 1.
        hidden_size: Channels of the maps of half the picture's size, at least 1; every halving doubles them.
        critic_norm: Behind each convolution of the critic but the first: ``batch``, ``layer`` or ``none``.
        spectral: Divide every weight of the critic by its spectral norm, its largest singular value.
        conditional: Both are told the class of an example: the generator beside the noise, the critic as channels of
            zeros and ones beside those of the picture.
        classes: Number of classes, where there are any.

    Raises:
        ConfigError: When a value is out of range, a name unknown, or two of them exclude each other.

    Source: Radford, Metz and Chintala 2016, "Unsupervised representation learning with deep convolutional generative
    adversarial networks", section 3; kernels of 4 and sizes are those of PyTorch's public example.

    Differs: the number of halvings follows the picture, where the paper has four for 64x64; the critic answers with raw
    numbers, and whoever wants probabilities takes the sigmoid.
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
        check(
            channels=channels,
            height=height // 2,
            width=width // 2,
            answers=answers,
            latent=latent,
            hidden_size=hidden_size,
        )
        told, norm = told_classes(conditional, classes), critic_norm_of(critic_norm, spectral)
        sides = halved(height, width)
        widths = [hidden_size * 2**number for number in range(len(sides) - 1)]
        generator = Told(nn.Sequential(*_makes(latent + told, [*widths[::-1], channels], sides[::-1])), told)
        judges = [*_judges([channels + told, *widths], norm), nn.Flatten()]
        judges += [nn.Linear(widths[-1] * math.prod(sides[-1]), answers)]
        critic = Told(nn.Sequential(*judges), told, planes=True)
        generator.apply(begin)
        critic.apply(begin)
        super().__init__(generator, bounded(critic) if spectral else critic, latent)


def _makes(latent: int, channels: list[int], sides: list[tuple[int, int]]) -> list[nn.Module]:
    """From noise to maps of the coarsest size, and doubled to each of the next; an odd side gets its last row again."""
    (height, width), size = sides[0], channels[0] * math.prod(sides[0])
    layers: list[nn.Module] = [nn.Linear(latent, size, bias=False), nn.Unflatten(1, (channels[0], height, width))]
    for (before, behind), (height, width) in zip(pairwise(channels), sides[1:], strict=True):
        odd, last = (height % 2, width % 2), (height, width) == sides[-1]
        doubled = nn.ConvTranspose2d(before, behind, KERNEL, stride=2, padding=1, output_padding=odd, bias=last)
        layers += [nn.BatchNorm2d(before), nn.ReLU(), doubled]
    return layers


def _judges(channels: list[int], norm: str) -> list[nn.Module]:
    """Convolutions that halve the picture; the first has no norm, so that the critic sees its brightness."""
    layers: list[nn.Module] = []
    for number, (before, behind) in enumerate(pairwise(channels)):
        here = norm if number else "none"
        layers += [nn.Conv2d(before, behind, KERNEL, stride=2, padding=1, bias=here == "none")]
        layers += [norm_named(here, behind, dims=2), nn.LeakyReLU(SLOPE)]
    return layers


def halved(height: int, width: int) -> list[tuple[int, int]]:
    """The picture's sides, and those of the maps behind each halving."""
    times = max(1, (min(height, width) // LEAST_SIDE).bit_length() - 1)
    return [(height >> number, width >> number) for number in range(times + 1)]


def begin(module: nn.Module) -> None:
    """The weights before training: N(0, 0.02), of norms N(1, 0.02), no biases."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, DEVIATION)
    elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
        nn.init.normal_(module.weight, 1.0, DEVIATION)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def bounded(critic: nn.Module) -> nn.Module:
    """Bound the slope of every linear layer and convolution, as the matrix (out, in x height x width), at 1."""
    for module in list(critic.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d):
            spectral_norm(module)
    return critic


def critic_norm_of(name: str, spectral: bool) -> str:
    """The norm of the critic.

    Raises:
        ConfigError: Where its scale would undo the bound of a spectral norm.
    """
    norm = choose("model.critic_norm", name, NORMS)
    if spectral and norm != "none":
        hint = "The norm's own scale would undo the bound."
        raise ConfigError(format_error("model.critic_norm", "none beside model.spectral=true", name, hint))
    return norm


def told_classes(conditional: bool, classes: int | None) -> int:
    """How many classes generator and critic are told.

    Raises:
        ConfigError: When there are none.
    """
    if conditional and classes is None:
        raise ConfigError(format_error("model.conditional", "false, as these data have no classes", conditional))
    return classes if conditional and classes else 0

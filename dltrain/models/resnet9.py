"""ResNet-9: a shallow, wide residual network that trains in seconds on a GPU."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from dltrain.errors import ConfigError, format_error
from dltrain.models.layers import activation as make_activation
from dltrain.models.layers import check_sizes

WITH_ALPHA = ("celu", "elu")
REDUCTION = 8  # three pooling layers, each of 2x2 pixels, precede the maximum over each channel


def conv_block(inputs: int, outputs: int, activation: Callable[[], nn.Module], pool: bool = False) -> nn.Sequential:
    """Return a 3x3 convolution, 2x2 max pooling if requested, batch norm and an activation function."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)]
    if pool:
        layers.append(nn.MaxPool2d(2))  # before batch norm, which then reads a quarter of the pixels
    return nn.Sequential(*layers, nn.BatchNorm2d(outputs), activation())


class Residual(nn.Module):
    """Two convolution blocks whose output is added to the input."""

    def __init__(self, channels: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.branch = nn.Sequential(*(conv_block(channels, channels, activation) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block; the shape (B, channels, H, W) is unchanged."""
        return x + self.branch(x)


class ResNet9(nn.Module):
    """Eight convolutions in four stages, two of which have a residual block, and a linear output layer.

    Args:
        channels, outputs: At least 1.
        height, width: Size of the images in pixels, at least 8.
        hidden_size: Channels of the four stages; each stage after the first halves the image.
        logit_scale: Factor of the outputs; a small factor keeps the softmax from saturating early in training.
        alpha: Bound of the negative outputs of CELU or ELU, above 0; must be 1 for other activation functions.

    Shape: (B, channels, height, width) -> (B, outputs).
    Source: Page 2018, "How to train your ResNet", parts 4 and 5 (myrtle.ai).
    Differs: pooling comes before batch norm, as in part 8 of the same series.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        outputs: int,
        hidden_size: list[int],
        activation: str = "celu",
        logit_scale: float = 0.125,
        alpha: float = 1.0,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, outputs=outputs, hidden_size=min(hidden_size, default=1))
        if len(hidden_size) != 4:
            raise ConfigError(format_error("model.hidden_size", "four numbers, one for each stage", hidden_size))
        if min(height, width) < REDUCTION:
            hint = "Use larger images, or another model."
            expected = f"images of at least {REDUCTION}x{REDUCTION} pixels for a ResNet-9"
            raise ConfigError(format_error("data", expected, f"{height}x{width}", hint))
        if activation not in WITH_ALPHA and alpha != 1:
            raise ConfigError(format_error("model.alpha", f"1 for model.activation={activation}", alpha))
        options: dict[str, Any] = {"alpha": alpha} if activation in WITH_ALPHA else {}

        def make() -> nn.Module:
            return make_activation(activation, **options)

        first, second, third, fourth = hidden_size
        self.features = nn.Sequential(
            conv_block(channels, first, make),
            conv_block(first, second, make, pool=True),
            Residual(second, make),
            conv_block(second, third, make, pool=True),
            conv_block(third, fourth, make, pool=True),
            Residual(fourth, make),
        )
        self.head = nn.Linear(fourth, outputs, bias=False)
        self.logit_scale = logit_scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of each image."""
        return self.head(self.features(x).amax((2, 3))) * self.logit_scale

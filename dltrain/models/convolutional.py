"""Convolutional networks for images: a stack defined in YAML, and LeNet-5."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from dltrain.errors import ConfigError, choose, format_error, suggest
from dltrain.models import lenet_original
from dltrain.models.layers import ACTIVATIONS, NORMS, check_sizes, fully_connected
from dltrain.models.layers import activation as make_activation
from dltrain.models.layers import norm as make_norm

POOLS = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


@dataclass(frozen=True)
class _Block:
    """One entry of ``blocks``; ``key`` is its path in the configuration."""

    key: str
    channels: int
    activation: str
    norm: str
    kernel: int = 3
    stride: int = 1
    padding: str = "same"
    pool: str = "none"

    def __post_init__(self) -> None:
        for name in ("channels", "kernel", "stride"):
            size = getattr(self, name)
            if not isinstance(size, int) or size < 1:
                raise ConfigError(format_error(f"{self.key}.{name}", "a whole number of at least 1", size))
        choose(f"{self.key}.padding", self.padding, {"same": True, "valid": True})
        choose(f"{self.key}.pool", self.pool, {**POOLS, "none": None})
        if self.padding == "same" and self.kernel % 2 == 0:
            raise ConfigError(format_error(f"{self.key}.kernel", "an odd number with padding=same", self.kernel))

    @property
    def pad(self) -> int:
        """Zero padding on each side in pixels; torch's ``same`` does not support strides."""
        return self.kernel // 2 if self.padding == "same" else 0

    def output_side(self, pixels: int) -> int:
        """Return the height of the output for an input of height ``pixels``; widths are computed in the same way."""
        if self.kernel > pixels + 2 * self.pad:
            expected = f"at most {pixels}, the side of the image at this block"
            raise ConfigError(format_error(f"{self.key}.kernel", expected, self.kernel))
        pixels = (pixels + 2 * self.pad - self.kernel) // self.stride + 1
        if self.pool == "none":
            return pixels
        if pixels < 2:
            hint = "Set it to none, or use larger images."
            raise ConfigError(f"{self.key}.pool: not supported because a side of the image has one pixel here. {hint}")
        return pixels // 2

    def layers(self, channels: int) -> list[nn.Module]:
        """Return convolution, norm, activation and pooling for an input of ``channels`` channels."""
        bias = self.norm == "none"
        convolution = nn.Conv2d(channels, self.channels, self.kernel, self.stride, self.pad, bias=bias)
        norm = make_norm(self.norm, self.channels, 2, f"{self.key}.norm")
        layers = [convolution, norm, make_activation(self.activation, f"{self.key}.activation")]
        return layers if self.pool == "none" else [*layers, POOLS[self.pool](2)]


def _parse_block(number: int, block: Mapping[str, Any], activation: str, norm: str) -> _Block:
    key = f"model.blocks.{number}"
    if not isinstance(block, Mapping):
        raise ConfigError(format_error(key, "a mapping such as {channels: 32, pool: max}", block))
    known = [field.name for field in fields(_Block) if field.name != "key"]
    expected = f"only the keys {' '.join(known)}"
    wrong = [format_error(key, expected, name, suggest(name, known)) for name in block if name not in known]
    if "channels" not in block:
        wrong.append(format_error(f"{key}.channels", "a whole number of at least 1", None))
    if wrong:
        raise ConfigError(*wrong)
    return _Block(key=key, **{"activation": activation, "norm": norm, **block})


class CNN(nn.Module):
    """Blocks of convolution, norm, activation and pooling, then fully connected layers.

    Args:
        channels, height, width, outputs: At least 1.
        blocks: One mapping per convolution with ``channels`` and optionally ``kernel`` (3), ``stride`` (1), ``padding``
            (``same`` or ``valid``), ``activation``, ``norm`` and ``pool`` (``max`` or ``avg`` of 2x2 pixels, or
            ``none``).
        hidden_size: Widths of the fully connected hidden layers; may be empty.
        activation: Activation function of the hidden layers, and of blocks that do not set it.
        norm: ``batch``, ``layer``, ``group`` or ``none``, for the hidden layers and for blocks that do not set it.
        dropout: Dropout probability of the fully connected hidden layers, in [0, 1).

    Shape: (B, channels, height, width) -> (B, outputs).
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        outputs: int,
        blocks: list[dict[str, Any]],
        hidden_size: list[int],
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(dropout, channels=channels, height=height, width=width, outputs=outputs)
        check_sizes(hidden_size=min(hidden_size, default=1))
        choose("model.activation", activation, ACTIVATIONS)
        choose("model.norm", norm, NORMS)
        layers: list[nn.Module] = []
        for number, entry in enumerate(blocks):
            block = _parse_block(number, entry, activation, norm)
            height, width = block.output_side(height), block.output_side(width)
            layers += block.layers(channels)
            channels = block.channels
        self.features = nn.Sequential(*layers)
        self.head = fully_connected(channels * height * width, hidden_size, outputs, activation, norm, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of each image."""
        return self.head(self.features(x))


class LeNet5(nn.Module):
    """LeNet-5: two 5x5 convolutions with pooling, then fully connected layers of 120 and 84 units.

    Args:
        channels, outputs: At least 1.
        height, width: Size of the images in pixels; sides below 32 are zero-padded to 32.
        variant: ``modern``, or ``original`` as in the paper: scaled tanh, pooling with trainable weights, and a second
            convolution in which all output maps but one read only some of the input maps.
        activation: Activation function of the modern variant.
        pool: ``avg`` or ``max``, of the modern variant.
        dropout: Dropout probability of the fully connected hidden layers, in [0, 1).

    Shape: (B, channels, height, width) -> (B, outputs).
    Source: LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition",
    section II.B and appendix A.
    Differs: the output is linear, for cross-entropy (in the paper, distances to fixed codes). For one channel and ten
    outputs, the original variant has 60,850 parameters: the 60,000 of the paper and 850 of the output layer. The modern
    variant has 61,706 because its second convolution reads all six maps and its pooling has no weights.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        outputs: int,
        variant: str = "modern",
        activation: str = "tanh",
        pool: str = "avg",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(dropout, channels=channels, height=height, width=width, outputs=outputs)
        missing = max(0, 32 - height), max(0, 32 - width)
        # Pad only an odd row or column here. The convolution pads the rest, equally on both sides and without a copy.
        odd = [nn.ZeroPad2d((0, missing[1] % 2, 0, missing[0] % 2))] if missing[0] % 2 or missing[1] % 2 else []
        padding = missing[0] // 2, missing[1] // 2
        rows, columns = (((max(32, side) - 4) // 2 - 4) // 2 for side in (height, width))
        size = 16 * rows * columns
        if choose("model.variant", variant, {"modern": False, "original": True}):
            _check_original(activation, pool)
            self.features = nn.Sequential(*odd, *lenet_original.features(channels, padding))
            self.head = lenet_original.head(size, outputs, dropout)
            return
        pooling = choose("model.pool", pool, POOLS)
        self.features = nn.Sequential(
            *odd,
            nn.Conv2d(channels, 6, 5, padding=padding),
            make_activation(activation),
            pooling(2),
            nn.Conv2d(6, 16, 5),
            make_activation(activation),
            pooling(2),
        )
        self.head = fully_connected(size, [120, 84], outputs, activation, "none", dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of each image."""
        return self.head(self.features(x))


def _check_original(activation: str, pool: str) -> None:
    """Raise ConfigError for settings that the original LeNet-5 does not have."""
    hint = "Use model.variant=modern to change it."
    wrong = [
        format_error(f"model.{name}", f"{expected} with model.variant=original", value, hint)
        for name, value, expected in (("activation", activation, "tanh"), ("pool", pool, "avg"))
        if value != expected
    ]
    if wrong:
        raise ConfigError(*wrong)

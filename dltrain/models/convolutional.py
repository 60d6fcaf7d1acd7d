"""Convolutional networks for pictures: a stack written in YAML, and LeNet-5."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from dltrain.errors import ConfigError, format_error, suggest
from dltrain.models.layers import activation as activation_named
from dltrain.models.layers import check, choose, fully_connected
from dltrain.models.layers import norm as norm_named

POOLS = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


@dataclass(frozen=True)
class _Block:
    """One entry of ``blocks``; ``key`` is where it stands in the configuration."""

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
                raise ConfigError(format_error(f"{self.key}.{name}", "an integer of at least 1", size))
        choose(f"{self.key}.padding", self.padding, {"same": True, "valid": True})
        choose(f"{self.key}.pool", self.pool, {**POOLS, "none": None})
        if self.padding == "same" and self.kernel % 2 == 0:
            raise ConfigError(format_error(f"{self.key}.kernel", "an odd number where padding is same", self.kernel))

    @property
    def pad(self) -> int:
        """Pixels of zeros on each side; torch's own ``same`` refuses a stride."""
        return self.kernel // 2 if self.padding == "same" else 0

    def side(self, pixels: int) -> int:
        """Pixels along one side of the picture behind this block."""
        if self.kernel > pixels + 2 * self.pad:
            raise ConfigError(
                format_error(f"{self.key}.kernel", f"at most {pixels}, the picture's side here", self.kernel)
            )
        pixels = (pixels + 2 * self.pad - self.kernel) // self.stride + 1
        if self.pool == "none":
            return pixels
        if pixels < 2:
            hint = "Pool in fewer blocks, or use larger pictures."
            raise ConfigError(
                format_error(f"{self.key}.pool", "none, as the picture is one pixel here", self.pool, hint)
            )
        return pixels // 2

    def layers(self, channels: int) -> list[nn.Module]:
        """Convolution, norm, activation and pooling for a picture of ``channels`` channels."""
        bias = self.norm == "none"
        convolution = nn.Conv2d(channels, self.channels, self.kernel, self.stride, self.pad, bias=bias)
        normalisation = norm_named(self.norm, self.channels, 2, f"{self.key}.norm")
        layers = [convolution, normalisation, activation_named(self.activation, f"{self.key}.activation")]
        return layers if self.pool == "none" else [*layers, POOLS[self.pool](2)]


def _read(number: int, block: Mapping[str, Any], activation: str, norm: str) -> _Block:
    """One entry of ``blocks``, checked; what it leaves out comes from the whole network."""
    key = f"model.blocks[{number}]"
    if not isinstance(block, Mapping):
        raise ConfigError(format_error(key, "a mapping such as {channels: 32, pool: max}", block))
    known = [field.name for field in fields(_Block) if field.name != "key"]
    unknown = [
        format_error(key, f"some of {', '.join(known)}", name, suggest(name, known))
        for name in block
        if name not in known
    ]
    if "channels" not in block:
        unknown.append(format_error(f"{key}.channels", "an integer of at least 1", None))
    if unknown:
        raise ConfigError(*unknown)
    return _Block(key=key, **{"activation": activation, "norm": norm, **block})


class CNN(nn.Module):
    """Blocks of convolution, norm, activation and pooling, then fully connected layers.

    Args:
        channels: Of the picture, at least 1.
        height: Of the picture in pixels, at least 1.
        width: Of the picture in pixels, at least 1.
        outputs: Numbers per answer, at least 1.
        blocks: One mapping per convolution: ``channels``, and where they differ from the default ``kernel`` (3),
            ``stride`` (1), ``padding`` (``same`` or ``valid``), ``activation``, ``norm``, ``pool`` (``max`` or ``avg``
            halve the picture, ``none``).
        hidden_size: Widths of the fully connected hidden layers; may be empty.
        activation: Of all blocks that name none of their own, and of the hidden layers.
        norm: Likewise: ``batch``, ``layer``, ``group`` or ``none``.
        dropout: Share of each fully connected hidden layer that is dropped in training, 0 to below 1.

    Shape:
        - Input: (B, channels, height, width).
        - Output: (B, outputs).

    Raises:
        ConfigError: When a value is out of range, a name unknown, or the picture too small for a block.
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
        check(
            dropout,
            channels=channels,
            height=height,
            width=width,
            outputs=outputs,
            hidden_size=min(hidden_size, default=1),
        )
        layers: list[nn.Module] = []
        for number, entry in enumerate(blocks):
            block = _read(number, entry, activation, norm)
            height, width = block.side(height), block.side(width)
            layers += block.layers(channels)
            channels = block.channels
        self.features = nn.Sequential(*layers)
        self.head = fully_connected(channels * height * width, hidden_size, outputs, activation, norm, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """The answer for every picture."""
        return self.head(self.features(x))


class LeNet5(nn.Module):
    """LeNet-5: two convolutions of 5 x 5 with pooling, then layers of 120 and 84.

    Args:
        channels: Of the picture, at least 1.
        height: Of the picture in pixels; less than 32 is padded with zeros to 32, centred.
        width: Likewise.
        outputs: Numbers per answer, at least 1.
        activation: Of all layers but the last.
        pool: ``avg`` or ``max``.
        dropout: Share of the layers of 120 and 84 that is dropped in training, 0 to below 1.

    Shape:
        - Input: (B, channels, height, width).
        - Output: (B, outputs).

    Raises:
        ConfigError: When a value is out of range or a name unknown.

    Source: LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition",
    section II.B.

    Differs: the second convolution reads all six maps (there a table of some), pooling has no weights, tanh is not
    scaled, and the output is linear (there radial basis functions): 61,706 parameters for one channel and ten outputs.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        outputs: int,
        activation: str = "tanh",
        pool: str = "avg",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check(dropout, channels=channels, height=height, width=width, outputs=outputs)
        missing = max(0, 32 - height), max(0, 32 - width)
        pooling = choose("model.pool", pool, POOLS)
        self.features = nn.Sequential(
            *_odd_row(*missing),
            nn.Conv2d(channels, 6, 5, padding=(missing[0] // 2, missing[1] // 2)),
            activation_named(activation),
            pooling(2),
            nn.Conv2d(6, 16, 5),
            activation_named(activation),
            pooling(2),
        )
        size = 16 * _side_after(max(32, height)) * _side_after(max(32, width))
        self.head = fully_connected(size, [120, 84], outputs, activation, "none", dropout)

    def forward(self, x: Tensor) -> Tensor:
        """The answer for every picture."""
        return self.head(self.features(x))


def _odd_row(rows: int, columns: int) -> list[nn.Module]:
    """A convolution pads both sides alike and without a copy; an odd row or column must be added by itself."""
    return [nn.ZeroPad2d((0, columns % 2, 0, rows % 2))] if rows % 2 or columns % 2 else []


def _side_after(pixels: int) -> int:
    """One side of the picture behind both convolutions and both poolings."""
    return ((pixels - 4) // 2 - 4) // 2

"""What two families of models share: names, checks, the reading of steps and the attention block."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error, suggest

T = TypeVar("T")

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "celu": nn.CELU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "hardtanh": nn.Hardtanh,
    "identity": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "tanh": nn.Tanh,
}


def choose(key: str, name: object, known: Mapping[str, T]) -> T:
    """The value that ``name`` stands for.

    Raises:
        ConfigError: When the name is unknown; the message proposes the nearest.
    """
    if isinstance(name, str) and name in known:
        return known[name]
    raise ConfigError(format_error(key, f"one of {', '.join(known)}", name, suggest(str(name), known)))


def check(dropout: float = 0.0, **sizes: int | None) -> None:
    """Refuse sizes below one and a dropout outside [0, 1), all in one report; None is no size and passes."""
    wrong = [
        format_error(f"model.{name}", "an integer of at least 1", size)
        for name, size in sizes.items()
        if size is not None and size < 1
    ]
    if not 0 <= dropout < 1:
        wrong.append(format_error("model.dropout", "a number from 0 to below 1", dropout))
    if wrong:
        raise ConfigError(*wrong)


def activation(name: str, key: str = "model.activation") -> nn.Module:
    """The activation function of that name; ``key`` is named when there is none."""
    return choose(key, name, ACTIVATIONS)()


def norm(name: str, channels: int, dims: int, key: str = "model.norm") -> nn.Module:
    """The normalisation of that name.

    Args:
        name: ``batch``, ``layer``, ``group`` (groups of at least 16 channels) or ``none``.
        channels: Features of a vector or channels of a picture.
        dims: 0 for vectors (B, channels), 2 for feature maps (B, channels, height, width).
        key: Named in the message when the name is unknown.

    Source: Ioffe and Szegedy 2015; Ba, Kiros and Hinton 2016; Wu and He 2018, who find 16 channels a group best.

    Differs: layer norm of a feature map takes mean and variance over channels and pixels and scales per channel.
    """
    return choose(key, name, NORMS)(channels, dims)


def _batch(channels: int, dims: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if dims else nn.BatchNorm1d(channels)


def _layer(channels: int, dims: int) -> nn.Module:
    return nn.GroupNorm(1, channels) if dims else nn.LayerNorm(channels)


def _group(channels: int, dims: int) -> nn.Module:
    most = max(1, channels // 16)
    return nn.GroupNorm(next(groups for groups in range(most, 0, -1) if channels % groups == 0), channels)


NORMS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "batch": _batch,
    "layer": _layer,
    "group": _group,
    "none": nn.Identity,
}


def fully_connected(
    size: int, hidden_size: Sequence[int], outputs: int, activation_name: str, norm_name: str, dropout: float
) -> nn.Sequential:
    """Hidden layers (linear, norm, activation, dropout) and a linear output on flattened inputs.

    Shape:
        - Input: (B, ...) with ``size`` numbers per example.
        - Output: (B, outputs).
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for width in hidden_size:
        # A bias in front of a norm would only be subtracted again, or doubled by the norm's own.
        layers += [nn.Linear(size, width, bias=norm_name == "none"), norm(norm_name, width, dims=0)]
        layers += [activation(activation_name), nn.Dropout(dropout)]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, outputs))


class Steps(nn.Module):
    """Reads an input as a sequence of steps: rows of a picture, steps of a series, or tokens through an embedding.

    Args:
        features: Numbers per step, where there are no tokens.
        hidden_size: Width of the embedding of tokens.
        vocabulary: Number of different tokens; None reads numbers.

    Shape:
        - Input: (B, T, features), pictures (B, C, H, W) with H steps of C * W = features numbers, or with a
          vocabulary int64 (B, T).
        - Output: (B, T, width), where ``width`` is ``hidden_size`` for tokens and otherwise ``features``.
    """

    def __init__(self, features: int, hidden_size: int, vocabulary: int | None = None) -> None:
        super().__init__()
        self.width = features if vocabulary is None else hidden_size
        self.embedding = None if vocabulary is None else nn.Embedding(vocabulary, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """The input as (B, T, width)."""
        if self.embedding is not None:
            return self.embedding(x)
        return x.transpose(1, 2).flatten(2) if x.dim() == 4 else x


class Positions(nn.Module):
    """Adds a learned vector to every step, so that attention can tell them apart.

    Args:
        length: The longest sequence that can be read.
        width: Numbers per step.
        std: Deviation of the vectors before training.

    Shape:
        - Input and output: (B, T, width) with T at most ``length``.
    """

    def __init__(self, length: int, width: int, std: float = 0.02) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(length, width))
        nn.init.normal_(self.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        """The steps with their positions."""
        steps = x.shape[1]
        if steps > len(self.weight):
            raise ConfigError(
                format_error("model.length", f"at least {steps}, the steps of the input", len(self.weight))
            )
        return x + self.weight[:steps]


class Block(nn.Module):
    """Self-attention and a two-layer network, each behind a norm and added to its input.

    Args:
        width: Numbers per step.
        num_heads: Attention heads; must divide ``width``.
        ffn_ratio: Width of the inner layer of the two-layer network, in multiples of ``width``.
        activation_name: Of the inner layer.
        dropout: Share of attention weights, and of each branch's output, that is dropped in training.
        causal: A step sees itself and earlier steps only.
        bias: Linear layers and norms have a bias.

    Shape:
        - Input and output: (B, T, width).

    Raises:
        ConfigError: When ``num_heads`` does not divide ``width``.

    Source: Vaswani et al. 2017, section 3; the norm in front as in Radford et al. 2019 (GPT-2), section 2.3.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        ffn_ratio: int = 4,
        activation_name: str = "gelu",
        dropout: float = 0.0,
        causal: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ConfigError(
                format_error("model.num_heads", f"a divisor of model.hidden_size, which is {width}", num_heads)
            )
        self.num_heads, self.causal, self.dropout = num_heads, causal, dropout
        self.norm1 = nn.LayerNorm(width, bias=bias)
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.mix = nn.Linear(width, width, bias=bias)
        self.norm2 = nn.LayerNorm(width, bias=bias)
        self.up = nn.Linear(width, ffn_ratio * width, bias=bias)
        self.activation = activation(activation_name)
        self.down = nn.Linear(ffn_ratio * width, width, bias=bias)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """The steps after both branches."""
        x = x + self.drop(self.mix(self._attend(self.qkv(self.norm1(x)))))
        return x + self.drop(self.down(self.activation(self.up(self.norm2(x)))))

    def _attend(self, qkv: Tensor) -> Tensor:
        """Every head looks at its own slice of queries, keys and values: (B, T, 3 * width) -> (B, T, width)."""
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        dropped = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropped, is_causal=self.causal)
        return y.transpose(1, 2).flatten(2)

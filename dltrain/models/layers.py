"""Activation functions, norms, checks and blocks shared by several models."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError, choose, format_error

KERNEL = 4  # kernel size: a multiple of the stride, so that a transposed convolution covers all pixels equally often
ACTIVATIONS: Mapping[str, Callable[..., nn.Module]] = {
    "celu": nn.CELU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),  # GPT-2 uses this approximation of GELU
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


class LinearSkip(nn.Linear):
    """Linear layer on the whole input of each example, flattened; zero at initialization.

    Raises:
        ConfigError: The number of values per example is not `in_features`.
    """

    def __init__(self, size: int, outputs: int) -> None:
        super().__init__(size, outputs)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, (B, outputs)."""
        flat = x.flatten(1)
        if flat.shape[1] != self.in_features:
            expected = f"{flat.shape[1]}, the number of values in an input, or null"
            raise ConfigError(format_error("model.linear_skip", expected, self.in_features))
        return super().forward(flat)


def check_sizes(dropout: float = 0.0, minimum: int = 1, **sizes: int | None) -> None:
    """Raise ConfigError unless each size is None or at least `minimum`, and the dropout is in [0, 1)."""
    wrong = [
        format_error(f"model.{name}", f"a whole number of at least {minimum}", size)
        for name, size in sizes.items()
        if size is not None and size < minimum
    ]
    if not 0 <= dropout < 1:
        wrong.append(format_error("model.dropout", "a number of at least 0 and below 1", dropout))
    if wrong:
        raise ConfigError(*wrong)


def layer_widths(hidden_size: int | list[int], num_layers: int) -> list[int]:
    """Return the width of each hidden layer; a single ``hidden_size`` is used for all layers.

    Raises:
        ConfigError: ``num_layers`` or a width is below 1, or the number of widths is not ``num_layers``.
    """
    if hidden_size == []:
        raise ConfigError(format_error("model.hidden_size", "a number, or one number per layer", hidden_size))
    widths = [hidden_size] * num_layers if isinstance(hidden_size, int) else list(hidden_size)
    check_sizes(num_layers=num_layers, hidden_size=min(widths, default=1))
    if len(widths) != num_layers:
        expected = f"{len(widths)}, the length of model.hidden_size"
        hint = f"Set model.num_layers={len(widths)}, or give model.hidden_size as one number."
        raise ConfigError(format_error("model.num_layers", expected, num_layers, hint))
    return widths


def activation(name: str, key: str = "model.activation", **options: Any) -> nn.Module:
    """Return the activation function called ``name``; `options` are arguments of its class in `torch.nn`."""
    return choose(key, name, ACTIVATIONS)(**options)


def norm(name: str, channels: int, dims: int, key: str = "model.norm") -> nn.Module:
    """Return the normalization layer called ``name``.

    Args:
        name: ``batch``, ``layer``, ``group`` (groups of at least 16 channels; one group for fewer) or ``none``.
        dims: 0 for vectors (B, channels), 2 for feature maps (B, channels, height, width).

    Source: Ioffe and Szegedy 2015; Ba, Kiros and Hinton 2016; Wu and He 2018, who find 16 channels per group best.
    Differs: layer norm of a feature map normalizes over channels and pixels and has one scale and bias per channel.
    """
    return choose(key, name, NORMS)(channels, dims)


def _group(channels: int, dims: int) -> nn.Module:
    most = max(1, channels // 16)
    return nn.GroupNorm(next(groups for groups in range(most, 0, -1) if channels % groups == 0), channels)


NORMS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "batch": lambda channels, dims: nn.BatchNorm2d(channels) if dims else nn.BatchNorm1d(channels),
    "layer": lambda channels, dims: nn.GroupNorm(1, channels) if dims else nn.LayerNorm(channels),
    "group": _group,
    "none": nn.Identity,
}


def fully_connected(
    size: int, hidden_size: Sequence[int], outputs: int, activation_name: str, norm_name: str, dropout: float
) -> nn.Sequential:
    """Return hidden layers (linear, norm, activation, dropout) and a linear output, on flattened inputs.

    Shape: (B, ...) with ``size`` values per example -> (B, outputs).
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for width in hidden_size:
        # A bias before batch norm is redundant, because the norm subtracts it. Before other norms it is omitted too,
        # because every norm adds a bias.
        layers += [nn.Linear(size, width, bias=norm_name == "none"), norm(norm_name, width, dims=0)]
        layers += [activation(activation_name), nn.Dropout(dropout)]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, outputs))


def upsampling(inputs: int, outputs: int, size: tuple[int, int], bias: bool = True) -> nn.ConvTranspose2d:
    """Return a transposed convolution that enlarges feature maps from half of ``size``, rounded down, to ``size``."""
    odd = (size[0] % 2, size[1] % 2)
    return nn.ConvTranspose2d(inputs, outputs, KERNEL, stride=2, padding=1, output_padding=odd, bias=bias)


# State of a model that reads step by step: nested dictionaries of tensors, batch axis first. The caller passes it from
# call to call.
State = dict[str, Any]


class Steps(nn.Module):
    """Sequence view of an input: rows of an image, steps of a series, or embedded tokens.

    Args:
        vocabulary: Number of distinct tokens; None for numeric inputs.

    Shape: (B, T, features), images (B, C, H, W) as H steps of C * W features, or tokens int64 (B, T) -> (B, T, width),
    where ``width`` is ``hidden_size`` for tokens and ``features`` otherwise.
    """

    def __init__(self, features: int, hidden_size: int, vocabulary: int | None = None) -> None:
        super().__init__()
        self.width = features if vocabulary is None else hidden_size
        self.embedding = None if vocabulary is None else nn.Embedding(vocabulary, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input as (B, T, width)."""
        if self.embedding is not None:
            return self.embedding(x)
        return x.transpose(1, 2).flatten(2) if x.dim() == 4 else x


def inside(lengths: Tensor, width: int, device: torch.device) -> Tensor:
    """Return a mask of the steps that are not padding, bool (B, width); an empty sequence keeps its first step."""
    ends = lengths.clamp(min=1).to(device, non_blocking=True)
    return torch.arange(width, device=device) < ends[:, None]


def read_out(states: Tensor, lengths: Tensor | None, readout: str) -> Tensor:
    """Return one vector per sequence.

    Args:
        lengths: Steps of each sequence; later steps are padding. None for no padding.
        readout: ``last`` for the last step, ``mean`` or ``max`` over the steps.

    Shape: (B, T, width) -> (B, width).
    """
    if lengths is None:
        return {"last": lambda: states[:, -1], "mean": lambda: states.mean(1), "max": lambda: states.amax(1)}[readout]()
    own = inside(lengths, states.shape[1], states.device)
    if readout == "max":
        return states.masked_fill(~own[:, :, None], -torch.inf).amax(1)
    counts = own.sum(1, keepdim=True)
    weights = own / counts if readout == "mean" else torch.arange(1, 1 + own.shape[1], device=own.device) == counts
    return (states * weights[:, :, None].to(states.dtype)).sum(1)


READOUTS = ("last", "mean", "max")

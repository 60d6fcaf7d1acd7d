"""Recurrent layers: torch's own, or with layer norm, residual connections, locked dropout or weight dropout."""

import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from dltrain.errors import ConfigError, choose, format_error

CELLS: Mapping[str, Callable[..., nn.Module]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
PARTS = {"rnn": ("hidden",), "lstm": ("hidden", "cell"), "gru": ("hidden",)}

# Tensors of a recurrent state. The state of all layers has tensors (layers * directions, B, hidden_size), as in torch.
Parts = tuple[Tensor, ...]


class LockedDropout(nn.Module):
    """Dropout with one mask for all steps of a sequence.

    Shape: (B, T, width) or, for a single vector per sequence, (B, width); the output has the shape of the input.
    Source: Gal and Ghahramani 2016, "A theoretically grounded application of dropout in recurrent neural networks".
    Differs: without dropout of the recurrent state, as in Merity, Keskar and Socher 2018 (AWD-LSTM), section 4.2,
    "Variational dropout".
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Return the input; in training, some features are set to 0 and the others are scaled by 1 / (1 - p)."""
        if not self.training or not self.p:
            return x
        return x * F.dropout(torch.ones_like(x[:, :1] if x.dim() > 2 else x), self.p)


def run_layer(layer: nn.Module, x: Any, before: Parts | None, weight_dropout: float = 0.0) -> tuple[Any, Parts]:
    """Run recurrent layers of torch or of this module; return the states after each step and the last state.

    Args:
        x: Steps (B, T, width), or a packed sequence.
        before: State before the first step; None for zeros.
        weight_dropout: Dropout probability of the hidden-to-hidden weights in training: one mask per call. A `Stack`
            uses its own probability instead.

    Source: weight dropout, Wan et al. 2013 (DropConnect); Merity, Keskar and Socher 2018 (AWD-LSTM), section 2.
    """
    if isinstance(layer, Stack):
        return layer(x, before)
    state = before if before is None or len(before) > 1 else before[0]
    if weight_dropout and layer.training:
        states, after = _call_with_dropped_weights(layer, x, state, weight_dropout)
    else:
        states, after = layer(x, state)
    return states, after if isinstance(after, tuple) else (after,)


def drop_weights(layer: nn.Module, p: float) -> dict[str, Tensor]:
    """Return the hidden-to-hidden weights after dropout, by name; empty in evaluation or without dropout."""
    if not p or not layer.training:
        return {}
    named = ((name, weight) for name, weight in layer.named_parameters() if name.startswith("weight_hh"))
    return {name: F.dropout(weight, p) for name, weight in named}


def _call_with_dropped_weights(layer: nn.Module, x: Any, state: Any, p: float) -> Any:
    dropped = drop_weights(layer, p)
    if not next(layer.parameters()).is_cuda:
        return functional_call(layer, dropped, (x, state))
    with warnings.catch_warnings():  # torch warns that cuDNN copies the weights into one block of memory
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
        return functional_call(layer, dropped, (x, state))


class NormalizedCell(nn.Module, ABC):
    """One recurrent layer with layer norm inside the cell, computed step by step.

    `forward` has the arguments and results of one layer of torch with ``batch_first=True``. Names of weights and the
    order of gates are as in torch's cells; only the norms have biases.

    Source: Ba, Kiros and Hinton 2016, "Layer normalization", section 3.1 (rnn) and appendix (lstm, gru).
    """

    gates: int
    parts = 1  # number of tensors in the state

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(self.gates * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(self.gates * hidden_size, hidden_size))
        for weight in (self.weight_ih, self.weight_hh):
            nn.init.uniform_(weight, -(hidden_size**-0.5), hidden_size**-0.5)  # as in torch

    def forward(self, x: Tensor, before: Any = None) -> tuple[Tensor, Any]:
        """Return the states (B, T, hidden_size), and the last state with a leading axis of size 1 for the layer."""
        if before is None:
            before = x.new_zeros(1, len(x), self.hidden_size)
            before = (before, before) if self.parts > 1 else before
        parts = tuple(part[0] for part in (before if isinstance(before, tuple) else (before,)))
        states = []
        for step in self.read(F.linear(x, self.weight_ih)).unbind(1):
            parts = self.step(step, F.linear(parts[0], self.weight_hh), *parts)
            states.append(parts[0])
        after = tuple(part[None] for part in parts)
        return torch.stack(states, dim=1), after if len(after) > 1 else after[0]

    @abstractmethod
    def read(self, inputs: Tensor) -> Tensor:
        """Return the part of the gates that depends on the inputs, for all steps."""

    @abstractmethod
    def step(self, inputs: Tensor, recurrent: Tensor, *parts: Tensor) -> Parts:
        """Return the state after one step.

        Args:
            inputs: Part of the gates that depends on the inputs.
            recurrent: Part of the gates that depends on the previous hidden state.
            parts: Previous state.
        """


class NormalizedRNN(NormalizedCell):
    """Simple recurrent layer: ``h' = f(LN(W x + U h))``."""

    gates = 1

    def __init__(self, input_size: int, hidden_size: int, nonlinearity: str = "tanh") -> None:
        super().__init__(input_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.activation = {"tanh": torch.tanh, "relu": torch.relu}[nonlinearity]

    def read(self, inputs: Tensor) -> Tensor:
        """Return the inputs unchanged; `step` normalizes their sum with the recurrent part."""
        return inputs

    def step(self, inputs: Tensor, recurrent: Tensor, *parts: Tensor) -> Parts:
        """Return the state after one step."""
        return (self.activation(self.norm(inputs + recurrent)),)


class NormalizedLSTM(NormalizedCell):
    """LSTM layer: gates ``LN(W x) + LN(U h)``, output ``sigmoid(o) * tanh(LN(c))``."""

    gates, parts = 4, 2

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.norm_ih = nn.LayerNorm(self.gates * hidden_size)
        self.norm_hh = nn.LayerNorm(self.gates * hidden_size, bias=False)  # norm_ih already has a bias
        self.norm_cell = nn.LayerNorm(hidden_size)

    def read(self, inputs: Tensor) -> Tensor:
        """Return the normalized inputs."""
        return self.norm_ih(inputs)

    def step(self, inputs: Tensor, recurrent: Tensor, *parts: Tensor) -> Parts:
        """Return hidden and cell state after one step."""
        i, f, g, o = (inputs + self.norm_hh(recurrent)).chunk(4, dim=-1)
        cell = torch.sigmoid(f) * parts[1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(self.norm_cell(cell)), cell


class NormalizedGRU(NormalizedCell):
    """GRU layer: gates ``LN(W x) + LN(U h)``, candidate ``tanh(LN(W x) + sigmoid(r) * LN(U h))``."""

    gates = 3

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.norm_ih, self.norm_hh = nn.LayerNorm(2 * hidden_size), nn.LayerNorm(2 * hidden_size, bias=False)
        self.norm_ih_new, self.norm_hh_new = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)

    def read(self, inputs: Tensor) -> Tensor:
        """Return the normalized inputs; both gates are normalized together, the candidate by itself."""
        gates, new = inputs.split([2 * self.hidden_size, self.hidden_size], dim=-1)
        return torch.cat([self.norm_ih(gates), self.norm_ih_new(new)], dim=-1)

    def step(self, inputs: Tensor, recurrent: Tensor, *parts: Tensor) -> Parts:
        """Return the state after one step."""
        sizes = [2 * self.hidden_size, self.hidden_size]
        (gates, new), (of_gates, of_new) = inputs.split(sizes, dim=-1), recurrent.split(sizes, dim=-1)
        r, z = torch.sigmoid(gates + self.norm_hh(of_gates)).chunk(2, dim=-1)
        new = torch.tanh(new + r * self.norm_hh_new(of_new))
        return ((1 - z) * new + z * parts[0],)


NORMALIZED: Mapping[str, Callable[..., NormalizedCell]] = {
    "rnn": NormalizedRNN,
    "lstm": NormalizedLSTM,
    "gru": NormalizedGRU,
}


class Stack(nn.Module):
    """Recurrent layers that are called one by one, for options that torch's own stack of layers does not have.

    Args:
        build: Function of the input size that returns one layer for one direction, such as an `nn.LSTM`.
        dropout: Module that is applied to the output of each layer except the last.
        residual: Add the input of each layer after the first to its output (Wu et al. 2016, section 3.1).
        weight_dropout: See `run_layer`.
    """

    def __init__(
        self,
        build: Callable[[int], nn.Module],
        width: int,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        dropout: nn.Module,
        residual: bool,
        weight_dropout: float,
    ) -> None:
        super().__init__()
        self.residual, self.weight_dropout, self.dropout = residual, weight_dropout, dropout
        self.directions, self.cells = nn.ModuleList(), num_layers * (2 if bidirectional else 1)
        for _ in range(2 if bidirectional else 1):
            widths = [width] + [hidden_size * (2 if bidirectional else 1)] * (num_layers - 1)
            self.directions.append(nn.ModuleList(build(each) for each in widths))

    def forward(self, x: Tensor, before: Parts | None = None, lengths: Tensor | None = None) -> tuple[Tensor, Parts]:
        """Return the states after each step (B, T, width), and the last state of each layer and direction.

        Args:
            lengths: Steps of each sequence; later steps are padding, which both directions read last, so the last
                states include padding. None for no padding.
        """
        number, after = 0, list[Parts]()
        for layer in zip(*self.directions, strict=True):
            outputs = []
            for direction, cell in enumerate(layer):
                own = None if before is None else tuple(part[number : number + 1].contiguous() for part in before)
                steps = reverse(x, lengths) if direction else x
                states, last = run_layer(cell, steps, own, self.weight_dropout)
                outputs.append(reverse(states, lengths) if direction else states)
                after.append(last)
                number += 1
            y = torch.cat(outputs, dim=-1)
            y = y if number == self.cells else self.dropout(y)
            x = y + x if self.residual and number > len(layer) else y
        return x, tuple(torch.cat(parts) for parts in zip(*after, strict=True))


def reverse(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return sequences (B, T, width) with their steps in reverse order; padding stays at the end."""
    if lengths is None:
        return x.flip(1)
    last = lengths.clamp(min=1).to(x.device, non_blocking=True)[:, None] - 1
    steps = torch.arange(x.shape[1], device=x.device)
    return x.gather(1, torch.where(steps <= last, last - steps, steps)[:, :, None].expand_as(x))


def build_layers(
    cell: str,
    width: int,
    hidden_size: int,
    num_layers: int,
    bidirectional: bool,
    dropout: nn.Module,
    activation: str | None,
    layer_norm: bool,
    residual: bool,
    weight_dropout: float,
) -> nn.Module:
    """Return the recurrent layers of a model: torch's own, or a `Stack` for options that torch does not have.

    Args:
        dropout: `nn.Dropout` or `LockedDropout` of the outputs of all layers except the last.
        activation: ``tanh``, ``relu`` or None; None for lstm and gru.
    """
    options = _cell_options(cell, activation)
    if not 0 <= weight_dropout < 1:
        raise ConfigError(format_error("model.weight_dropout", "a number of at least 0 and below 1", weight_dropout))
    if residual and num_layers < 2:
        raise ConfigError(format_error("model.residual", "false for a model with one layer", residual))
    build = choose("model.cell", cell, CELLS)
    if not (layer_norm or residual or isinstance(dropout, LockedDropout)):
        options["dropout"] = dropout.p if num_layers > 1 else 0.0  # torch warns about dropout with one layer
        return build(width, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional, **options)
    one = NORMALIZED[cell] if layer_norm else functools.partial(build, batch_first=True)
    one = functools.partial(one, hidden_size=hidden_size, **options)
    return Stack(one, width, hidden_size, num_layers, bidirectional, dropout, residual, weight_dropout)


def _cell_options(cell: str, activation: str | None) -> dict[str, Any]:
    if cell == "rnn":
        return {"nonlinearity": choose("model.activation", activation or "tanh", {"tanh": "tanh", "relu": "relu"})}
    if activation is not None:
        reason = f"the activation functions of the {cell} are fixed. model=rnn accepts tanh or relu."
        raise ConfigError(f"model.activation: not supported because {reason}")
    return {}

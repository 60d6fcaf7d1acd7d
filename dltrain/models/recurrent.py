"""Recurrent networks: simple RNN, LSTM and GRU."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError, format_error
from dltrain.models.layers import Steps, check, choose

CELLS: Mapping[str, Callable[..., nn.Module]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class Recurrent(nn.Module):
    """A stack of recurrent layers and a linear output, at every step or at the end.

    Args:
        cell: ``rnn``, ``lstm`` or ``gru``.
        features: Numbers per step, at least 1.
        outputs: Numbers per answer, at least 1.
        hidden_size: Width of the state, at least 1.
        num_layers: Number of layers, at least 1.
        bidirectional: A second stack reads the steps backwards; the states stand side by side.
        dropout: Share of every layer's output that is dropped in training, 0 to below 1; the state is never dropped.
        activation: ``tanh`` or ``relu`` for the rnn; None for lstm and gru, whose functions are fixed.
        vocabulary: Number of different tokens, where the input is tokens; their embedding has width ``hidden_size``.
        each_step: An answer at every step; otherwise one, from the last step (and, of the backward stack, from the
            first, where it ends).
        causal: The task forbids answers that know later steps.

    Shape:
        - Input: (B, T, features), (B, C, H, W) read as H steps, or with a vocabulary int64 (B, T).
        - Output: (B, T, outputs) with ``each_step``, otherwise (B, outputs).

    Raises:
        ConfigError: When a value is out of range, a name unknown, or ``bidirectional`` meets ``causal``.

    Source: Elman 1990; Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000; Cho et al. 2014. The
    forget gates start with a bias of one, as Jozefowicz, Zaremba and Sutskever 2015 found best.
    """

    def __init__(
        self,
        cell: str,
        features: int,
        outputs: int,
        hidden_size: int = 64,
        num_layers: int = 2,
        bidirectional: bool = False,
        dropout: float = 0.0,
        activation: str | None = None,
        vocabulary: int | None = None,
        each_step: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        check(
            dropout,
            features=features,
            outputs=outputs,
            hidden_size=hidden_size,
            num_layers=num_layers,
            vocabulary=vocabulary,
        )
        if causal and bidirectional:
            hint = "A backward stack would show it the steps that it is to predict."
            raise ConfigError(
                format_error("model.bidirectional", "false, as this task predicts the next step", True, hint)
            )
        self.hidden_size, self.bidirectional, self.each_step = hidden_size, bidirectional, each_step
        self.steps = Steps(features, hidden_size, vocabulary)
        self.layers = choose("model.cell", cell, CELLS)(
            self.steps.width,
            hidden_size,
            num_layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout
            if num_layers > 1
            else 0.0,  # torch drops between layers and warns where there is no between
            **_options(cell, activation),
        )
        if cell == "lstm":
            _remember(self.layers, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size * (2 if bidirectional else 1), outputs)

    def forward(self, x: Tensor) -> Tensor:
        """The answer at every step or at the end."""
        states, _ = self.layers(self.steps(x))
        return self.head(self.dropout(states if self.each_step else self._final(states)))

    def _final(self, states: Tensor) -> Tensor:
        """The state after all steps: (B, T, width) -> (B, width)."""
        if not self.bidirectional:
            return states[:, -1]
        return torch.cat([states[:, -1, : self.hidden_size], states[:, 0, self.hidden_size :]], dim=-1)


def _remember(layers: nn.Module, hidden_size: int) -> None:
    """Start with open forget gates, so that gradients reach far back from the first step of training on."""
    for name, bias in layers.named_parameters():
        if name.startswith("bias_ih"):
            nn.init.ones_(bias[hidden_size : 2 * hidden_size])


def _options(cell: str, activation: str | None) -> dict[str, Any]:
    """What the cell is built with besides sizes."""
    if cell == "rnn":
        known = {name: name for name in ("tanh", "relu")}
        return {"nonlinearity": choose("model.activation", activation or "tanh", known)}
    if activation is not None:
        hint = "model=rnn takes tanh or relu."
        raise ConfigError(
            format_error("model.activation", f"null, as the functions of the {cell} are fixed", activation, hint)
        )
    return {}

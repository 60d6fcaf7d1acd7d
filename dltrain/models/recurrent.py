"""Recurrent networks: simple RNN, LSTM and GRU."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

from dltrain.errors import ConfigError, choose, format_error
from dltrain.models.layers import READOUTS, State, Steps, check_sizes, read_out

CELLS: Mapping[str, Callable[..., nn.Module]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class Recurrent(nn.Module):
    """Stacked recurrent layers and a linear output layer, applied at every step or after the last one.

    Args:
        cell: ``rnn``, ``lstm`` or ``gru``.
        features, outputs, hidden_size, num_layers: At least 1.
        bidirectional: Read the steps in both directions in each layer and concatenate the states.
        dropout: Dropout probability of each layer's output, and of the inputs if ``lengths`` are given, in [0, 1); it
            is not applied to the recurrent state.
        activation: ``tanh`` or ``relu`` for rnn; None for lstm and gru, whose activation functions are fixed.
        vocabulary: Number of distinct tokens; None for numeric inputs.
        each_step: Return an output at every step; otherwise only after all steps.
        causal: Whether outputs must not depend on later steps; excludes ``bidirectional``.
        readout: Input of the output layer without ``each_step``: the ``last`` state, or the ``mean`` or ``max`` of all
            states.
        linear_skip: Number of values in one example's input (steps times features), for a linear layer from the whole
            input whose result is added to the output; the layer is initialized to zero. None for no such layer.

    Shape: (B, T, features), images (B, C, H, W) as H steps, or tokens int64 (B, T) -> (B, T, outputs) with
    ``each_step``, otherwise (B, outputs).
    Source: Elman 1990; Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000; Cho et al. 2014. The
    initial forget gate bias of 1 is that of Jozefowicz, Zaremba and Sutskever 2015; the linear layer is the
    autoregressive component of Lai et al. 2018 (LSTNet), over all columns.
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
        linear_skip: int | None = None,
        readout: str = "last",
    ) -> None:
        super().__init__()
        check_sizes(dropout, features=features, outputs=outputs, vocabulary=vocabulary, linear_skip=linear_skip)
        check_sizes(hidden_size=hidden_size, num_layers=num_layers)
        _check_fit(causal and bidirectional, linear_skip, each_step or vocabulary is not None)
        self.hidden_size, self.num_layers = hidden_size, num_layers
        self.bidirectional, self.each_step = bidirectional, each_step
        self.readout = choose("model.readout", readout, {name: name for name in READOUTS})
        self.steps = Steps(features, hidden_size, vocabulary)
        self.layers = choose("model.cell", cell, CELLS)(
            self.steps.width,
            hidden_size,
            num_layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if num_layers > 1 else 0.0,  # torch warns about dropout with one layer
            **_cell_options(cell, activation),
        )
        for name, bias in self.layers.named_parameters():
            if cell == "lstm" and name.startswith("bias_ih"):
                nn.init.ones_(bias[hidden_size : 2 * hidden_size])  # open forget gates let gradients pass many steps
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size * (2 if bidirectional else 1), outputs)
        self.skip = None if linear_skip is None else nn.Linear(linear_skip, outputs)
        if self.skip is not None:
            nn.init.zeros_(self.skip.weight)
            nn.init.zeros_(self.skip.bias)

    def forward(self, x: Tensor, lengths: Tensor | None = None, state: State | None = None) -> Any:
        """Return the outputs at every step or after all steps; with a `state`, also the state after these steps.

        Args:
            lengths: Steps of each sequence, int64 (B,) on the CPU; later steps are padding. None for no padding.
            state: State returned by `start` or an earlier call; None to start from zeros and return no state.
        """
        if state is not None:
            return self._continue(x, state)
        states = self._states(self.steps(x), lengths)
        if not self.each_step and self.bidirectional and self.readout == "last":
            forward, backward = states.split(self.hidden_size, dim=-1)  # the backward direction ends at the first step
            states = torch.cat([read_out(forward, lengths, "last"), backward[:, 0]], dim=-1)
        elif not self.each_step:
            states = read_out(states, lengths, self.readout)
        outputs = self.head(self.dropout(states))
        return outputs if self.skip is None else outputs + self.skip(x.flatten(1))

    def start(self, batch_size: int) -> State:
        """Return the initial state: zeros, (B, num_layers, hidden_size) for each part of the state.

        Raises:
            ConfigError: The model reads the steps in both directions, or all at once.
        """
        whole = not self.each_step and self.readout != "last"
        excluded = {"bidirectional": self.bidirectional, "linear_skip": self.skip is not None, "readout": whole}
        for name, is_excluded in excluded.items():
            if is_excluded:
                reason = "this model is computed step by step and cannot read later steps"
                raise ConfigError(f"model.{name}: not supported because {reason}")
        zeros = self.head.weight.new_zeros(batch_size, self.num_layers, self.hidden_size)
        return dict.fromkeys(("hidden", "cell") if isinstance(self.layers, nn.LSTM) else ("hidden",), zeros)

    def _continue(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        before = tuple(part.transpose(0, 1).contiguous() for part in state.values())  # torch has the layers first
        states, after = self.layers(self.steps(x), before if len(before) > 1 else before[0])
        after = after if isinstance(after, tuple) else (after,)
        outputs = self.head(self.dropout(states if self.each_step else states[:, -1]))
        return outputs, {name: part.transpose(0, 1) for name, part in zip(state, after, strict=True)}

    def _states(self, steps: Tensor, lengths: Tensor | None) -> Tensor:
        """Return the state after each step; states after padding are not used."""
        if lengths is None:
            return self.layers(steps)[0]
        steps = self.dropout(steps)
        if not self.bidirectional:  # the forward direction reads padding only after all other steps
            return self.layers(steps)[0]
        # If torch sorted the sequences, it would wait for the GPU.
        lengths, order = lengths.clamp(min=1).sort(descending=True)
        order, inverse = (index.to(steps.device, non_blocking=True) for index in (order, order.argsort()))
        packed = rnn.pack_padded_sequence(steps.index_select(0, order), lengths, batch_first=True)
        states, _ = rnn.pad_packed_sequence(self.layers(packed)[0], batch_first=True, total_length=steps.shape[1])
        return states.index_select(0, inverse)


def _cell_options(cell: str, activation: str | None) -> dict[str, Any]:
    if cell == "rnn":
        return {"nonlinearity": choose("model.activation", activation or "tanh", {"tanh": "tanh", "relu": "relu"})}
    if activation is not None:
        reason = f"the activation functions of the {cell} are fixed. model=rnn takes tanh or relu."
        raise ConfigError(f"model.activation: not supported because {reason}")
    return {}


def _check_fit(bidirectional: bool, linear_skip: int | None, tokens: bool) -> None:
    """Reject a backward direction that reads the targets, and `linear_skip` for tokens or outputs at every step."""
    if bidirectional:
        reason = "this task predicts the next step, which the backward direction would read"
        raise ConfigError(f"model.bidirectional: not supported because {reason}")
    if linear_skip is not None and tokens:
        expected = "null for tokens and for outputs at every step"
        raise ConfigError(format_error("model.linear_skip", expected, linear_skip))

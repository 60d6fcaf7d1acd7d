"""Sequence-to-sequence forecaster: a recurrent encoder reads a window, and a recurrent decoder forecasts."""

import torch
from torch import Tensor, nn

from dltrain.models.layers import LinearSkip, State, check_sizes
from dltrain.models.linear_forecasters import count_levels
from dltrain.models.recurrent_encoder_decoder import RecurrentEncoderDecoder


class Seq2SeqForecaster(RecurrentEncoderDecoder):
    """Recurrent encoder and decoder; each step of the decoder reads the forecast or the true value of the step before.

    The first step reads the last value of the window. Each step also reads the values that are known in advance for it.
    If a forecast has several outputs per step and column, such as quantiles, the next step reads their mean.

    Args:
        features: Number of values per step: the columns, the known values of the step, and the known values
            ``horizon`` steps later.
        columns, horizon: Number of columns and number of steps to forecast, at least 1.
        outputs: ``horizon * columns * levels``; see `dltrain.models.linear_forecasters.Forecaster`.
        cell: ``lstm``, ``gru`` or ``rnn``, for encoder and decoder.
        hidden_size, num_layers: Width of the states, and number of layers of encoder and decoder; at least 1.
        attention: ``none``, ``additive``, ``dot`` or ``general``: attention to the steps of the window; see
            `dltrain.models.recurrent_encoder_decoder.Attention`.
        bidirectional: Whether the encoder reads in both directions; a linear layer joins the last states.
        linear_skip: Number of values in an example's input (steps times features), for a linear layer on the whole
            input. The network adds the outputs of this layer, which are 0 at first, to its own; None for no layer.
        dropout: Dropout probability between layers and before the output layer, in [0, 1).

    Shape: (B, length, features) -> (B, outputs), flattened from (B, horizon, columns, levels).
    Source: Cho et al. 2014 and Sutskever, Vinyals and Le 2014 (encoder and decoder); Luong, Pham and Manning 2015,
    section 3 (attention, without input feeding); Lai et al. 2018 (linear layer, here over all columns).
    """

    def __init__(
        self,
        features: int,
        columns: int,
        horizon: int,
        outputs: int,
        cell: str = "lstm",
        hidden_size: int = 64,
        num_layers: int = 1,
        attention: str = "none",
        bidirectional: bool = False,
        linear_skip: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        check_sizes(dropout, features=features, columns=columns, horizon=horizon)
        check_sizes(hidden_size=hidden_size, num_layers=num_layers, linear_skip=linear_skip)
        width = columns + (features - columns) // 2
        none, widths = nn.Identity(), (width, width)  # numeric inputs need no embedding
        super().__init__(none, none, widths, cell, hidden_size, num_layers, attention, bidirectional, dropout)
        self.columns, self.horizon, self.width = columns, horizon, width
        self.levels = count_levels(outputs, horizon, columns)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size, columns * self.levels)
        self.skip = None if linear_skip is None else LinearSkip(linear_skip, outputs)

    def forward(self, x: Tensor, previous: Tensor | None = None, is_true: Tensor | None = None) -> Tensor:
        """Return the forecast of each example.

        Args:
            x: Windows (B, length, features).
            previous: True value of the step before each forecast step, (B, horizon, columns), which the decoder reads
                instead of its own forecast. None outside training.
            is_true: Steps that read `previous`, bool (B, horizon); other steps read the forecast. None for all steps.
        """
        state = self.read(x[..., : self.width])
        known = (
            x[:, -self.horizon :, self.width :] if self.width > self.columns else x.new_zeros(len(x), self.horizon, 0)
        )
        if previous is not None and is_true is None:
            return (self._write(previous, known, state)[0] + self._add(x)).flatten(1)
        return self._step_by_step(x, known, state, previous, is_true)

    def _step_by_step(
        self, x: Tensor, known: Tensor, state: State, previous: Tensor | None, is_true: Tensor | None
    ) -> Tensor:
        added, found = self._add(x).expand(len(x), self.horizon, -1, -1).split(1, dim=1), list[Tensor]()
        value = x[:, -1:, : self.columns]
        for step in range(self.horizon):
            now = slice(step, step + 1)
            if previous is not None and is_true is not None:
                value = torch.where(is_true[:, now, None], previous[:, now], value)
            levels, state = self._write(value, known[:, now], state)
            found.append(levels + added[step])
            value = found[-1].mean(-1).to(x.dtype)
        return torch.cat(found, dim=1).flatten(1)

    def _write(self, values: Tensor, known: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the outputs for the step after each value, (B, steps, columns, levels), and the next state."""
        states, state = self.write(torch.cat([values, known], dim=-1), state)
        return self.head(self.dropout(states)).unflatten(-1, (self.columns, self.levels)), state

    def _add(self, x: Tensor) -> Tensor:
        """Return the output of the linear layer, (B, horizon, columns, levels), or 0 without the layer."""
        if self.skip is None:
            return x.new_zeros(1, 1, 1, 1)
        return self.skip(x).view(len(x), self.horizon, self.columns, self.levels)

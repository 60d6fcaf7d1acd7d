"""Recurrent layers of torch on sequences of different lengths: packed on a GPU, padded on a CPU, with equal results."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import rnn

from dltrain.models.recurrent_layers import Parts, drop_weights, reverse, run_layer

KERNELS: Mapping[str, Callable[..., Any]] = {
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
    "LSTM": torch.lstm,
    "GRU": torch.gru,
}
SATURATED = 1e4  # added to or subtracted from the input of a gate, so that its output is exactly 1 or 0


def run_ragged(
    layer: nn.RNNBase, x: Tensor, lengths: Tensor, before: Parts | None = None, weight_dropout: float = 0.0
) -> tuple[Tensor, Parts]:
    """Return the states of the last layer, (B, T, directions * hidden_size), and the last states of all layers.

    The last states have the shape (layers * directions, B, hidden_size). States at padding have no meaning. On a CPU,
    where packed sequences are slower than padded ones, each direction reads padded sequences, and the backward
    direction reads each sequence in reverse order.

    Args:
        x: Sequences (B, T, features).
        lengths: Number of steps of each sequence, int64 (B,) on the CPU; an empty sequence is treated as one step.
        before: State before the first step; None for zeros.
        weight_dropout: See `run_layer`.
    """
    # `_run_padded` does not call `layer.forward`, which `use_fp32_where_needed` may have replaced.
    run = _run_padded if x.device.type == "cpu" and "forward" not in vars(layer) else _run_packed
    return run(layer, x, lengths.clamp(min=1), before, weight_dropout)


def _run_packed(
    layer: nn.RNNBase, x: Tensor, lengths: Tensor, before: Parts | None, weight_dropout: float
) -> tuple[Tensor, Parts]:
    # If torch sorted the sequences, it would wait for the GPU.
    lengths, order = lengths.sort(descending=True)
    order, inverse = (index.to(x.device, non_blocking=True) for index in (order, order.argsort()))
    packed = rnn.pack_padded_sequence(x.index_select(0, order), lengths, batch_first=True)
    own = None if before is None else tuple(part.index_select(1, order) for part in before)
    states, last = run_layer(layer, packed, own, weight_dropout)
    states, _ = rnn.pad_packed_sequence(states, batch_first=True, total_length=x.shape[1])
    return states.index_select(0, inverse), tuple(part.index_select(1, inverse) for part in last)


def _run_padded(
    layer: nn.RNNBase, x: Tensor, lengths: Tensor, before: Parts | None, weight_dropout: float
) -> tuple[Tensor, Parts]:
    weights = dict(layer.named_parameters()) | drop_weights(layer, weight_dropout)
    after = list[Parts]()
    for number in range(layer.num_layers):
        outputs = []
        for suffix in ("", "_reverse") if layer.bidirectional else ("",):
            own = None if before is None else tuple(part[len(after) : len(after) + 1] for part in before)
            names = [f"{name}_l{number}{suffix}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            steps = reverse(x, lengths) if suffix else x
            states, last = _run_direction(layer, steps, lengths, own, [weights[name] for name in names])
            outputs.append(reverse(states, lengths) if suffix else states)
            after.append(last)
        x = torch.cat(outputs, dim=-1)
        x = F.dropout(x, layer.dropout, layer.training) if number + 1 < layer.num_layers else x
    return x, tuple(torch.cat(parts) for parts in zip(*after, strict=True))


def _run_direction(
    layer: nn.RNNBase, x: Tensor, lengths: Tensor, before: Parts | None, weights: list[Tensor]
) -> tuple[Tensor, Parts]:
    """Run one direction of one layer; return the states after each step and the last state of each sequence."""
    is_lstm = layer.mode == "LSTM"
    if before is None:
        before = (x.new_zeros(1, len(x), layer.hidden_size),) * (2 if is_lstm else 1)
    if is_lstm:
        x, weights = _keep_cells(x, lengths, weights)
    options = True, 1, 0.0, layer.training, False, True  # biases, layers, dropout, training, bidirectional, batch first
    states, _, *cells = KERNELS[layer.mode](x, before if is_lstm else before[0], weights, *options)
    last = (lengths - 1)[:, None, None].expand(-1, 1, states.shape[2])
    return states, (states.gather(1, last).transpose(0, 1), *cells)


def _keep_cells(x: Tensor, lengths: Tensor, weights: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return inputs and weights of an LSTM with one more feature, which keeps the cell state unchanged in padding.

    The feature is 1 in padding, where it opens the forget gate and closes the input gate, and 0 elsewhere.
    """
    padding = (torch.arange(x.shape[1]) >= lengths[:, None])[:, :, None].to(x.dtype)
    of_inputs, *others = weights
    gates = of_inputs.new_tensor([-SATURATED, SATURATED, 0, 0])  # input, forget, cell, output
    column = gates.repeat_interleave(len(of_inputs) // 4)[:, None]
    return torch.cat([x, padding], dim=-1), [torch.cat([of_inputs, column], dim=1), *others]

"""Initial weights of recurrent layers."""

import torch
from torch import nn

from dltrain.errors import ConfigError, choose

INITS = ("uniform", "orthogonal", "identity")


def initialize(layers: nn.Module, cell: str, recurrent_init: str, forget_bias: float | None) -> None:
    """Set the initial hidden-to-hidden weights, and the bias of the forget gates of an lstm.

    Args:
        layers: Layers of torch, or of `dltrain.models.recurrent_layers`.
        recurrent_init: ``uniform`` keeps torch's weights, within ±1 / sqrt(hidden_size); ``orthogonal`` is a random
            orthogonal matrix for each gate; ``identity``, for rnn only, is the identity matrix, with biases of 0.
        forget_bias: Bias of the forget gates; None for 1. The second bias of torch's layers keeps its random value.

    Source: orthogonal, Saxe, McClelland and Ganguli 2014; identity, Le, Jaitly and Hinton 2015 (IRNN);
    forget bias, Jozefowicz, Zaremba and Sutskever 2015.
    Differs: IRNN also has ``relu`` and much smaller input weights.
    """
    choose("model.recurrent_init", recurrent_init, {name: name for name in INITS})
    if recurrent_init == "identity" and cell != "rnn":
        reason = f"it is defined only for layers without gates, and the {cell} has gates. Use model=rnn."
        raise ConfigError(f"model.recurrent_init=identity: not supported because {reason}")
    if forget_bias is not None and cell != "lstm":
        raise ConfigError(f"model.forget_bias: not supported because the {cell} has no forget gate; the lstm has one")
    for name, value in layers.named_parameters():
        if "weight_hh" in name and recurrent_init != "uniform":
            _initialize_gates(value, recurrent_init)
        elif recurrent_init == "identity" and "bias" in name:
            nn.init.zeros_(value)
        elif cell == "lstm" and ("bias_ih" in name or name.endswith("norm_ih.bias")):
            size = len(value) // 4  # input, forget, cell and output gate
            nn.init.constant_(value[size : 2 * size], 1.0 if forget_bias is None else forget_bias)


def _initialize_gates(weight: nn.Parameter, recurrent_init: str) -> None:
    """Set the matrix of each gate in the hidden-to-hidden weights (gates * hidden_size, hidden_size)."""
    with torch.no_grad():
        for gate in weight.split(weight.shape[1]):
            nn.init.eye_(gate) if recurrent_init == "identity" else nn.init.orthogonal_(gate)

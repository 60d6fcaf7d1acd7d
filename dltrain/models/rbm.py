"""Restricted Boltzmann machines and deep belief networks."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.models.layers import check_sizes


class Down(nn.Module):
    """Linear layer from hidden to visible units, with the transposed weight of ``up`` and its own bias.

    Shape: (B, hidden) -> (B, visible), logits.
    """

    def __init__(self, up: nn.Linear) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(up.in_features))
        self._tied = (up,)  # in a tuple, so that `up` is not a submodule; deepcopy of the parent keeps the weight tied

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the logits of the visible units."""
        return F.linear(hidden, self._tied[0].weight.t(), self.bias)


class RBM(nn.Module):
    """Restricted Boltzmann machine with binary units.

    The energy is ``E(v, h) = -b.v - c.h - h.Wv``, where ``W`` and ``c`` are weight and bias of ``up`` and ``b`` is the
    bias of ``down``. Given the visible units, the hidden units are independent, and vice versa:
    ``P(h = 1 | v) = sigmoid(up(v))`` and ``P(v = 1 | h) = sigmoid(down(h))``.

    Args:
        size, hidden_size: At least 1.
        std: Standard deviation of the initial weights.

    Shape: (B, ...) with ``size`` values per example, in [0, 1] -> (B, size), the logits of a reconstruction.
    Source: Smolensky 1986, "harmony theory"; Hinton 2002, "Training products of experts by minimizing contrastive
    divergence"; initial weights, Hinton 2010, "A practical guide to training restricted Boltzmann machines", section 8.
    Differs: visible biases start at 0, not at the log odds of the training data.
    """

    parts = ("up", "down")

    def __init__(self, size: int, hidden_size: int = 500, std: float = 0.01) -> None:
        super().__init__()
        check_sizes(size=size, hidden_size=hidden_size)
        self.up = nn.Linear(size, hidden_size)
        self.down = Down(self.up)
        nn.init.normal_(self.up.weight, std=std)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean-field reconstruction."""
        return self.down(self.up(x.flatten(1)).sigmoid())


class DBN(nn.Module):
    """Deep belief network: stacked restricted Boltzmann machines and a linear output layer.

    Bottom-up, it is a multilayer perceptron with sigmoid units, which classifies. Top-down, it generates examples.

    Args:
        size, outputs: At least 1.
        hidden_size: Width of each hidden layer, lowest first.
        dropout: Dropout probability of the hidden layers during fine-tuning, in [0, 1).

    Shape: (B, ...) with ``size`` values per example, in [0, 1] -> (B, outputs).
    Source: Hinton, Osindero and Teh 2006, "A fast learning algorithm for deep belief nets"; initial weights, Glorot and
    Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", equation 16.
    Differs: recognition and generative weights stay tied after pretraining.
    """

    def __init__(self, size: int, outputs: int, hidden_size: list[int], dropout: float = 0.0) -> None:
        super().__init__()
        if not hidden_size:
            raise ConfigError(format_error("model.hidden_size", "a list with at least one width", hidden_size))
        check_sizes(dropout, size=size, outputs=outputs, hidden_size=min(hidden_size))
        widths = [size, *hidden_size]
        layers = [RBM(below, above) for below, above in pairwise(widths)]
        for layer in layers:
            nn.init.xavier_uniform_(layer.up.weight)
        self.layers: Any = nn.ModuleList(layers)  # nn.ModuleList has no type for its items
        self.head = nn.Linear(widths[-1], outputs)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of each example."""
        x = x.flatten(1)
        for layer in self.layers:
            x = self.drop(layer.up(x).sigmoid())
        return self.head(x)

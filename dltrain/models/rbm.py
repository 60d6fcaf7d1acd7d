"""Restricted Boltzmann machines, and deep networks made of a stack of them."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.models.layers import check


class Down(nn.Module):
    """From hidden to visible units, through the transposed weight of the way up and a bias of its own.

    Args:
        up: From visible to hidden units; it owns the weight, which is thus trained and saved once.

    Shape:
        - Input: (B, hidden).
        - Output: (B, visible), logits.
    """

    def __init__(self, up: nn.Linear) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(up.in_features))
        self._tied = (up,)  # in a tuple it is no part of this module; a copy of both refers to the copy

    def forward(self, hidden: Tensor) -> Tensor:
        """What the hidden units say about the visible ones."""
        return F.linear(hidden, self._tied[0].weight.t(), self.bias)


class RBM(nn.Module):
    """Restricted Boltzmann machine: binary visible and hidden units, tied by one symmetric weight.

    Its energy is ``E(v, h) = -b.v - c.h - h.Wv``, where ``W`` and ``c`` are weight and bias of ``up`` and ``b`` is the
    bias of ``down``. Given one side, the units of the other are independent: ``P(h = 1 | v) = sigmoid(up(v))`` and
    ``P(v = 1 | h) = sigmoid(down(h))``.

    Args:
        size: Visible units, at least 1.
        hidden_size: Hidden units, at least 1.
        std: Deviation of the weights before training.

    Shape:
        - Input: (B, ...) with ``size`` numbers per example, from 0 to 1.
        - Output: (B, size), the logits of a reconstruction.

    Raises:
        ConfigError: When a value is out of range.

    Source: Smolensky 1986, "harmony theory"; Hinton 2002, "Training products of experts by minimizing contrastive
    divergence"; the weights at the start, Hinton 2010, "A practical guide to training restricted Boltzmann machines",
    section 8.

    Differs: biases of visible units start at 0, not at the log odds of the training data.
    """

    parts = ("up", "down")

    def __init__(self, size: int, hidden_size: int = 500, std: float = 0.01) -> None:
        super().__init__()
        check(size=size, hidden_size=hidden_size)
        self.up = nn.Linear(size, hidden_size)
        self.down = Down(self.up)
        nn.init.normal_(self.up.weight, std=std)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Once up and down again, with probabilities in the place of states."""
        return self.down(self.up(x.flatten(1)).sigmoid())


class DBN(nn.Module):
    """A stack of restricted Boltzmann machines, each upon the hidden units of the one below, and a linear output.

    Upwards it is a multilayer perceptron of sigmoid units, which is what answers; downwards it makes up examples.

    Args:
        size: Visible units of the lowest layer, at least 1.
        outputs: Numbers per answer, at least 1.
        hidden_size: Width of each hidden layer, the lowest first.
        dropout: Share of each hidden layer that is dropped while the answer is learned, 0 to below 1.

    Shape:
        - Input: (B, ...) with ``size`` numbers per example, from 0 to 1.
        - Output: (B, outputs).

    Raises:
        ConfigError: When a value is out of range.

    Source: Hinton, Osindero and Teh 2006, "A fast learning algorithm for deep belief nets"; the weights at the start,
    Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", equation 16.

    Differs: the way up and the way down share their weights after pretraining, too.
    """

    def __init__(self, size: int, outputs: int, hidden_size: list[int], dropout: float = 0.0) -> None:
        super().__init__()
        check(dropout, size=size, outputs=outputs, hidden_size=min(hidden_size, default=0))
        widths = [size, *hidden_size]
        layers = [RBM(below, above) for below, above in pairwise(widths)]
        for layer in layers:
            nn.init.xavier_uniform_(layer.up.weight)
        self.layers: Any = nn.ModuleList(layers)  # nn.ModuleList has no type for its items
        self.head = nn.Linear(widths[-1], outputs)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """The answer for every example."""
        x = x.flatten(1)
        for layer in self.layers:
            x = self.drop(layer.up(x).sigmoid())
        return self.head(x)

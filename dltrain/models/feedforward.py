"""Perceptron and multilayer perceptron: fully connected layers on flattened inputs."""

from torch import Tensor, nn

from dltrain.models.layers import activation as make_activation
from dltrain.models.layers import check_sizes, fully_connected, layer_widths


class Perceptron(nn.Module):
    """One linear layer.

    Args:
        size, outputs: At least 1.
        activation: Activation function of the output; ``identity`` for losses on logits.

    Shape: (B, ...) with ``size`` values per example -> (B, outputs).
    Source: Rosenblatt 1958, "The perceptron".
    Differs: trained by gradient descent on the task's loss; ``task=perceptron_rule`` uses Rosenblatt's rule.
    """

    def __init__(self, size: int, outputs: int, activation: str = "identity") -> None:
        super().__init__()
        check_sizes(size=size, outputs=outputs)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(size, outputs), make_activation(activation))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of each example."""
        return self.layers(x)


class MLP(nn.Module):
    """Fully connected hidden layers and a linear output layer.

    Args:
        size, outputs: At least 1.
        hidden_size: Width of the hidden layers; a list gives one per layer.
        num_layers: Number of hidden layers; must be the length of ``hidden_size`` if that is a list.
        norm: Normalization before each activation: ``batch``, ``layer``, ``group`` or ``none``.
        dropout: Dropout probability of the hidden layers, in [0, 1).

    Shape: (B, ...) with ``size`` values per example -> (B, outputs).
    Source: Rumelhart, Hinton and Williams 1986, "Learning representations by back-propagating errors".
    """

    def __init__(
        self,
        size: int,
        outputs: int,
        hidden_size: int | list[int] = 128,
        num_layers: int = 2,
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = layer_widths(hidden_size, num_layers)
        check_sizes(dropout, size=size, outputs=outputs)
        self.layers = fully_connected(size, widths, outputs, activation, norm, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of each example."""
        return self.layers(x)

"""Perceptron and multilayer perceptron: fully connected layers on flattened inputs."""

from torch import Tensor, nn

from dltrain.errors import ConfigError, format_error
from dltrain.models.layers import activation as activation_named
from dltrain.models.layers import check, fully_connected


class Perceptron(nn.Module):
    """One linear layer.

    Args:
        size: Numbers per example, at least 1.
        outputs: Numbers per answer, at least 1.
        activation: Of the output; ``identity`` leaves it linear, as losses on logits want it.

    Shape:
        - Input: (B, ...) with ``size`` numbers per example.
        - Output: (B, outputs).

    Raises:
        ConfigError: When a value is out of range or a name unknown.

    Source: Rosenblatt 1958, "The perceptron".

    Differs: trained by gradient descent on the task's loss, not by Rosenblatt's rule with a step function.
    """

    def __init__(self, size: int, outputs: int, activation: str = "identity") -> None:
        super().__init__()
        check(size=size, outputs=outputs)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(size, outputs), activation_named(activation))

    def forward(self, x: Tensor) -> Tensor:
        """The answer for every example."""
        return self.layers(x)


class MLP(nn.Module):
    """Fully connected hidden layers and a linear output.

    Args:
        size: Numbers per example, at least 1.
        outputs: Numbers per answer, at least 1.
        hidden_size: Width of the hidden layers, at least 1; a list says it layer by layer.
        num_layers: Number of hidden layers, at least 1; the length of ``hidden_size`` where that is a list.
        activation: Of the hidden layers.
        norm: In front of each activation: ``batch``, ``layer``, ``group`` or ``none``.
        dropout: Share of each hidden layer that is dropped in training, 0 to below 1.

    Shape:
        - Input: (B, ...) with ``size`` numbers per example.
        - Output: (B, outputs).

    Raises:
        ConfigError: When a value is out of range or a name unknown.

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
        widths = [hidden_size] * num_layers if isinstance(hidden_size, int) else list(hidden_size)
        check(dropout, size=size, outputs=outputs, num_layers=num_layers, hidden_size=min(widths, default=1))
        if len(widths) != num_layers:
            hint = f"Set model.num_layers={len(widths)}, or give model.hidden_size as one number."
            raise ConfigError(
                format_error("model.num_layers", f"{len(widths)}, the length of model.hidden_size", num_layers, hint)
            )
        self.layers = fully_connected(size, widths, outputs, activation, norm, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """The answer for every example."""
        return self.layers(x)

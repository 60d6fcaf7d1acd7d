"""Networks that are told a class beside what they read."""

import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError, format_error


class Told(nn.Module):
    """Layers that may be told the class of every example, one-hot beside their input.

    Args:
        layers: What reads both.
        classes: Number of classes; 0 for layers that are told none.
        planes: The input is a picture, and a class a channel of ones beside it; otherwise the input is flattened.

    Shape:
        - Input: (B, N, ...), and labels int64 (B,). A label that is no class, or no labels, means that none is known.
        - Output: what ``layers`` make of (B, N + classes, ...).

    Source: Kingma et al. 2014, "Semi-supervised learning with deep generative models", section 2.1: both networks of a
    conditional autoencoder read the class.
    """

    def __init__(self, layers: nn.Module, classes: int = 0, planes: bool = False) -> None:
        super().__init__()
        self.layers, self.classes, self.planes = layers, classes, planes

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the layers make of the input."""
        x = x if self.planes else x.flatten(1)
        return self.layers(torch.cat([x, self._hot(x, labels)], 1) if self.classes else x)

    def _hot(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """The classes one-hot, in the shape of the input but for the axis of channels."""
        if labels is None:
            return x.new_zeros(len(x), self.classes, *x.shape[2:])
        hot = (labels[:, None] == torch.arange(self.classes, device=x.device)).to(x.dtype)
        return hot.view(*hot.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])


def told_classes(conditional: bool, classes: int | None) -> int:
    """How many classes a model is told; 0 for none.

    Raises:
        ConfigError: When it is to be told classes that the data have not.
    """
    if conditional and not classes:
        raise ConfigError(format_error("model.conditional", "false, as these data have no classes", conditional))
    return classes or 0 if conditional else 0

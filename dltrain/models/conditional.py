"""Layers that are conditioned on a class label."""

import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError


class Conditional(nn.Module):
    """Layers whose input is concatenated with the one-hot class of each example.

    A label outside the classes, or None, is encoded as zeros.

    Args:
        num_classes: Number of classes; with 0 nothing is concatenated.
        as_channels: Append the one-hot class to a feature map as constant channels; otherwise flatten the input first.

    Shape: x (B, N, ...) and labels int64 (B,) or None -> the output of ``layers`` for (B, N + num_classes, ...) with
    ``as_channels``, otherwise for (B, size of an example + num_classes).
    Source: Kingma et al. 2014, "Semi-supervised learning with deep generative models", section 2.1.
    """

    def __init__(self, layers: nn.Module, num_classes: int = 0, as_channels: bool = False) -> None:
        super().__init__()
        self.layers, self.num_classes, self.as_channels = layers, num_classes, as_channels

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the output of the layers."""
        x = x if self.as_channels else x.flatten(1)
        if not self.num_classes:
            return self.layers(x)
        labels = x.new_full((len(x),), -1) if labels is None else labels
        one_hot = (labels[:, None] == torch.arange(self.num_classes, device=x.device)).to(x.dtype)
        one_hot = one_hot.view(*one_hot.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])
        return self.layers(torch.cat([x, one_hot], 1))


def num_conditioning_classes(conditional: bool, classes: int | None) -> int:
    """Return the number of classes that a model is conditioned on; 0 for none.

    Raises:
        ConfigError: The model is conditional and the data have no classes.
    """
    if conditional and not classes:
        raise ConfigError("model.conditional: not supported because the data have no classes")
    return classes if conditional and classes else 0

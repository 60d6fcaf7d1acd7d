"""Wrapper for networks of other libraries that keeps the names of their weights."""

from typing import Any

from torch import Tensor, nn


class AdoptedNetwork(nn.Module):
    """Wrapper that shares the layers, parameters and buffers of a network of another library.

    Parameter names get no prefix, so state dicts of that library can be loaded.
    """

    def adopt(self, network: nn.Module) -> None:
        """Use the layers, weights and `forward` of a network."""
        self._modules, self._parameters, self._buffers = network._modules, network._parameters, network._buffers
        self._non_persistent_buffers_set = network._non_persistent_buffers_set
        self._network = (network,)  # in a tuple, so that it is not a submodule

    def train(self, mode: bool = True) -> "AdoptedNetwork":
        """Set training or evaluation mode."""
        self._network[0].training = mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Any:
        """Return what the network returns."""
        return self._network[0].forward(x)

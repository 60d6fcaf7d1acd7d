"""Attention rollout: how much each output of a Transformer encoder depends on each input."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def attention_rollout(model: nn.Module, forward: Callable[[], Any]) -> Tensor:
    """Return how much each output state of the last layer depends on each input state of the first layer, (B, T, T).

    A layer's attention A, averaged over its heads, and its residual connection have equal weight; the result is the
    product ``(A_n + I) / 2 @ ... @ (A_1 + I) / 2``, whose rows sum to 1.

    Args:
        model: A model in evaluation mode whose layers of `torch.nn.MultiheadAttention` are called in sequence,
            as self-attention of states (B, T, features).
        forward: Function that computes the outputs of the model.

    Source: Abnar and Zuidema 2020, "Quantifying attention flow in transformers", section 3.
    """
    rolled: list[Tensor] = []

    def request_weights(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "need_weights": True, "average_attn_weights": True}

    def multiply(module: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
        weights = output[1] if output[1].dtype == torch.float64 else output[1].float()
        step = (weights + torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)) / 2
        rolled[:] = [step @ rolled[0] if rolled else step]

    layers = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    hooks = [layer.register_forward_pre_hook(request_weights, with_kwargs=True) for layer in layers]
    hooks += [layer.register_forward_hook(multiply) for layer in layers]
    try:
        with torch.no_grad():
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    return rolled[0]

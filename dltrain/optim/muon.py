"""Muon for matrices and AdamW for all other parameters, as one optimizer."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from dltrain.config import instantiate
from dltrain.optim.kernels import bare_step, kernel_options


class Muon:
    """Orthogonalized momentum for matrices, AdamW for all other parameters.

    Args:
        params: Parameter groups; each is split into matrices and other parameters.
        lr: Learning rate of the matrices.
        momentum: Between 0 and 1.
        nesterov: Whether to use Nesterov momentum.
        ns_steps: Number of Newton-Schulz iterations.
        weight_decay: Decoupled weight decay; ``adamw`` can set another one for AdamW.
        adamw: Arguments of torch.optim.AdamW, such as ``lr`` and ``betas``.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    Differs: embeddings and the output layer are matrices and use Muon; convolution kernels use AdamW.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        weight_decay: float = 0.01,
        adamw: Mapping[str, Any] | None = None,
    ) -> None:
        groups = list(params)
        matrices = _select(groups, matrices=True)
        others = _select(groups, matrices=False)
        self._optimizers: list[torch.optim.Optimizer] = []
        if matrices:
            self._optimizers.append(torch.optim.Muon(matrices, lr, weight_decay, momentum, nesterov, ns_steps=ns_steps))
        if others:
            build = instantiate.partial({"_target_": "torch.optim.AdamW", **(adamw or {})}, "optimizer.adamw")
            options = {"weight_decay": weight_decay, **build.keywords}
            options |= kernel_options(torch.optim.AdamW, options, others[0]["params"])
            self._optimizers.append(build(others, **options))
        self._steps = [bare_step(optimizer) for optimizer in self._optimizers]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of both optimizers, matrices first."""
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    @property
    def state(self) -> dict[torch.Tensor, dict[str, Any]]:
        """State of each parameter."""
        return {parameter: state for optimizer in self._optimizers for parameter, state in optimizer.state.items()}

    def step(self) -> None:
        """Update all parameters that have a gradient."""
        for step in self._steps:
            step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set all gradients to None or, if `set_to_none` is false, to zero."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both optimizers."""
        return {"parts": [optimizer.state_dict() for optimizer in self._optimizers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        for optimizer, saved in zip(self._optimizers, state["parts"], strict=True):
            optimizer.load_state_dict(saved)


def _select(groups: Iterable[dict[str, Any]], matrices: bool) -> list[dict[str, Any]]:
    """Return the groups with only their matrices, or only their other parameters; empty groups are dropped."""
    kept = [{**group, "params": [p for p in group["params"] if (p.ndim == 2) == matrices]} for group in groups]
    return [group for group in kept if group["params"]]

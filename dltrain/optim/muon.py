"""Muon for matrices and AdamW for the rest, as one optimizer."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from dltrain.optim.optimizer import bare_step, kernels


class Muon:
    """Orthogonalised momentum for matrices, AdamW for all other parameters, as one optimizer.

    Args:
        params: Parameter groups; each is divided by the number of dimensions.
        lr: Learning rate of the matrices.
        momentum: Between 0 and 1.
        nesterov: Look ahead along the momentum.
        ns_steps: Newton-Schulz iterations.
        weight_decay: Decoupled, of both parts.
        adamw: Arguments of torch.optim.AdamW (``lr``, ``betas``).

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    Differs: embeddings and the last layer are matrices and go with Muon; kernels of convolutions go with AdamW.
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
        matrices = divided(groups, matrices=True)
        others = divided(groups, matrices=False)
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            self._parts.append(torch.optim.Muon(matrices, lr, weight_decay, momentum, nesterov, ns_steps=ns_steps))
        if others:
            options = {"weight_decay": weight_decay, **(adamw or {})}
            options |= kernels(torch.optim.AdamW, options, others[0]["params"])
            self._parts.append(torch.optim.AdamW(others, **options))
        self._moves = [bare_step(part) for part in self._parts]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both parts, matrices first."""
        return [group for part in self._parts for group in part.param_groups]

    @property
    def state(self) -> dict[torch.Tensor, dict[str, Any]]:
        """What both parts remember of each parameter."""
        return {parameter: state for part in self._parts for parameter, state in part.state.items()}

    def step(self) -> None:
        """Move all parameters that have a gradient."""
        for move in self._moves:
            move()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The states of both parts."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` said."""
        for part, saved in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(saved)


def divided(groups: Iterable[dict[str, Any]], matrices: bool) -> list[dict[str, Any]]:
    """The groups with only their matrices, or only what is none; groups left empty are dropped."""
    kept = [{**group, "params": [p for p in group["params"] if (p.ndim == 2) == matrices]} for group in groups]
    return [group for group in kept if group["params"]]

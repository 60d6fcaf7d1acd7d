"""L1 and L2 penalties, gradient clipping and decoupled weight decay for any optimizer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Regularization:
    """Strengths of the penalties, clipping and weight decay; 0 disables each.

    Source: decoupled decay: Loshchilov, Hutter 2019, "Decoupled weight decay regularization", algorithm 2.
    """

    l1: float = 0.0  # adds l1 * sum |w| to the loss
    l2: float = 0.0  # adds l2 / 2 * sum w^2 to the loss, which equals torch's weight_decay under SGD
    # Each step multiplies weights by 1 - lr * weight_decay, in addition to the optimizer's own weight_decay.
    weight_decay: float = 0.0
    clip_norm: float = 0.0  # maximum norm of all gradients together
    clip_value: float = 0.0  # maximum absolute value of each gradient entry
    decay_biases: bool = False  # apply penalties and decay to biases and norm scales too

    def penalized(self, parameters: Iterable[nn.Parameter]) -> list[Tensor]:
        """Return the parameters that penalties and decay apply to."""
        return [p for p in parameters if self.decay_biases or p.ndim >= 2]


class Regularizer:
    """Penalties, clipping and weight decay of one optimizer.

    Args:
        config: Strengths of penalties, clipping and weight decay.
        parameters: All parameters of the optimizer.
        groups: Parameter groups of the optimizer.
    """

    def __init__(
        self, config: Regularization, parameters: Sequence[nn.Parameter], groups: Sequence[dict[str, Any]]
    ) -> None:
        self.config, self.device = config, parameters[0].device
        self.penalized = config.penalized(parameters)
        self.changes_gradients = any((config.l1, config.l2, config.clip_norm, config.clip_value))
        self.decayed: list[tuple[int, list[Tensor]]] = []  # index of a group and its weights that decay
        if config.weight_decay:
            chosen = {id(p) for p in self.penalized}
            members = [[p for p in group["params"] if id(p) in chosen] for group in groups]
            self.decayed = [(index, weights) for index, weights in enumerate(members) if weights]

    def apply(self, gradients: list[Tensor], measure: bool) -> Tensor | None:
        """Add penalties to the gradients and clip them, in place.

        If `measure` is true, return the norm of all gradients together, including penalties, before clipping.
        """
        l1, l2 = self.config.l1, self.config.l2
        weights = [p for p in self.penalized if p.grad is not None] if l1 or l2 else []
        targets = [g for p in weights if (g := p.grad) is not None]
        if weights and l2:
            torch._foreach_add_(targets, weights, alpha=l2)
        if weights and l1:
            torch._foreach_add_(targets, torch._foreach_sign(weights), alpha=l1)
        norm = None
        if measure or self.config.clip_norm:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if norm is not None and self.config.clip_norm:
            torch._foreach_mul_(gradients, (self.config.clip_norm / (norm + 1e-6)).clamp_(max=1.0))
        if limit := self.config.clip_value:
            torch._foreach_clamp_min_(gradients, -limit)
            torch._foreach_clamp_max_(gradients, limit)
        return norm if measure else None

    @torch.no_grad()
    def decay(self, groups: Sequence[dict[str, Any]], share: float | Tensor = 1.0) -> None:
        """Multiply the weights by 1 - ``share`` * ``lr`` * ``weight_decay``, with the learning rate of their group.

        Args:
            share: 1, or 0 if the losses of the step have a total weight of 0.
        """
        for index, weights in self.decayed:
            torch._foreach_mul_(weights, 1 - share * groups[index]["lr"] * self.config.weight_decay)

    @torch.no_grad()
    def penalty(self) -> Tensor:
        """Return the sum of the L1 and L2 penalties of the current weights, as a scalar on the device."""
        total = torch.zeros((), device=self.device)
        for weight in self.penalized:
            if self.config.l1:
                total += self.config.l1 * weight.abs().sum()
            if self.config.l2:
                total += self.config.l2 / 2 * weight.square().sum()
        return total

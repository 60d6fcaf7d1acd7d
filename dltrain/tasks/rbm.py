"""Restricted Boltzmann machines as probability distributions: free energy, Gibbs sampling, likelihood.

A machine is a module with the parts ``up``, a linear layer, and ``down``; each gives the logits of one side's units
from those of the other. Its probability is ``P(v) = exp(-F(v)) / Z``, where ``F`` is the free energy and ``Z`` the
partition function.
"""

from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.tasks.base import Loss

Machine = Any  # nn.Module has no type for its parts

EXACT = 16  # units on the smaller side up to which the partition function is summed up
CHUNK = 4096  # states summed up at a time
BITS = 8  # units per example that the pseudo-likelihood looks at


def free_energy(machine: Machine, visible: Tensor) -> Tensor:
    """``F(v) = -b.v - sum log(1 + exp(up(v)))`` of each example, (B, visible) -> (B,) in float32.

    Source: Hinton 2010, "A practical guide to training restricted Boltzmann machines", equation 25.
    """
    visible = visible.float()
    return -(visible * machine.down.bias).sum(1) - F.softplus(machine.up(visible).float()).sum(1)


def draw(logits: Tensor, noise: Generator | None = None) -> Tensor:
    """States 0 and 1 of units; from torch's own random numbers, or those of a generator on the CPU."""
    shares = logits.float().sigmoid()
    if noise is None:
        return torch.bernoulli(shares)
    return (torch.rand(shares.shape, generator=noise).to(shares.device) < shares).float()


@torch.no_grad()
def gibbs(machine: Machine, visible: Tensor, steps: int, noise: Generator | None = None) -> Tensor:
    """The visible units after ``steps`` times drawing all hidden and then all visible units."""
    for _ in range(steps):
        visible = draw(machine.down(draw(machine.up(visible), noise)), noise)
    return visible


@torch.no_grad()
def dream(machine: Machine, count: int, steps: int, noise: Generator) -> Tensor:
    """Hidden states of chains after ``steps`` Gibbs steps, (count, hidden).

    They begin at random hidden states. Random visible ones are so unlike data that they switch most hidden units off,
    which few chains ever leave.
    """
    hidden = torch.rand(count, machine.up.out_features, generator=noise).round().to(machine.up.weight.device)
    for _ in range(steps):
        hidden = draw(machine.up(draw(machine.down(hidden), noise)), noise)
    return hidden


def reconstruction(machine: Machine, visible: Tensor, seen: Tensor | None = None) -> Tensor:
    """Cross-entropy, in nats per example, between units and what one way up and down makes of them, (B,).

    Args:
        machine: Goes up and down.
        visible: What should come back, (B, visible).
        seen: What goes up; the same if not given.
    """
    again = machine.down(machine.up(visible if seen is None else seen).float().sigmoid()).float()
    return F.binary_cross_entropy_with_logits(again, visible.float(), reduction="none").sum(1)


def pseudo_log_likelihood(machine: Machine, states: Tensor, noise: Generator) -> Tensor:
    """``sum_i log P(v_i | all other units)`` of each example, (B,), estimated from some units of each.

    Args:
        machine: The distribution.
        states: 0 and 1, (B, visible).
        noise: Draws 8 different units of each example; where there are no more, the sum is exact.

    Source: Besag 1975, "Statistical analysis of non-lattice data".
    """
    size = states.shape[1]
    units = torch.rand(states.shape, generator=noise).topk(min(BITS, size)).indices.to(states.device)
    energy, total = free_energy(machine, states), torch.zeros(len(states), device=states.device)
    for unit in units.split(1, dim=1):
        flipped = states.scatter(1, unit, 1 - states.gather(1, unit))
        total += F.logsigmoid(free_energy(machine, flipped) - energy)
    return total * (size / units.shape[1])


def countable(machine: Machine) -> bool:
    """Whether the partition function can be summed up."""
    return min(machine.up.weight.shape) <= EXACT


def log_partition(machine: Machine) -> Tensor:
    """``log Z``: the sum over all states of the smaller side, in which those of the other factorise.

    Source: Salakhutdinov, Murray 2008, "On the quantitative analysis of deep belief networks", section 2.
    """
    up, down = machine.up, machine.down
    hidden, visible = up.weight.shape
    count, parts = min(hidden, visible), []
    # bfloat16 would round each of the terms.
    with torch.autocast(up.weight.device.type, enabled=False):
        for numbers in torch.arange(2**count, device=up.weight.device).split(CHUNK):
            states = (numbers[:, None] >> torch.arange(count, device=numbers.device) & 1).float()
            if visible <= hidden:
                parts.append(-free_energy(machine, states))
            else:
                parts.append((states * up.bias).sum(1) + F.softplus(down(states)).sum(1))
    return torch.cat(parts).logsumexp(0)


class Chains:
    """Where the model's own examples come from in training: k Gibbs steps, from the data or from where they had come.

    Args:
        steps: Gibbs steps per loss.
        persistent: The chains go on from loss to loss; they begin at the first batch.

    Source: Hinton 2002; persistent chains, Tieleman 2008, "Training restricted Boltzmann machines using approximations
    to the likelihood gradient".
    """

    def __init__(self, steps: int, persistent: bool) -> None:
        self.steps, self.persistent = steps, persistent
        self.visible: Tensor | None = None

    def loss(self, machine: Machine, visible: Tensor) -> Loss:
        """``F(data) - F(model)``, whose gradient is the rule of contrastive divergence.

        Of the weight it is ``-(<v p(h|v)> of the data - <v p(h|v)> of the chains)``: hidden units enter by their
        probabilities, which adds no noise of their own, while the chains draw states.

        Source: Hinton 2010, section 3.
        """
        energy = free_energy(machine, visible).mean()
        total = energy - free_energy(machine, self.advance(machine, visible)).mean()
        return Loss(total, len(visible), {"free_energy": energy})

    def advance(self, machine: Machine, visible: Tensor) -> Tensor:
        """The chains, some steps further; not a function of the weights for whoever differentiates."""
        start = self.visible if self.persistent and self.visible is not None else visible
        reached = gibbs(machine, start.to(visible.device), self.steps)
        if self.persistent:
            self.visible = reached
        return reached


def refuse_others(task: str, machine: Machine) -> None:
    """Refuse a model without the two ways of a machine.

    Raises:
        ConfigError: Naming the model's class.
    """
    if not (hasattr(machine, "up") and hasattr(machine, "down")):
        expected = "one with the parts up and down, such as rbm"
        raise ConfigError(format_error("model", f"{expected}, for task={task}", type(machine).__name__))

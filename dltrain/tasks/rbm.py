"""Restricted Boltzmann machines as probability distributions: free energy, Gibbs sampling, likelihood.

An RBM is a module with two submodules: the linear layer ``up`` maps visible units to the logits of hidden units, and
``down`` maps hidden units to the logits of visible units. Its distribution is ``P(v) = exp(-F(v)) / Z`` with the free
energy ``F`` and the partition function ``Z``.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from dltrain.tasks.base import Loss

RBM = Any  # nn.Module has no type for its submodules

MAX_EXACT_UNITS = 16  # maximum size of the smaller layer, visible or hidden, for computing the partition function
STATES_AT_ONCE = 4096  # states whose terms of the partition function are computed at a time
SAMPLED_UNITS = 8  # units per example that estimate the pseudo-likelihood


def free_energy(rbm: RBM, visible: Tensor) -> Tensor:
    """Return ``F(v) = -b.v - sum log(1 + exp(up(v)))`` of each example, (B, visible) -> (B,) in float32.

    The vector ``b`` is the bias of ``down``.

    Source: Hinton 2010, "A practical guide to training restricted Boltzmann machines", equation 25.
    """
    visible = visible.float()
    return -(visible * rbm.down.bias).sum(1) - F.softplus(rbm.up(visible).float()).sum(1)


def sample_units(logits: Tensor, noise: Generator | None = None) -> Tensor:
    """Draw binary units with the CPU generator `noise`, or with torch's global generator."""
    probabilities = logits.float().sigmoid()
    if noise is None:
        return torch.bernoulli(probabilities)
    return (torch.rand(probabilities.shape, generator=noise).to(probabilities.device) < probabilities).float()


@torch.no_grad()
def gibbs(rbm: RBM, visible: Tensor, steps: int, noise: Generator | None = None) -> Tensor:
    """Return the visible units after ``steps`` Gibbs steps."""
    for _ in range(steps):
        visible = sample_units(rbm.down(sample_units(rbm.up(visible), noise)), noise)
    return visible


@torch.no_grad()
def sample_from_noise(rbm: RBM, count: int, steps: int, noise: Generator) -> Tensor:
    """Return the hidden units of chains after ``steps`` Gibbs steps, (count, hidden).

    Chains start at random hidden units. Random visible units would be so unlike the data that most hidden units would
    turn off, a state that few chains leave.
    """
    hidden = torch.rand(count, rbm.up.out_features, generator=noise).round().to(rbm.up.weight.device)
    for _ in range(steps):
        hidden = sample_units(rbm.up(sample_units(rbm.down(hidden), noise)), noise)
    return hidden


def reconstruction_error(rbm: RBM, visible: Tensor, inputs: Tensor | None = None) -> Tensor:
    """Return the cross-entropy between visible units and their mean-field reconstruction, in nats, (B,).

    Args:
        visible: Targets, (B, visible).
        inputs: Visible units to reconstruct from, such as corrupted units; None for the targets themselves.
    """
    logits = rbm.down(rbm.up(visible if inputs is None else inputs).float().sigmoid()).float()
    return F.binary_cross_entropy_with_logits(logits, visible.float(), reduction="none").sum(1)


def pseudo_log_likelihood(rbm: RBM, states: Tensor, noise: Generator) -> Tensor:
    """Estimate ``sum_i log P(v_i | all other visible units)`` of each example, (B,).

    Args:
        states: Binary visible units, (B, visible).
        noise: Generator that draws 8 units per example; with at most 8 visible units, the sum is exact.

    Source: Besag 1975, "Statistical analysis of non-lattice data".
    """
    size = states.shape[1]
    units = torch.rand(states.shape, generator=noise).topk(min(SAMPLED_UNITS, size)).indices.to(states.device)
    energy, total = free_energy(rbm, states), torch.zeros(len(states), device=states.device)
    for unit in units.split(1, dim=1):
        flipped = states.scatter(1, unit, 1 - states.gather(1, unit))
        total += F.logsigmoid(free_energy(rbm, flipped) - energy)
    return total * (size / units.shape[1])


def log_partition(rbm: RBM) -> Tensor:
    """Return ``log Z``, computed as a sum over all states of the smaller layer; the other layer factorizes.

    Source: Salakhutdinov and Murray 2008, "On the quantitative analysis of deep belief networks", section 2.
    """
    up, down = rbm.up, rbm.down
    hidden, visible = up.weight.shape
    count, parts = min(hidden, visible), []
    # In bf16 the terms of the sum would be rounded.
    with torch.autocast(up.weight.device.type, enabled=False):
        for numbers in torch.arange(2**count, device=up.weight.device).split(STATES_AT_ONCE):
            states = (numbers[:, None] >> torch.arange(count, device=numbers.device) & 1).float()
            if visible <= hidden:
                parts.append(-free_energy(rbm, states))
            else:
                parts.append((states * up.bias).sum(1) + F.softplus(down(states)).sum(1))
    return torch.cat(parts).logsumexp(0)


@dataclass
class GibbsChains:
    """Markov chains that draw the model's samples in contrastive divergence.

    Args:
        steps: Gibbs steps per call of `loss`.
        persistent: Continue the chains of the previous call, instead of starting them at the data.

    Source: Hinton 2002; persistent chains, Tieleman 2008, "Training restricted Boltzmann machines using approximations
    to the likelihood gradient".
    """

    steps: int
    persistent: bool
    visible: Tensor | None = None  # visible states of the persistent chains

    def loss(self, rbm: RBM, visible: Tensor, rows: Tensor | None = None) -> Loss:
        """Return ``F(data) - F(model)``, whose negative gradient is the contrastive divergence update.

        The gradient of the weight is ``-(<v p(h|v)> of the data - <v p(h|v)> of the chains)``. It uses probabilities of
        the hidden units, which add no sampling noise; only the chains sample states.

        Args:
            rows: Indices of the examples in the whole batch, if ``visible`` is a chunk of it; None for a whole batch.

        Source: Hinton 2010, section 3.
        """
        energy = free_energy(rbm, visible).mean()
        states = self._advance(rbm, visible, rows) if self.persistent else gibbs(rbm, visible, self.steps)
        return Loss(energy - free_energy(rbm, states).mean(), len(visible), {"free_energy": energy})

    def _advance(self, rbm: RBM, visible: Tensor, rows: Tensor | None) -> Tensor:
        """Advance the chains of `rows` (None for all) and return their states; new chains start at the data."""
        chains = visible[:0] if self.visible is None else self.visible.to(visible.device)
        first, last = (0, max(len(chains), len(visible))) if rows is None else (int(rows[0]), int(rows[-1]) + 1)
        old = chains[first:last]
        states = gibbs(rbm, torch.cat([old, visible[len(old) :]]), self.steps)
        self.visible = torch.cat([chains[:first], states, chains[last:]])
        return states

"""A user's task and model whose numbers become non-finite at a chosen step."""

from pathlib import Path

import torch
from torch import nn

from dltrain.tasks.classification import Classification


class Faulty(Classification):
    """Classification with a fault.

    The faults ``loss`` (an infinite loss) and ``gradient`` (a NaN gradient of a finite loss) occur in the steps from
    ``begin`` to ``end`` of ``steps``, counted from 1. The faults ``memory`` (batches of more than ``most`` examples run
    out of memory) and ``metric`` (a NaN metric) occur in every step and evaluation. The file ``witness`` receives the
    inputs of the first faulty batch after step 1.
    """

    def __init__(self, classes, fault, begin, end, steps, most=10**9, witness=""):
        super().__init__(classes)
        self.fault, self.faulty, self.steps, self.most = fault, range(begin, end + 1), steps, most
        self.witness = Path(witness) if witness else None

    def loss(self, model, batch, progress):
        if self.fault == "memory" and len(batch["inputs"]) > self.most:
            torch.empty(2**60)
        loss = super().loss(model, batch, progress)
        if round(progress * self.steps) + 1 not in self.faulty or not model.training:
            return loss
        if self.witness and not self.witness.exists() and progress > 0:
            torch.save(batch["inputs"].clone(), self.witness)
        if self.fault == "loss":
            return loss._replace(total=loss.total / 0)
        if self.fault == "gradient":
            weight = next(model.parameters())
            return loss._replace(total=loss.total + (weight - weight.detach()).abs().sum().sqrt())
        return loss

    def evaluate(self, model, batches):
        evaluation = super().evaluate(model, batches)
        if self.fault == "metric":
            evaluation.metrics["accuracy"] = float("nan")
        return evaluation


class DivideByZero(nn.Module):
    """Layer that divides by zero from its ``at``-th training batch on."""

    def __init__(self, at):
        super().__init__()
        self.at = at
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if not self.training:
            return x
        self.seen += 1
        return x / (self.seen < self.at)


class DividingNetwork(nn.Sequential):
    """A network with `DivideByZero` after its first layer."""

    def __init__(self, size, outputs, at):
        super().__init__(nn.Flatten(), nn.Linear(size, 16), DivideByZero(at), nn.ReLU(), nn.Linear(16, outputs))

"""A user's task with a chosen fault, and a user's model that divides by zero."""

from pathlib import Path

import torch
from torch import nn

from dltrain.tasks.classification import Classification


class Faulty(Classification):
    """Classification with a fault.

    The faults ``loss`` (an infinite loss) and ``gradient`` (a NaN gradient of a finite loss) occur in steps ``begin``
    to ``end``, counted from 1, of a run of ``steps`` steps. The fault ``memory`` (an out-of-memory error) occurs in
    each training batch of more than ``most`` examples, and the fault ``metric`` (a NaN accuracy) in each evaluation.
    The file ``witness`` receives the inputs of the first faulty batch after step 1.
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
    """A network with `DivideByZero` after its first linear layer."""

    def __init__(self, size, outputs, at):
        super().__init__(nn.Flatten(), nn.Linear(size, 16), DivideByZero(at), nn.ReLU(), nn.Linear(16, outputs))

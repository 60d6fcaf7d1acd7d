"""Rosenblatt's perceptron learning rule."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.metrics.running import Mean
from dltrain.tasks.base import Batch, Evaluation, Line, Loss, Task
from dltrain.tasks.classification import name_classes
from dltrain.tasks.model_call import call_model


@dataclass(eq=False)
class PerceptronRule(Task):
    """Perceptron rule: update the weights on errors only, ``w <- w + y x`` if ``y w.x <= 0``.

    For two classes the model has one output, a threshold unit that fires above 0: ``y`` is 1 for class 1 and -1 for
    class 0. For more classes it has one output per class and predicts the class with the largest output; an error adds
    ``x`` to the weights of the target class and subtracts ``x`` from the weights of the largest other output. This is
    the same rule for the difference of the two weight vectors (Kesler's construction). A margin of exactly 0 is an
    error.

    The rule is gradient descent on ``-y w.x``, summed over the errors: with ``data.batch_size=1 optimizer=sgd
    optimizer.lr=1`` each step is one update of Rosenblatt's rule. Larger batches take the mean over their examples. For
    linearly separable classes the number of errors is finite (Novikoff).

    Args:
        classes: At least 2.

    Source: McCulloch and Pitts 1943 (the unit); Rosenblatt 1958, "The perceptron"; Novikoff 1962, "On convergence
    proofs for perceptrons"; Nilsson 1965, "Learning machines", section 5.1 (Kesler's construction).
    """

    metric = "accuracy"
    better = "max"

    classes: int
    class_names: list[str] | None = None

    def __post_init__(self) -> None:
        self.names = name_classes(self.classes, self.class_names)

    def facts(self) -> dict[str, Any]:
        """Return the spec values for the model: one output for two classes, otherwise one per class."""
        return {"outputs": self.classes if self.classes > 2 else 1, "each_step": False, "causal": False}

    def example(self, facts: Mapping[str, Any], batch_size: int = 2) -> Batch:
        """Return inputs and classes."""
        batch = super().example(facts, batch_size)
        return {**batch, "targets": batch["inputs"].new_empty(batch_size, dtype=torch.int64)}

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Return the perceptron criterion; its negative gradient is the update of the rule, also at a margin of 0."""
        margins = class_margins(call_model(model, batch).float(), batch["targets"])
        return Loss(criterion(margins), len(margins), {"accuracy": 1 - (margins <= 0).float().mean()})

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return criterion, accuracy and number of errors."""
        mean, mistakes, examples = Mean(), torch.zeros((), dtype=torch.int64), 0
        for batch in batches:
            margins = class_margins(call_model(model, batch).float(), batch["targets"])
            mean.add(len(margins), loss=criterion(margins))
            mistakes = mistakes.to(margins.device) + (margins <= 0).sum()
            examples += len(margins)
        wrong = int(mistakes)
        return Evaluation(mean.read() | {"accuracy": 1 - wrong / examples, "mistakes": wrong})

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """Return the class of each example, and the outputs; a threshold unit has no probabilities."""
        outputs = call_model(model, batch).float()
        classes = outputs.argmax(1) if self.classes > 2 else (outputs[:, 0] > 0).long()
        pairs = zip(classes.tolist(), outputs.tolist(), strict=True)
        return [{"class": c, "class_name": self.names[c], "outputs": values} for c, values in pairs]


def class_margins(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the margins (B,): ``y w.x`` for one output, or the target's output minus the largest other output."""
    if outputs.shape[1] == 1:
        return outputs[:, 0] * (2 * targets - 1)
    target = targets[:, None]
    others = outputs.scatter(1, target, -torch.inf)
    return (outputs.gather(1, target) - outputs.gather(1, others.argmax(1, keepdim=True)))[:, 0]


def criterion(margins: Tensor) -> Tensor:
    """Return the mean of ``-margin`` for errors and 0 for other examples; at a margin of 0 the derivative is -1."""
    return torch.where(margins <= 0, 0 - margins, 0).mean()

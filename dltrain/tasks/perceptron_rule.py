"""Rosenblatt's rule: a threshold unit learns from its mistakes, and from nothing else."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dltrain.metrics.running import Mean
from dltrain.tasks.base import Batch, Evaluation, Line, Loss, Task


class PerceptronRule(Task):
    """Weights move towards the inputs of mistakes, ``w <- w + y x`` where ``y w.x <= 0``, and stay where there is none.

    For two classes the model has one output, a threshold unit that fires above 0: ``y`` is 1 for class 1 and -1 for
    class 0. For more classes it has one output for each, and the largest answers; a mistake moves the weights of the
    right class by ``x`` and those of its strongest rival by ``-x``, which is the same rule for the difference of both
    (Kesler's construction). An output on the fence, at exactly 0 or as large as its rival, is a mistake.

    The rule is gradient descent on ``-y w.x``, summed over the mistakes: with ``data.batch_size=1 optimizer=sgd
    optimizer.lr=1`` each step is Rosenblatt's. Larger batches take the mean over their examples. Where a hyperplane
    divides the classes, the number of mistakes is finite, whatever the weights at the start; from zero weights it is at
    most ``(R / gamma)^2`` (Novikoff), with ``R`` the length of the longest input, a 1 for the bias included, and
    ``gamma`` the margin of any dividing hyperplane of unit weights. Our ``perceptron`` starts at small random weights.

    Args:
        classes: Number of classes, at least 2.
        class_names: One name per class; numbers if not given.

    Source: McCulloch and Pitts 1943 (the unit); Rosenblatt 1958, "The perceptron"; Novikoff 1962, "On convergence
    proofs for perceptrons"; Nilsson 1965, "Learning machines", section 5.1 (Kesler's construction).
    """

    metric: ClassVar[str] = "accuracy"
    better: ClassVar[Literal["min", "max"]] = "max"

    def __init__(self, classes: int, class_names: list[str] | None = None) -> None:
        self.classes = classes
        self.class_names = list(class_names) if class_names else [str(n) for n in range(classes)]

    def facts(self) -> dict[str, Any]:
        """One threshold unit for two classes, one unit per class for more."""
        return {"outputs": self.classes if self.classes > 2 else 1, "each_step": False, "causal": False}

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """The perceptron criterion, whose gradient is the rule, also at a margin of exactly 0."""
        margins = margins_of(model(batch["inputs"]).float(), batch["targets"])
        mistakes = margins <= 0
        return Loss(criterion(margins), len(margins), {"accuracy": 1 - mistakes.float().mean()})

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Criterion, accuracy and number of mistakes; the fence counts as a mistake."""
        mean, mistakes, examples = Mean(), torch.zeros((), dtype=torch.int64), 0
        for batch in batches:
            margins = margins_of(model(batch["inputs"]).float(), batch["targets"])
            mean.add(len(margins), loss=criterion(margins))
            mistakes = mistakes.to(margins.device) + (margins <= 0).sum()
            examples += len(margins)
        wrong = int(mistakes)
        return Evaluation(mean.read() | {"accuracy": 1 - wrong / examples, "mistakes": wrong})

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """The class of each example, and the outputs; a threshold unit knows no probabilities."""
        outputs = model(batch["inputs"]).float()
        classes = outputs.argmax(1) if self.classes > 2 else (outputs[:, 0] > 0).long()
        pairs = zip(classes.tolist(), outputs.tolist(), strict=True)
        return [{"class": c, "class_name": self.class_names[c], "outputs": values} for c, values in pairs]


def margins_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """How far each example is on the right side, (B,): ``y w.x``, or the lead of its class over the strongest rival."""
    if outputs.shape[1] == 1:
        return outputs[:, 0] * (2 * targets - 1)
    own = targets[:, None]
    rivals = outputs.scatter(1, own, -torch.inf)
    return (outputs.gather(1, own) - outputs.gather(1, rivals.argmax(1, keepdim=True)))[:, 0]


def criterion(margins: Tensor) -> Tensor:
    """``-margin`` of the mistakes, as a mean over all examples; its slope at 0 is that of a mistake."""
    return torch.where(margins <= 0, 0 - margins, 0).mean()

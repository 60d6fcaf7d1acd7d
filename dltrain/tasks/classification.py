"""Classification."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.metrics.running import Mean, confusion, macro_f1
from dltrain.plots import charts
from dltrain.tasks.base import Batch, Evaluation, Line, Loss, Media, Task

NUM_WORST = 9


class Classification(Task):
    """Classification: cross-entropy between the model's outputs (B, classes) and ``targets`` (B), int64.

    Args:
        label_smoothing: Share of each target that is spread evenly over all classes, in training only.

    Source: label smoothing, Szegedy et al. 2016, section 7.
    """

    metric: ClassVar[str] = "accuracy"
    better: ClassVar[Literal["min", "max"]] = "max"

    def __init__(self, classes: int, class_names: list[str] | None = None, label_smoothing: float = 0.0) -> None:
        self.classes = classes
        self.class_names = name_classes(classes, class_names)
        self.label_smoothing = label_smoothing

    def facts(self) -> dict[str, Any]:
        """Return one output per class, for the whole example."""
        return {"outputs": self.classes, "each_step": False, "causal": False}

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Return the mean cross-entropy over the examples."""
        targets = batch["targets"]
        total = F.cross_entropy(model(batch["inputs"]), targets, label_smoothing=self.label_smoothing)
        return Loss(total, len(targets))

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return loss, accuracy and macro F1; keep the confusion matrix and the worst errors for `show`."""
        mean, counts, worst = Mean(), None, _WorstErrors()
        for batch in batches:
            targets = batch["targets"]
            logits = model(batch["inputs"]).float()
            each = F.cross_entropy(logits, targets, reduction="none")
            predicted = logits.argmax(1)
            mean.add(len(targets), loss=each.mean())
            batch_counts = confusion(targets, predicted, self.classes)
            counts = batch_counts if counts is None else counts + batch_counts
            worst.add(batch["inputs"], targets, predicted, each)
        assert counts is not None, "a split has at least one example"
        metrics = mean.read() | {"accuracy": int(counts.diag().sum()) / int(counts.sum()), "macro_f1": macro_f1(counts)}
        return Evaluation(metrics, extra={"confusion": counts.cpu(), "worst": worst})

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """Return the most likely class of each example, by number and name, and the probabilities of all classes."""
        return [self._line(row) for row in model(batch["inputs"]).float().softmax(1).tolist()]

    def _line(self, probabilities: list[float]) -> Line:
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        line = {"class": best, "class_name": self.class_names[best], "probability": probabilities[best]}
        return {**line, "probabilities": dict(zip(self.class_names, probabilities, strict=True))}

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return the confusion matrix and, for images, a grid of the worst errors."""
        media = [Media("confusion", charts.confusion(evaluation.extra["confusion"], self.class_names))]
        worst: _WorstErrors = evaluation.extra["worst"]
        wrong = (worst.losses > 0).nonzero().flatten()
        if worst.inputs.dim() == 4 and worst.inputs.shape[1] in (1, 3) and len(wrong):
            pairs = torch.stack([worst.targets[wrong], worst.predicted[wrong]], 1).tolist()
            captions = [f"{self.class_names[target]}, not {self.class_names[found]}" for target, found in pairs]
            media.append(Media("worst_mistakes", charts.captioned(worst.inputs[wrong], captions)))
        return media


def name_classes(classes: int, names: list[str] | None) -> list[str]:
    """Return one name per class, by default its number.

    Raises:
        ConfigError: There is a single class, which any model predicts without an error.
    """
    names = list(names) if names else [str(number) for number in range(classes)]
    if classes < 2:
        raise ConfigError(format_error("data", "at least two classes", f"one: {names[0]}"))
    return names


class _WorstErrors:
    """The misclassified examples with the highest loss, kept on the device."""

    def __init__(self) -> None:
        self.inputs = self.targets = self.predicted = self.losses = torch.empty(0)

    def add(self, inputs: Tensor, targets: Tensor, predicted: Tensor, losses: Tensor) -> None:
        """Add the examples of one batch."""
        losses = torch.where(predicted == targets, torch.zeros_like(losses), losses)
        new = (inputs, targets, predicted, losses)
        if len(self.losses):
            held = (self.inputs, self.targets, self.predicted, self.losses)
            new = tuple(torch.cat(pair) for pair in zip(held, new, strict=True))  # type: ignore[assignment]
        top = new[3].topk(min(NUM_WORST, len(new[3]))).indices
        self.inputs, self.targets, self.predicted, self.losses = (part[top] for part in new)

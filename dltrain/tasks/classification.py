"""Classification."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.metrics.running import Mean, confusion, macro_f1
from dltrain.plots import charts
from dltrain.tasks.bag_of_words import LinearModel
from dltrain.tasks.base import Batch, Evaluation, Line, Loss, Media
from dltrain.tasks.supervised import Supervised

NUM_WORST = 6


@dataclass(eq=False)
class Classification(Supervised):
    """Classification: cross-entropy between the model's outputs (B, classes) and ``targets`` (B), int64.

    In training, targets may also be class probabilities, (B, classes).

    Args:
        label_smoothing: Share of each target that is spread evenly over all classes, in training only.
        vocabulary: Vocabulary size of text inputs, for the TF-IDF baseline; None for other inputs.

    Source: label smoothing, Szegedy et al. 2016, section 7.
    """

    soft_targets = True
    metric = "accuracy"
    better = "max"

    classes: int
    class_names: list[str] | None = None
    label_smoothing: float = 0.0
    vocabulary: int | None = None

    def __post_init__(self) -> None:
        self.names = name_classes(self.classes, self.class_names)
        self.linear: LinearModel | None = None

    def facts(self) -> dict[str, Any]:
        """Return one output per class, for the whole example."""
        return {"outputs": self.classes, "each_step": False, "causal": False}

    def example(self, facts: Mapping[str, Any], batch_size: int = 2) -> Batch:
        """Return inputs and classes."""
        batch = super().example(facts, batch_size)
        return {**batch, "targets": batch["inputs"].new_empty(batch_size, dtype=torch.int64)}

    def criterion(self, answer: Tensor, batch: Batch) -> Loss:
        """Return the mean cross-entropy over the examples."""
        targets = batch["targets"]
        return Loss(F.cross_entropy(answer, targets, label_smoothing=self.label_smoothing), len(targets))

    def fit_baselines(self, train: Iterable[Batch], val: Iterable[Batch] | None) -> str | None:
        """Fit logistic regression on TF-IDF features if the inputs are texts."""
        if self.vocabulary is None:
            return None
        self.linear = LinearModel(train, val, self.vocabulary, lambda batch: batch["targets"], self.classes)
        return self.linear.description

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return loss, accuracy and macro F1; keep the confusion matrix and the worst errors for `show`."""
        scores, linear, worst = Scores(self.classes), Scores(self.classes), list[Tensor]()
        for batch in batches:
            inputs, targets = self.model_inputs(batch), batch["targets"]
            each, predicted = scores.add(self.answer(model, batch).float(), targets)
            losses = torch.where(predicted == targets, torch.zeros_like(each), each)
            # Padded texts have different widths, and are not shown.
            pool = [targets if "lengths" in batch else inputs, targets, predicted, losses]
            pool = [torch.cat(pair) for pair in zip(worst, pool, strict=True)] if worst else pool
            highest = pool[3].topk(min(NUM_WORST, len(pool[3]))).indices
            worst = [part[highest] for part in pool]
            if self.linear is not None:
                linear.add(self.linear(batch), targets.cpu())
        baselines = {"TF-IDF logistic regression": linear.read()} if self.linear is not None else {}
        extra = {"confusion": scores.counts.cpu(), "worst": worst}  # inputs, targets, predicted classes, losses
        return Evaluation(scores.read(), baselines, extra)

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """Return the most likely class of each example, by number and name, and the probabilities of all classes."""
        lines = []
        for row in self.answer(model, batch).float().softmax(1).tolist():
            best = max(range(len(row)), key=row.__getitem__)
            line = {"class": best, "class_name": self.names[best], "probability": row[best]}
            lines.append({**line, "probabilities": dict(zip(self.names, row, strict=True))})
        return lines

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return the confusion matrix and, for images, a grid of the worst errors."""
        media = [Media("confusion", charts.confusion(evaluation.extra["confusion"], self.names))]
        inputs, targets, predicted, losses = evaluation.extra["worst"]
        wrong = (losses > 0).nonzero().flatten()
        if inputs.dim() == 4 and inputs.shape[1] in (1, 3) and len(wrong):
            pairs = torch.stack([targets[wrong], predicted[wrong]], 1).tolist()
            captions = [f"{self.names[target]}, not {self.names[found]}" for target, found in pairs]
            media.append(Media("worst_mistakes", charts.captioned(inputs[wrong], captions)))
        return media


class Scores:
    """Running loss, accuracy and macro F1 of a classifier."""

    def __init__(self, classes: int) -> None:
        self.classes, self.mean, self.counts = classes, Mean(), torch.zeros(classes, classes, dtype=torch.int64)

    def add(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Add a batch; return the loss and the predicted class of each example."""
        each, predicted = F.cross_entropy(logits, targets, reduction="none"), logits.argmax(1)
        self.mean.add(len(targets), loss=each.mean())
        self.counts = self.counts.to(targets.device) + confusion(targets, predicted, self.classes)
        return each, predicted

    def read(self) -> dict[str, float]:
        """Return the metrics."""
        accuracy = int(self.counts.diag().sum()) / int(self.counts.sum())
        return {**self.mean.read(), "accuracy": accuracy, "macro_f1": macro_f1(self.counts)}


def name_classes(classes: int, names: list[str] | None) -> list[str]:
    """Return one name per class, by default its number.

    Raises:
        ConfigError: There is only one class.
    """
    names = names or [str(number) for number in range(classes)]
    if classes < 2:
        raise ConfigError(format_error("data", "at least two classes", f"one: {names[0]}"))
    return names

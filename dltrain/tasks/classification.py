"""Classification: one class per example."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error, shorten
from dltrain.metrics.running import Mean, class_scores, confusion, macro_f1
from dltrain.plots import charts
from dltrain.tasks.attention_heat import attention_heat, draw_attention
from dltrain.tasks.bag_of_words import LinearModel
from dltrain.tasks.base import Batch, Evaluation, Line, Loss, Media
from dltrain.tasks.grad_cam import grad_cam
from dltrain.tasks.gradient_distance import TaskOverSteps
from dltrain.tasks.supervised import Supervised
from dltrain.tasks.word_weights import first_texts, show_words, word_weights

NUM_WORST = 6
NUM_ATTENDED = 3  # images in the plot of the attention
TOP = 5
BALANCED = "balanced"
DRAWN = {4: charts.captioned, 5: charts.captioned_clips}  # functions that draw images (4 dimensions) and clips (5)


@dataclass(eq=False)
class Classification(TaskOverSteps, Supervised):
    """Classification: cross-entropy between the model's outputs (B, classes) and ``targets`` (B), int64.

    In training, targets may also be class probabilities, (B, classes).

    Args:
        label_smoothing: Fraction of each target that is spread evenly over all classes, in training only.
        class_weights: Weights of the classes in the training loss: one number per class, or ``balanced`` for
            ``examples / (classes that occur * examples of the class)`` in the training split; None for equal weights.
        vocabulary: Vocabulary size of text inputs, for the TF-IDF baseline; None for other inputs.
        decode: Function that turns the tokens of text inputs into text; None for other inputs.
        test_time_flip: In evaluation and predictions, average the outputs for each image and for its mirror image.
        gradient_distance: Plot the gradient of the last step's loss by distance in time; see
            `dltrain.tasks.gradient_distance`.

    Source: label smoothing, Szegedy et al. 2016, section 7; balanced weights, King and Zeng 2001, "Logistic regression
    in rare events data".
    """

    soft_targets = True
    metric = "accuracy"
    better = "max"

    classes: int
    class_names: list[str] | None = None
    label_smoothing: float = 0.0
    vocabulary: int | None = None
    class_weights: str | list[float] | None = None
    decode: Callable[[list[int]], str] | None = None
    gradient_distance: bool = False
    test_time_flip: bool = False

    def __post_init__(self) -> None:
        self.names = name_classes(self.classes, self.class_names)
        self.linear: LinearModel | None = None
        self.needs_targets = self.class_weights == BALANCED
        self.weights = check_class_weights(self.class_weights, self.classes)

    def facts(self) -> dict[str, Any]:
        """Return the spec values for the model: one output per class, for the whole example."""
        return {"outputs": self.classes, "each_step": False, "causal": False}

    def example(self, facts: Mapping[str, Any], batch_size: int = 2) -> Batch:
        """Return inputs and classes."""
        batch = super().example(facts, batch_size)
        return {**batch, "targets": batch["inputs"].new_empty(batch_size, dtype=torch.int64)}

    def criterion(self, outputs: Tensor, batch: Batch) -> Loss:
        """Return the mean cross-entropy over the examples, each weighted by the weight of its class."""
        targets = batch["targets"]
        if self.weights is None:
            return Loss(F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing), targets.shape[0])
        weights = self.weights = self.weights.to(outputs.device)
        each = F.cross_entropy(outputs, targets, weights, label_smoothing=self.label_smoothing, reduction="sum")
        whole = (targets @ weights if targets.is_floating_point() else weights[targets]).sum()
        return Loss(each / whole.clamp(min=torch.finfo(torch.float32).tiny), whole)

    def fit_targets(self, targets: Iterable[Tensor]) -> str | None:
        """Compute balanced weights from the classes of the training examples; return a note with the weights."""
        counts = sum(torch.bincount(part.cpu(), minlength=self.classes) for part in targets)
        assert isinstance(counts, Tensor), "a split has at least one example"
        present = counts > 0
        self.weights = torch.where(present, counts.sum() / (present.sum() * counts.clamp(min=1)), 0.0)
        pairs = zip(self.names, self.weights.tolist(), strict=True)
        return f"class weights: {shorten(', '.join(f'{name} {weight:.3g}' for name, weight in pairs))}"

    def fit_baselines(self, train: Iterable[Batch], val: Iterable[Batch] | None) -> str | None:
        """Fit logistic regression on TF-IDF features if the inputs are texts."""
        if self.vocabulary is None:
            return None
        self.linear = LinearModel(train, val, self.vocabulary, lambda batch: batch["targets"], self.classes)
        return self.linear.description

    def _scores(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the logits for evaluation and prediction, (B, classes)."""
        scores: Tensor = self.model_outputs(model, batch).float()
        if not self.test_time_flip:
            return scores
        if batch["inputs"].dim() not in DRAWN:
            raise ConfigError("task.test_time_flip: not supported because the inputs are not images")
        mirrored = {**batch, "inputs": batch["inputs"].flip(-1)}
        return (scores + self.model_outputs(model, mirrored).float()) / 2

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return loss, accuracies and F1 scores, and in ``extra`` what `show` plots."""
        scores, linear, worst = ClassScores(self.classes), ClassScores(self.classes), list[Tensor]()
        texts: Batch | None = None
        images: Batch | None = None
        for batch in batches:
            inputs, targets = self.model_inputs(batch), batch["targets"]
            texts = texts or first_texts(batch, self.decode)
            if images is None and hasattr(model, "attention_map"):
                images = {"inputs": inputs[:NUM_ATTENDED], "targets": targets[:NUM_ATTENDED]}
            each, predicted = scores.add(self._scores(model, batch), targets)
            losses = torch.where(predicted == targets, torch.zeros_like(each), each)
            # Batches of padded texts have different lengths, so these inputs are not kept.
            pool = [targets if "lengths" in batch else inputs, targets, predicted, losses]
            pool = [torch.cat(pair) for pair in zip(worst, pool, strict=True)] if worst else pool
            highest = pool[3].topk(min(NUM_WORST, len(pool[3]))).indices
            worst = [part[highest] for part in pool]
            if self.linear is not None:
                linear.add(self.linear(batch), targets.cpu())
        baselines = {"TF-IDF logistic regression": linear.read()} if self.linear is not None else {}
        extra = {"confusion": scores.counts.cpu(), "worst": worst, "texts": texts, "images": images}  # see `show`
        return Evaluation(scores.read(), baselines, extra, per_class=scores.per_class(self.names))

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """Return the most likely class of each example, by index and name, and the probabilities of all classes."""
        lines = []
        for row in self._scores(model, batch).softmax(1).tolist():
            best = max(range(len(row)), key=row.__getitem__)
            line = {"class": best, "class_name": self.names[best], "probability": row[best]}
            lines.append({**line, "probabilities": dict(zip(self.names, row, strict=True))})
        return lines

    def explain(self, model: nn.Module, batch: Batch) -> Tensor | list[list[Line]]:
        """Return a heat map of each image, (B, height, width), or the weights of the words of each text.

        Heat maps show the model's attention if it has an ``attention_map``, else Grad-CAM of the most likely class.
        """
        if "lengths" in batch:
            return word_weights(model, batch, self.decode)
        images = self.model_inputs(batch)
        if hasattr(model, "attention_map"):
            return attention_heat(model, images)
        return grad_cam(model, images, lambda images: self.model_outputs(model, {**batch, "inputs": images}))

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return the confusion matrix, the worst errors for images and clips, and the attention to images or words."""
        media = [Media("confusion", charts.confusion(evaluation.extra["confusion"], self.names))]
        inputs, targets, predicted, losses = evaluation.extra["worst"]
        wrong = (losses > 0).nonzero().flatten()
        if inputs.dim() in DRAWN and inputs.shape[1] in (1, 3) and len(wrong):
            pairs = torch.stack([targets[wrong], predicted[wrong]], 1).tolist()
            captions = [f"{self.names[target]}, not {self.names[found]}" for target, found in pairs]
            media.append(Media("worst_mistakes", DRAWN[inputs.dim()](inputs[wrong], captions)))
        texts, images = evaluation.extra["texts"], evaluation.extra["images"]
        if images is not None:
            drawn = draw_attention(model, images["inputs"], self._captions(model, images))
            media.append(Media("attention", drawn))
        return [*media, *show_words(model, texts, self.decode, lambda batch: self._captions(model, batch))]

    def _captions(self, model: nn.Module, batch: Batch) -> list[str]:
        """Return a caption for each example: its class, the predicted class and the predicted probability."""
        pairs = zip(self.predict(model, batch), batch["targets"].tolist(), strict=True)
        return [
            f"{self.names[target]}, predicted {line['class_name']} ({line['probability']:.2f})"
            for line, target in pairs
        ]


class ClassScores:
    """Running loss, accuracy, macro F1 and scores per class; with more than five classes also top-5 accuracy."""

    def __init__(self, classes: int) -> None:
        self.classes, self.mean, self.counts = classes, Mean(), torch.zeros(classes, classes, dtype=torch.int64)

    def add(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Add a batch; return the loss and the predicted class of each example."""
        each, predicted = F.cross_entropy(logits, targets, reduction="none"), logits.argmax(1)
        self.mean.add(len(targets), loss=each.mean())
        if self.classes > TOP:
            hits = (logits.topk(TOP).indices == targets[:, None]).any(1)
            self.mean.add(len(targets), top5_accuracy=hits.double().mean())
        self.counts = self.counts.to(targets.device) + confusion(targets, predicted, self.classes)
        return each, predicted

    def read(self) -> dict[str, float]:
        """Return the metrics."""
        means = self.mean.read()
        accuracy = int(self.counts.diag().sum()) / int(self.counts.sum())
        top = {name: means.pop(name) for name in ("top5_accuracy",) if name in means}
        return {**means, "accuracy": accuracy, **top, "macro_f1": macro_f1(self.counts)}

    def per_class(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return precision, recall, F1 score and number of examples of each class, by its name."""
        scores = class_scores(self.counts)
        return {name: {key: values[number] for key, values in scores.items()} for number, name in enumerate(names)}


def check_class_weights(weights: str | list[float] | None, classes: int) -> Tensor | None:
    """Return numeric class weights as a tensor (classes,); None if `weights` is ``balanced`` or None.

    Raises:
        ConfigError: The weights are not one finite number of at least 0 per class, or all are 0.
    """
    if weights is None or weights == BALANCED:
        return None
    invalid = isinstance(weights, str) or len(weights) != classes or not all(0 <= w < math.inf for w in weights)
    if invalid or not any(weights):
        expected = f"balanced, or {classes} finite numbers of at least 0, one per class, not all 0"
        raise ConfigError(format_error("task.class_weights", expected, weights))
    return torch.tensor(weights, dtype=torch.float32)


def name_classes(classes: int, names: list[str] | None) -> list[str]:
    """Return one name per class, by default its index.

    Raises:
        ConfigError: There is only one class.
    """
    names = names or [str(number) for number in range(classes)]
    if classes < 2:
        raise ConfigError(format_error("data", "at least two classes", f"one: {names[0]}"))
    return names

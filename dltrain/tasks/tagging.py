"""Tagging: a class for each word of a sentence."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.metrics import entities
from dltrain.metrics.running import Mean
from dltrain.tasks.base import Batch, Evaluation, Line, Loss, Task
from dltrain.tasks.model_call import call_model

UNTAGGED = -1  # target of special tokens and of tokens that are not the first one of a word


@dataclass(eq=False)
class Tagging(Task):
    """Tagging: cross-entropy between the model's outputs (B, T, tags) and the tags of the words.

    ``targets`` (B, T) has the tag of each word at its first token, and -1 elsewhere.

    Args:
        tags: Number of tags.
        tag_names: Names of the tags. If they mark entities, as ``B-PER`` and ``O`` do, and seqeval is installed, the F1
            score of the entities selects the best checkpoint.
        vocabulary: Number of distinct tokens, for the baseline.
        label_smoothing: Fraction of each target that is spread evenly over all tags, in training only.
    """

    metric: ClassVar[str] = "token_accuracy"
    better: ClassVar[Literal["min", "max"]] = "max"

    tags: int
    tag_names: list[str]
    vocabulary: int
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        self.frequent: Tensor | None = None
        self.scores_entities = entities.are_entities(self.tag_names) and entities.is_available()
        if self.scores_entities:
            self.metric = "f1"  # type: ignore[misc]  # accuracy is high even if all words are tagged O

    def facts(self) -> dict[str, Any]:
        """Return the spec values for the model: one output per tag at every step, computed from all steps."""
        return {"outputs": self.tags, "each_step": True, "causal": False}

    def example(self, facts: Mapping[str, Any], batch_size: int = 2) -> Batch:
        """Return sentences and tags."""
        batch = super().example(facts, batch_size)
        return {**batch, "targets": torch.empty_like(batch["inputs"])}

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Return the mean cross-entropy over the words, in nats; the weight is the number of words."""
        return self._loss(call_model(model, batch), batch["targets"], self.label_smoothing)

    def _loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Loss:
        if logits.shape[:2] != targets.shape:
            raise ConfigError(format_error("model", "an output at every step", f"outputs {tuple(logits.shape)}"))
        count = (targets != UNTAGGED).sum()
        options: dict[str, Any] = {"ignore_index": UNTAGGED, "label_smoothing": smoothing, "reduction": "sum"}
        return Loss(F.cross_entropy(logits.flatten(0, 1), targets.flatten(), **options) / count.clamp(min=1), count)

    def fit_baselines(self, train: Iterable[Batch], val: Iterable[Batch] | None) -> str | None:
        """Find the most frequent tag of each token in `train`; return a note if the F1 score cannot be computed."""
        counts = torch.zeros(self.vocabulary, self.tags)
        for batch in train:
            known = batch["targets"] != UNTAGGED
            keys = batch["inputs"][known].cpu() * self.tags + batch["targets"][known].cpu()
            counts += torch.bincount(keys, minlength=self.vocabulary * self.tags).view_as(counts)
        # Tokens that do not occur in the training data get the most frequent tag overall. The added
        # fractions are below 1, so for other tokens they only break ties.
        self.frequent = (counts + 0.5 * counts.sum(0) / counts.sum().clamp(min=1)).argmax(1)
        if entities.are_entities(self.tag_names) and not entities.is_available():
            return "without F1 scores, because seqeval is not installed: pip install 'dltrain[text]'"
        return None

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return loss and accuracy over all words and, for entities, precision, recall and F1 score."""
        mean, own, baseline = Mean(), Tags(self), Tags(self)
        for batch in batches:
            logits, targets = call_model(model, batch).float(), batch["targets"]
            total, count, _ = self._loss(logits, targets)
            mean.add(count, loss=total)
            own.add(logits.argmax(-1), targets)
            if self.frequent is not None:
                baseline.add(self.frequent.to(targets.device)[batch["inputs"]], targets)
        metrics, per_class = own.read()
        baselines = {"most frequent tag of each word": baseline.read()[0]} if self.frequent is not None else {}
        definitions = {"f1": "exact entities, seqeval"} if "f1" in metrics else {}
        return Evaluation(mean.read() | metrics, baselines, per_class=per_class, definitions=definitions)

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """Return the most likely tag of each word that the model reads."""
        rows = zip(call_model(model, batch).argmax(-1).tolist(), batch["starts"].tolist(), strict=True)
        return [
            {"tags": [self.tag_names[tag] for tag, start in zip(tags, starts, strict=True) if start]}
            for tags, starts in rows
        ]


class Tags:
    """Predicted and true tags of sentences."""

    def __init__(self, task: Tagging) -> None:
        self.task, self.found, self.true = task, list[list[str]](), list[list[str]]()

    def add(self, found: Tensor, targets: Tensor) -> None:
        """Add the predicted tags and the targets of a batch, both (B, T)."""
        names = self.task.tag_names
        for tags, true in zip(found.tolist(), targets.tolist(), strict=True):
            known = [(names[tag], names[target]) for tag, target in zip(tags, true, strict=True) if target != UNTAGGED]
            self.found.append([tag for tag, _ in known])
            self.true.append([target for _, target in known])

    def read(self) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """Return the metrics over all words, and the scores of each entity type."""
        pairs = [pair for rows in zip(self.found, self.true, strict=True) for pair in zip(*rows, strict=True)]
        accuracy = {"token_accuracy": sum(found == true for found, true in pairs) / max(1, len(pairs))}
        if not self.task.scores_entities:
            return accuracy, {}
        scores, kinds = entities.score_entities(self.found, self.true)
        return {**accuracy, **scores}, kinds

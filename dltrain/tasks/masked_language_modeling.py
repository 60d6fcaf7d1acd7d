"""Masked language modeling: prediction of masked tokens from the tokens on both sides."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.keyed_random import uniform
from dltrain.metrics.running import Mean
from dltrain.tasks.base import Batch, Evaluation, Line, Loss, Media, Task
from dltrain.tasks.model_call import call_model

IGNORED = -1  # target of a token that is not to be predicted
COUNTED_BATCHES = 200  # number of training batches whose tokens are counted for the baseline
TOP = 5  # predicted tokens per mask
NUM_SHOWN = 4  # texts in the log


@dataclass(eq=False)
class MaskedLanguageModeling(Task):
    """Masked language modeling: cross-entropy between the outputs (B, T, vocabulary) and the masked tokens.

    Each token, except padding, begin and end tokens, is masked with probability ``mask_share``. Of the masked tokens,
    80% are replaced by the mask token and 10% by a random token; 10% are unchanged. The model reads the field
    ``masked``; ``targets`` (B, T) has the original tokens at masked positions, and -1 elsewhere.

    For pairs of passages, the cross-entropy of their class, ``not_next`` (B,), is added: the model then also returns
    outputs (B, 2). The weight of a batch is still the number of its masked tokens.

    Args:
        vocabulary: Number of distinct tokens.
        mask_token: Token that replaces masked tokens; None if the data have none, which is an error.
        pad_token, begin_token, end_token: Tokens that are never masked; None if there are none.
        decode: Function that turns tokens into text.
        next_sentence: Whether the model also predicts if the second passage of a pair follows the first one.
        mask_share: Probability that a token is masked, in (0, 1].
        label_smoothing: Fraction of each target that is spread evenly over the vocabulary, in training only.

    Source: Devlin et al. 2019, "BERT", section 3.1, appendices A.1 and A.2.
    Differs: each token is masked independently, so that the number of masked tokens varies.
    """

    metric: ClassVar[str] = "loss"
    better: ClassVar[Literal["min", "max"]] = "min"

    vocabulary: int
    mask_token: int | None = None
    pad_token: int | None = None
    begin_token: int | None = None
    end_token: int | None = None
    decode: Callable[[list[int]], str] | None = None
    next_sentence: bool | None = None
    mask_share: float = 0.15
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.mask_token is None:
            hint = "data=text and data=text_table add one with data.special_tokens=true, unless data.tokenizer is set"
            raise ConfigError(f"task: not supported because the vocabulary has no mask token. {hint}.")
        self.frequencies: Tensor | None = None

    def facts(self) -> dict[str, Any]:
        """Return the spec values for the model: an output per token of the vocabulary at every step."""
        return {"outputs": self.vocabulary, "each_step": True, "causal": False}

    def example(self, facts: Mapping[str, Any], batch_size: int = 2) -> Batch:
        """Return inputs with masked tokens, the tokens to predict and, for pairs, their segments and classes."""
        batch = super().example(facts, batch_size)
        more = ("masked", "targets", *(["segments"] if self.next_sentence else []))
        pairs = {"not_next": batch["inputs"].new_empty(batch_size)} if self.next_sentence else {}
        return {**batch, **{name: torch.empty_like(batch["inputs"]) for name in more}, **pairs}

    def corrupt(self, batch: Batch, keys: Tensor) -> Batch:
        """Add ``masked``, the inputs with masked tokens; set ``targets`` to the original tokens at masked positions."""
        tokens = batch["inputs"]
        draw, kind, other = uniform(keys, 3 * tokens.shape[1]).chunk(3, dim=1)
        is_masked = (draw < self.mask_share) & self._maskable(batch)
        replacement = torch.where(kind < 0.8, self.mask_token or 0, (other * self.vocabulary).long())
        masked = torch.where(is_masked & (kind < 0.9), replacement, tokens)
        return {**batch, "masked": masked, "targets": torch.where(is_masked, tokens, IGNORED)}

    def _maskable(self, batch: Batch) -> Tensor:
        """Return which tokens may be masked, bool (B, T)."""
        tokens = batch["inputs"]
        allowed = torch.ones_like(tokens, dtype=torch.bool)
        for special in (self.pad_token, self.begin_token, self.end_token):
            if special is not None:
                allowed &= tokens != special
        if "lengths" in batch:
            allowed &= torch.arange(tokens.shape[1], device=tokens.device) < batch["lengths"].to(tokens.device)[:, None]
        elif batch.get("targets", tokens[:0]).shape == tokens.shape:
            allowed[:, 1:] &= batch["targets"][:, :-1] != IGNORED  # `targets` are next tokens, -1 after the end
        return allowed

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Return the mean cross-entropy of the masked tokens, in nats.

        For pairs, the mean cross-entropy of their classes is added. The weight is the number of masked tokens.
        """
        if self.next_sentence and "not_next" not in batch:
            hint = "data=sentence_pairs has pairs."
            raise ConfigError(format_error("task.next_sentence", "null for data without pairs of passages", True, hint))
        logits, pairs = self._outputs(model, batch, batch["masked"])
        total, count, _ = self._loss(logits, batch["targets"], self.label_smoothing)
        if pairs is None:
            return Loss(total, count)
        of_pairs = F.cross_entropy(pairs, batch["not_next"])
        parts = {"masked": total.detach(), "next_sentence": of_pairs.detach()}
        some = torch.as_tensor(count).clamp(max=1)  # a loss of weight 0 must have a gradient of 0
        return Loss(total + some * of_pairs, count, parts)

    def _outputs(self, model: nn.Module, batch: Batch, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits of the tokens and, for pairs, the logits of their classes."""
        found = call_model(model, batch, inputs=inputs)
        logits, pairs = found if isinstance(found, tuple) else (found, None)
        if self.next_sentence and pairs is None:
            expected = "a model that predicts whether a passage follows another"
            hint = "Use model=bert with model.next_sentence=true."
            raise ConfigError(format_error("model", expected, type(model).__name__, hint))
        return logits, pairs if self.next_sentence else None

    def _loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Loss:
        count = (targets != IGNORED).sum()
        options: dict[str, Any] = {"ignore_index": IGNORED, "label_smoothing": smoothing, "reduction": "sum"}
        return Loss(F.cross_entropy(logits.flatten(0, 1), targets.flatten(), **options) / count.clamp(min=1), count)

    def fit_baselines(self, train: Iterable[Batch], val: Iterable[Batch] | None) -> str | None:
        """Count the tokens of up to 200 training batches, for a baseline that predicts tokens by their frequency."""
        counts = torch.ones(self.vocabulary, dtype=torch.float64)  # 1 instead of 0, so that no probability is 0
        for batch in islice(train, COUNTED_BATCHES):
            tokens = batch["inputs"]
            # The targets of a corrupted batch do not show where a text ends.
            allowed = self._maskable({**batch, "targets": tokens[:0]})
            counts += torch.bincount(tokens[allowed].cpu(), minlength=self.vocabulary)
        self.frequencies = (counts / counts.sum()).log().float()
        return None

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return loss in nats, perplexity, and accuracy on masked tokens and on pairs."""
        own, baseline, of_pairs, shown = Mean(), Mean(), Mean(), dict[str, Any]()
        for batch in batches:
            targets, (logits, pairs) = batch["targets"], self._outputs(model, batch, batch["masked"])
            logits = logits.float()
            self._add(own, logits, targets)
            if pairs is not None:
                self._add_pairs(of_pairs, pairs.float(), batch["not_next"])
            if self.frequencies is not None:
                frequencies = self.frequencies.to(targets.device)
                self._add(baseline, frequencies.expand(*targets.shape, -1), targets)
            shown = shown or {
                **{name: batch[name][:NUM_SHOWN] for name in ("inputs", "masked", "targets")},
                "predicted": logits[:NUM_SHOWN].argmax(-1),
                "allowed": self._maskable({**batch, "targets": targets[:0]})[:NUM_SHOWN],
            }
        guess = {"next_sentence_loss": math.log(2), "next_sentence_accuracy": 0.5} if self.next_sentence else {}
        found = of_pairs.read() if self.next_sentence else {}
        baselines = {"token frequencies": _metrics(baseline, guess)} if self.frequencies is not None else {}
        return Evaluation(_metrics(own, found), baselines, {"shown": shown})

    def _add_pairs(self, mean: Mean, logits: Tensor, targets: Tensor) -> None:
        hits = torch.eq(logits.argmax(-1), targets).double().mean()
        loss = F.cross_entropy(logits, targets)
        mean.add(len(targets), next_sentence_loss=loss, next_sentence_accuracy=hits)

    def _add(self, mean: Mean, logits: Tensor, targets: Tensor) -> None:
        loss, count, _ = self._loss(logits, targets)
        hits = torch.eq(logits.argmax(-1), targets).sum()  # a prediction is never -1
        mean.add(count, loss=loss, masked_accuracy=hits / (targets != IGNORED).sum().clamp(min=1))

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """Return each text with its masks filled in, and the most likely tokens of each mask with their probabilities.

        Raises:
            ConfigError: A text has no mask.
        """
        logits, _ = self._outputs(model, batch, batch["inputs"])
        return [self._fill(tokens, each) for tokens, each in zip(batch["inputs"], logits.float(), strict=True)]

    def _fill(self, tokens: Tensor, logits: Tensor) -> Line:
        masks = torch.eq(tokens, self.mask_token or 0).nonzero().flatten()
        if not len(masks):
            mask = self._text([self.mask_token or 0])
            raise ConfigError(format_error("text", f"at least one {mask} to fill in", "none"))
        best = logits[masks].softmax(-1).topk(min(TOP, self.vocabulary))
        filled = tokens.index_copy(0, masks, best.indices[:, 0])
        candidates = [
            {self._text([token]): probability for token, probability in zip(*pair, strict=True)}
            for pair in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        return {"text": self._text(filled[self._maskable({"inputs": tokens[None]})[0]].tolist()), "masks": candidates}

    def _text(self, tokens: list[int]) -> str:
        return self.decode(tokens) if self.decode is not None else " ".join(map(str, tokens))

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return the original texts, the masked texts, and the texts with the predicted tokens filled in."""
        return [Media("masks", text="\n".join(f"    {line}" for line in self._lines(evaluation.extra["shown"])))]

    def _lines(self, shown: Mapping[str, Tensor]) -> Iterator[str]:
        if not shown:
            return
        filled = torch.where(shown["targets"] == IGNORED, shown["inputs"], shown["predicted"])
        for name, rows in (("original", shown["inputs"]), ("masked", shown["masked"]), ("predicted", filled)):
            for number, (row, allowed) in enumerate(zip(rows, shown["allowed"], strict=True), 1):
                yield f"{number} {name:10}{self._text(row[allowed].tolist())}".replace("\n", " ")


def _metrics(mean: Mean, pairs: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics; without any masked token, the loss is NaN."""
    found = mean.read()
    loss = found["loss"]
    metrics = {"perplexity": math.exp(min(loss, 700)), "masked_accuracy": found["masked_accuracy"]}
    return {"loss": loss + pairs.get("next_sentence_loss", 0.0), **metrics, **pairs}

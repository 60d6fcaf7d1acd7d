"""Span corruption, the pretraining task of T5: a model reads a text with masked spans and predicts the spans."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError, format_error
from dltrain.tasks.base import Batch, Evaluation, Line, Media
from dltrain.tasks.noise_spans import count_spans, draw_spans, fill_spans, mask_spans
from dltrain.tasks.translation import Translation, read_source

LENGTH_MULTIPLE = 8  # the maximum length of targets is rounded up to a multiple of this
NUM_SHOWN = 4  # texts in the log


@dataclass(eq=False)
class SpanCorruption(Translation):
    """Span corruption: cross-entropy of the masked spans of a text, each of which is replaced by a sentinel.

    The inputs ``Thank you for inviting me`` may become ``Thank <0> inviting <1>`` with the targets
    ``<0> you for <1> me <2>``. Targets in the data are ignored.

    Args:
        length: Maximum number of tokens of a text, before spans are masked.
        sentinels: Tokens that replace the spans, in the order of the spans.
        shared_vocabulary: Whether inputs and targets of the model have the same vocabulary; must be true.
        noise_share: Fraction of the tokens to mask, in (0, 1).
        span_length: Mean number of tokens of a span, at least 1.

    Source: Raffel et al. 2020, "Exploring the limits of transfer learning", sections 3.1.4 and 3.3.4.
    """

    shared_vocabulary: bool | None = None
    noise_share: float = 0.15
    span_length: float = 3.0
    decode_examples: int = 0

    def __post_init__(self) -> None:
        hint = "data=parallel, data=summaries and data=text_to_text have this key."
        if not self.sentinels:
            raise ConfigError(format_error("data.sentinels", "at least 2 for span_corruption", 0, hint))
        if not self.shared_vocabulary:
            raise ConfigError(format_error("data.shared_vocabulary", "true for span_corruption", "false", hint))
        masked, spans = (int(each) for each in count_spans(torch.tensor(self.length), *self._amounts))
        if len(self.sentinels) <= spans:
            expected = f"at least {spans + 1}, for texts of {self.length} tokens"
            raise ConfigError(format_error("data.sentinels", expected, len(self.sentinels)))
        self.marks = torch.tensor(self.sentinels)
        # `length` becomes the maximum length of the targets.
        self.length = -(-(masked + spans + 2) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        super().__post_init__()

    @property
    def _amounts(self) -> tuple[float, float]:
        return self.noise_share, self.span_length

    @property
    def excluded(self) -> tuple[int, ...]:
        """Tokens that are never generated."""
        return self.pad_token, self.begin_token

    def corrupt(self, batch: Batch, keys: Tensor) -> Batch:
        """Replace ``inputs`` by texts with masked spans, and ``targets`` and ``previous`` by the spans."""
        tokens, width = batch["inputs"], batch["inputs"].shape[1]
        lengths = batch.get("lengths", torch.full((len(tokens),), width))
        masked, spans = count_spans(lengths, *self._amounts)
        spans = spans.clamp(max=len(self.sentinels) - 1)
        is_masked = draw_spans(keys, lengths, masked, spans, width)
        shorter = lengths - masked + spans
        widths = int(shorter.max()), int((masked + spans).max()) + 2
        special = self.marks.to(tokens.device), self.end_token
        inputs, targets = mask_spans(tokens, is_masked, lengths.to(tokens.device), *special, widths, self.pad_token)
        previous = torch.cat([torch.full_like(targets[:, :1], self.begin_token), targets[:, :-1]], dim=1)
        found = {**batch, "inputs": inputs, "previous": previous, "targets": targets}
        return {**found, "lengths": shorter} if "lengths" in batch else found

    def fit_baselines(self, train: Iterable[Batch], val: Iterable[Batch] | None) -> str | None:
        """Fit no baseline, because no simple method fills spans."""
        return None

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return loss and token accuracy of the spans and sentinels; keep the first texts for `show`."""
        first: list[Batch] = []
        found = super().evaluate(model, _keep_first(batches, first))
        found.extra["shown"] = {"batch": first[0] if first else None}
        return found

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """Return each text with its sentinels filled in, the spans, and their score.

        Raises:
            ConfigError: A text has no sentinel.
        """
        for row in batch["inputs"].tolist():
            if not set(self.sentinels).intersection(row):
                mark = self.text([self.sentinels[0]])
                raise ConfigError(format_error("text", f"at least one sentinel, such as {mark}", "none"))
        found = self.search(model, read_source(model, batch))
        sources = self.unpadded(batch)
        rows = zip(sources, self._cut(found.tokens), found.scores.tolist(), strict=True)
        return [
            {"text": self.text(fill_spans(source, spans, self.sentinels)), "spans": self.text(spans), "score": score}
            for source, spans, score in rows
        ]

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return texts with sentinels, the masked spans and the predicted spans."""
        batch = evaluation.extra["shown"]["batch"]
        if batch is None:
            return []
        written = self._cut(self.search(model, read_source(model, batch)).tokens)
        rows = zip(self.unpadded(batch), self._cut(batch["targets"]), written, strict=True)
        return [Media("spans", text="\n".join(line for row in rows for line in self._lines(row)))]

    def _lines(self, row: tuple[list[int], ...]) -> list[str]:
        names = ("text", "masked", "written")
        return [f"    {name:10}{self.text(tokens)}".replace("\n", " ") for name, tokens in zip(names, row, strict=True)]


def _keep_first(batches: Iterable[Batch], kept: list[Batch]) -> Iterable[Batch]:
    """Yield batches, and append the first examples of the first batch to `kept`."""
    for batch in batches:
        if not kept:
            kept.append({name: value[:NUM_SHOWN] for name, value in batch.items()})
        yield batch

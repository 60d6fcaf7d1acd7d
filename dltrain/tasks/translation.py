"""Translation: a model maps a source, a sequence of tokens, to a target sequence."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.metrics import translation as metrics
from dltrain.metrics.running import Mean
from dltrain.plots.attention import attention
from dltrain.tasks.base import Batch, Evaluation, Line, Loss, Media, Task, TextRequest
from dltrain.tasks.beam_search import BeamSearch
from dltrain.tasks.decoding import Sampling, decode_stream, draw_tokens
from dltrain.tasks.model_call import call_model
from dltrain.tasks.text_scores import Texts
from dltrain.tasks.word_for_word import WordForWord

NUM_SHOWN = 4  # translations in the log

Decode = Callable[[list[int]], str]
Baseline = Callable[[Batch], list[list[int]]]  # maps a batch to the target tokens of each source


@dataclass(eq=False)
class Translation(Task):
    """Translation: cross-entropy between the model's outputs (B, T, vocabulary) and the targets (B, T).

    Padding is ignored.

    A batch has ``inputs`` (B, S), ``targets`` (B, T), which end with ``end_token``, and ``previous`` (B, T), the
    token before each target. The model returns the outputs of a whole batch; called with ``inputs`` alone, it returns
    the state before the first token; called with tokens and a state, it returns their outputs and the next state.

    Args:
        vocabulary: Number of distinct tokens of the target.
        pad_token, begin_token, end_token, unknown_token: Special tokens of the target.
        length: Maximum number of tokens of a translation, including the end token.
        decode, decode_source: Functions that turn tokens of the target and of the source into text.
        encode_source: Function that turns text into tokens of the source.
        unknown_source: Token of the source for unknown words.
        sentinels: Tokens of the target for masked spans of a text, which are never generated.
        label_smoothing: Fraction of each target that is spread evenly over the vocabulary, in training only.
        teacher_forcing: Fraction of true tokens among the previous tokens at the end of training, in [0, 1]. The
            fraction falls linearly from 1; other tokens are the model's most likely ones (scheduled sampling). Below 1,
            training computes the outputs step by step.
        beam, length_penalty: See `dltrain.tasks.beam_search.BeamSearch`.
        decode_examples: Number of examples that an evaluation translates, at least 0.

    Source: scheduled sampling, Bengio et al. 2015.
    """

    metric: ClassVar[str] = "loss"
    better: ClassVar[Literal["min", "max"]] = "min"
    written: ClassVar[str] = "translation"  # name of a generated text in predictions and logs
    shown: ClassVar[str] = "translations"  # name of the texts in the log

    vocabulary: int
    pad_token: int
    begin_token: int
    end_token: int
    length: int
    decode: Decode | None = None
    unknown_token: int | None = None
    decode_source: Decode | None = None
    label_smoothing: float = 0.0
    teacher_forcing: float = 1.0
    beam: int = 1
    length_penalty: float = 1.0
    decode_examples: int = 200
    encode_source: Callable[[str], list[int]] | None = None
    unknown_source: int | None = None
    sentinels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.teacher_forcing <= 1:
            raise ConfigError(format_error("task.teacher_forcing", "a number from 0 to 1", self.teacher_forcing))
        if self.beam < 1:
            raise ConfigError(format_error("task.beam", "a whole number of at least 1", self.beam))
        self.baselines: dict[str, Baseline] = {}
        self.search = self._search(self.length, self.beam)

    @property
    def excluded(self) -> tuple[int, ...]:
        """Tokens that are never generated."""
        return self.pad_token, self.begin_token, *self.sentinels

    def _search(self, length: int, beam: int) -> BeamSearch:
        return BeamSearch(self.begin_token, self.end_token, self.excluded, length, beam, self.length_penalty)

    def facts(self) -> dict[str, Any]:
        """Return the spec values for the model: one output per token of the target vocabulary."""
        return {"target_outputs": self.vocabulary}

    def example(self, facts: Mapping[str, Any], batch_size: int = 2) -> Batch:
        """Return sources, targets and previous tokens."""
        batch = super().example(facts, batch_size)
        target = torch.empty(batch_size, self.length, dtype=torch.int64, device="meta")
        return {**batch, "previous": target, "targets": target}

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Return the mean cross-entropy over the tokens of the targets, in nats."""
        truth = 1 - (1 - self.teacher_forcing) * progress
        logits = call_model(model, batch) if truth == 1 else self._sample_previous(model, batch, truth)
        targets = batch["targets"]
        count = (targets != self.pad_token).sum()
        total = F.cross_entropy(
            logits.flatten(0, 1),
            targets.flatten(),
            ignore_index=self.pad_token,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        return Loss(total / count.clamp(min=1), count)

    def _sample_previous(self, model: nn.Module, batch: Batch, truth: float) -> Tensor:
        """Return the outputs under scheduled sampling.

        Each previous token is the true one with probability `truth`, otherwise the most likely one.
        """
        state, outputs = read_source(model, batch), list[Tensor]()
        true = batch["previous"]
        is_true = torch.rand(true.shape, device=true.device) < truth
        tokens = true[:, :1]
        for step in range(true.shape[1]):
            if step:
                likely = outputs[-1].detach().argmax(-1)
                tokens = torch.where(is_true[:, step : step + 1], true[:, step : step + 1], likely)
            logits, state = model(tokens, state=state)
            outputs.append(logits)
        return torch.cat(outputs, dim=1)

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return loss and token accuracy, and scores of the first `decode_examples` translations."""
        mean, shown, seen = Mean(), dict[str, Any](), 0
        own, rivals = Texts(), {name: Texts() for name in self.baselines}
        for batch in batches:
            targets, logits = batch["targets"], call_model(model, batch).float()
            known = targets != self.pad_token
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=self.pad_token)
            hits = ((logits.argmax(-1) == targets) & known).sum() / known.sum()
            mean.add(known.sum(), loss=loss, token_accuracy=hits)
            some = self._first(batch, seen)
            seen += len(targets)
            if len(some["targets"]):
                found = self._cut(self.search(model, read_source(model, some)).tokens)
                self._add(own, found, some)
                for name, rival in rivals.items():
                    self._add(rival, self.baselines[name](some), some)
                shown = shown or {"batch": {name: value[:NUM_SHOWN] for name, value in some.items()}, "found": found}
        scores, definitions = self.score(own) if len(own) else ({}, {})
        baselines = {name: self.score(rival)[0] for name, rival in rivals.items() if len(rival)}
        return Evaluation(mean.read() | scores, baselines, {"shown": shown}, definitions=definitions)

    def _first(self, batch: Batch, seen: int) -> Batch:
        """Return the examples of a batch that are among the first `decode_examples` of the split.

        Args:
            seen: Number of examples in the batches before this one.
        """
        positions = batch.get("position", torch.arange(seen, seen + len(batch["targets"])))
        rows = (positions < self.decode_examples).nonzero()[:, 0]
        if len(rows) == len(positions):
            return batch
        return {name: value[rows.to(value.device)] for name, value in batch.items()}

    def _add(self, texts: Texts, found: list[list[int]], batch: Batch) -> None:
        """Add generated tokens and the targets of a batch."""
        references, unknown = self._cut(batch["targets"]), self.unknown_token
        exact = [one == other and unknown not in other for one, other in zip(found, references, strict=True)]
        known = [self.text([token for token in tokens if token != unknown]) for tokens in found]
        texts.add(known, list(map(self.text, references)), exact, self.kinds(batch))

    def score(self, texts: Texts) -> tuple[dict[str, float], dict[str, str]]:
        """Return the exact match and, if sacrebleu is installed, BLEU and chrF, and the signatures of both."""
        exact = {"exact_match": texts.exact_match}
        if not metrics.is_available():
            return exact, {}
        scores, signatures = metrics.score_translations(texts.found, texts.references)
        return exact | scores, signatures

    @staticmethod
    def kinds(batch: Batch) -> list[int]:
        """Return the index of the task of each pair, 0 if there is only one task."""
        return batch["text_task"].tolist() if "text_task" in batch else [0] * len(batch["targets"])

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """Return the text generated for each source, and its log-probability divided by a power of its length."""
        found = self.search(model, read_source(model, batch))
        texts = map(self.text, self._cut(found.tokens))
        return [{self.written: text, "score": score} for text, score in zip(texts, found.scores.tolist(), strict=True)]

    def write(self, model: nn.Module, request: TextRequest) -> Iterator[str]:
        """Yield the translation of the prompt: token by token, or as a whole for a beam search."""
        source = torch.tensor([self._encode_source(request.prompt)], device=next(model.parameters()).device)
        state = read_source(model, {"inputs": source, "lengths": torch.tensor([source.shape[1]])})
        draws = (request.temperature, request.top_k, request.top_p) != (None, None, None)
        length, beam = min(request.length, self.length), request.beam or (1 if draws else self.beam)
        if beam > 1:
            yield self.text(self._cut(self._search(length, beam)(model, state).tokens)[0])
            return
        temperature = (1.0 if draws else 0.0) if request.temperature is None else request.temperature
        sampling = Sampling(temperature, request.top_k, request.top_p, self.excluded)
        logits, state = model.forward(source.new_full((1, 1), self.begin_token), state=state)
        drawn = draw_tokens(model, logits, state, sampling, torch.Generator().manual_seed(request.seed))
        tokens = itertools.takewhile(lambda token: token != self.end_token, map(int, itertools.islice(drawn, length)))
        yield from decode_stream(tokens, self.text)

    def _encode_source(self, prompt: str | None) -> list[int]:
        """Return the tokens of a prompt.

        Raises:
            ConfigError: The sources are not text, the prompt is missing or empty, or it has unknown words.
        """
        if self.encode_source is None:
            raise ConfigError("--prompt: not supported because the sources of this run are not text")
        tokens = [] if prompt is None else self.encode_source(prompt)
        if prompt is None or not tokens:
            got = "none" if prompt is None else "an empty text"
            raise ConfigError(format_error("--prompt", "a text", got))
        if self.unknown_source in tokens:
            words = [word for word in prompt.split() if self.unknown_source in self.encode_source(word)]
            got, hint = ", ".join(map(repr, words or [prompt])), "Use dltrain predict RUN --text for unknown words."
            raise ConfigError(format_error("--prompt", "words of the training texts", got, hint))
        return tokens

    def _cut(self, rows: Tensor) -> list[list[int]]:
        """Return the tokens of each row before the first end token."""
        ends = (row.index(self.end_token) if self.end_token in row else len(row) for row in rows.tolist())
        return [row[:end] for row, end in zip(rows.tolist(), ends, strict=True)]

    @staticmethod
    def unpadded(batch: Batch) -> list[list[int]]:
        """Return the tokens of each source, without padding."""
        rows = batch["inputs"].tolist()
        lengths = batch["lengths"].tolist() if "lengths" in batch else [len(row) for row in rows]
        return [row[:length] for row, length in zip(rows, lengths, strict=True)]

    def text(self, tokens: list[int]) -> str:
        """Return target tokens as text."""
        return self.decode(tokens) if self.decode is not None else " ".join(map(str, tokens))

    def fit_baselines(self, train: Iterable[Batch], val: Iterable[Batch] | None) -> str | None:
        """Fit the word-for-word translation; return a note if BLEU and chrF cannot be computed."""
        if not self.decode_examples:
            return None
        self.baselines = {"word for word": WordForWord(train, (self.pad_token, self.end_token))}
        if metrics.is_available():
            return None
        return "without BLEU and chrF, because sacrebleu is not installed: pip install 'dltrain[text]'"

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return sources, references and translations, and a plot of the first target's attention, if available."""
        batch, found = (evaluation.extra["shown"].get(name) for name in ("batch", "found"))
        if batch is None:
            return []
        rows = zip(self.unpadded(batch), self._cut(batch["targets"]), found, strict=False)
        texts = [(self._source_text(source), self.text(target), self.text(each)) for source, target, each in rows]
        names = "source", "reference", self.written
        lines = [f"    {name:12}{text}" for row in texts for name, text in zip(names, row, strict=True)]
        return [Media(self.shown, text="\n".join(lines)), *self._show_attention(model, batch)]

    def _show_attention(self, model: nn.Module, batch: Batch) -> list[Media]:
        """Return a plot of the attention of the first target to its source, if the model has attention weights."""
        first = {name: value[:1] for name, value in batch.items()}
        target = [*self._cut(first["targets"])[0], self.end_token]
        _, state = model(first["previous"][:, : len(target)], state=read_source(model, first))
        if "attention" not in state:
            return []
        source = first["inputs"][0].tolist()[: int(first["lengths"][0]) if "lengths" in first else None]
        weights = state["attention"][0, :, : len(source)]
        names = [self._source_text([token]) for token in source], [self.text([token]) for token in target[:-1]]
        return [Media("attention", attention(weights, names[0], [*names[1], "end"]))]

    def _source_text(self, tokens: list[int]) -> str:
        return self.decode_source(tokens) if self.decode_source is not None else " ".join(map(str, tokens))


def read_source(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """Return the state of a model that has read the source, before the first token of the target.

    Raises:
        ConfigError: The model does not return a state for a source.
    """
    state = call_model(model, {name: value for name, value in batch.items() if name not in ("previous", "targets")})
    if not isinstance(state, dict):
        raise ConfigError(format_error("model", "a model that maps a source to a target", type(model).__name__))
    return state

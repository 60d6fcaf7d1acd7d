"""Question answering: the part of a context that answers a question."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.metrics.answers import exact_match, word_f1
from dltrain.metrics.running import Mean
from dltrain.tasks.base import Batch, Evaluation, Line, Loss, Media, Task
from dltrain.tasks.model_call import call_model

SEPARATOR = "\0"  # before each correct answer
NUM_SHOWN = 4


class Answer(NamedTuple):
    """An answer from one window of a context, with its place in the context and the correct answers."""

    question: int
    score: float
    text: str
    start: int
    end: int
    answers: list[str]


@dataclass(eq=False)
class QuestionAnswering(Task):
    """Question answering: cross-entropy of the positions of the first and the last token of the answer in a window.

    Each row of a batch is a window: a question and a part of its context. A batch has these fields:

    - ``inputs`` (B, T), the tokens;
    - ``start`` and ``end`` (B,), the positions of the first and the last token of the answer, both 0 if the window does
      not contain the whole answer;
    - ``text`` (B, characters), the code points of the part of the context, followed by the correct answers, with a null
      character before each answer;
    - ``offset`` (B,), the character at which the part begins in the context;
    - ``spans`` (B, T, 2), the characters of the part at which each token starts and ends, both 0 for tokens outside of
      the part;
    - ``question`` (B,), the index of the question.

    The answer to a question is the part of the context whose first and last token have the highest sum of outputs, over
    all windows.

    Args:
        answer_spans: Whether the data have questions about contexts.
        max_answer: Maximum number of tokens of an answer, at least 1.

    Source: Devlin et al. 2019, "BERT", section 4.2.
    """

    metric: ClassVar[str] = "f1"
    better: ClassVar[Literal["min", "max"]] = "max"

    answer_spans: bool
    max_answer: int = 30

    def __post_init__(self) -> None:
        self.lengths: list[int] = []

    def facts(self) -> dict[str, Any]:
        """Return the spec values for the model: two outputs at every step, computed from all steps."""
        return {"outputs": 2, "each_step": True, "causal": False}

    def example(self, facts: Mapping[str, Any], batch_size: int = 2) -> Batch:
        """Return windows, their segments, and the positions of the first and last token of the answers."""
        batch = super().example(facts, batch_size)
        number = torch.empty(batch_size, dtype=torch.int64, device="meta")
        return {**batch, "segments": torch.empty_like(batch["inputs"]), "start": number, "end": number}

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Return the mean cross-entropy of the first and the last token, in nats."""
        return Loss(self._loss(self._logits(model, batch), batch), len(batch["inputs"]))

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        starts, ends = logits.unbind(-1)
        return (F.cross_entropy(starts, batch["start"]) + F.cross_entropy(ends, batch["end"])) / 2

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the outputs, (B, T, 2), set to a very low value outside of the context, except at the first token."""
        logits: Tensor = call_model(model, batch).float()
        if logits.shape != (*batch["inputs"].shape, 2):
            raise ConfigError(format_error("model", "two outputs at every step", f"outputs {tuple(logits.shape)}"))
        allowed = self._in_context(batch)
        allowed[:, 0] = True
        return logits.masked_fill(~allowed[:, :, None], torch.finfo(logits.dtype).min / 4)

    def _in_context(self, batch: Batch) -> Tensor:
        return batch["spans"][:, :, 1] > batch["spans"][:, :, 0]

    def fit_baselines(self, train: Iterable[Batch], val: Iterable[Batch] | None) -> str | None:
        """Collect the lengths of training answers, for the baseline of random answers."""
        for batch in train:
            held = batch["end"] > 0
            self.lengths += (batch["end"] - batch["start"] + 1)[held].tolist()
        return None

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return the loss, and exact match and F1 score over the questions."""
        mean, found, random = Mean(), dict[int, Answer](), dict[int, Answer]()
        for batch in batches:
            logits = self._logits(model, batch)
            mean.add(len(logits), loss=self._loss(logits, batch))
            _keep_best(found, self._answers(logits, batch))
            if self.lengths:
                _keep_best(random, self._answers(self._random_logits(batch), batch))
        baselines = {"random part of the context": _scores(random.values())} if self.lengths else {}
        extra = {"shown": list(found.values())[:NUM_SHOWN]}
        definitions = {"f1": "SQuAD 1.1", "exact_match": "SQuAD 1.1"}
        return Evaluation(mean.read() | _scores(found.values()), baselines, extra, definitions=definitions)

    def _random_logits(self, batch: Batch) -> Tensor:
        """Return outputs for a random answer: a random first token, and the length of a random training answer."""
        allowed = self._in_context(batch).cpu()
        logits = torch.zeros(*allowed.shape, 2)
        for row, number in enumerate(batch["question"].tolist()):
            noise = torch.Generator().manual_seed(number)
            places = allowed[row].nonzero().flatten()
            if len(places):
                start = int(places[int(torch.randint(len(places), (1,), generator=noise))])
                length = self.lengths[int(torch.randint(len(self.lengths), (1,), generator=noise))]
                logits[row, start, 0] = 1 + torch.rand(1, generator=noise).item()
                logits[row, min(start + min(length, self.max_answer) - 1, int(places[-1])), 1] = 1
        return logits

    def _answers(self, logits: Tensor, batch: Batch) -> Iterator[Answer]:
        """Yield the best answer of each window."""
        lowest = torch.finfo(torch.float32).min
        starts, ends = (
            logits.float().cpu().masked_fill(~self._in_context(batch).cpu()[:, :, None], lowest / 4).unbind(-1)
        )
        steps = starts.shape[1]
        near = torch.ones(steps, steps, dtype=torch.bool).triu().tril(self.max_answer - 1)
        for row in range(len(starts)):  # one window at a time, because the sums have steps x steps values
            sums = (starts[row, :, None] + ends[row, None, :]).masked_fill(~near, lowest)
            best = int(sums.argmax())
            first, last = best // steps, best % steps
            spans = batch["spans"][row]
            start, end = int(spans[first, 0]), int(spans[last, 1])
            part, *answers = _text(batch["text"][row]).split(SEPARATOR)
            offset, score = int(batch["offset"][row]), float(sums.flatten()[best])
            yield Answer(int(batch["question"][row]), score, part[start:end], offset + start, offset + end, answers)

    def predictions(self, model: nn.Module, batches: Iterable[Batch]) -> Iterator[Line]:
        """Yield the answer to each question, with its start and end in the characters of the context."""
        answers = (answer for batch in batches for answer in self._answers(self._logits(model, batch), batch))
        for _, group in groupby(answers, key=lambda answer: answer.question):
            best = max(group, key=lambda answer: answer.score)
            yield {"answer": best.text, "start": best.start, "end": best.end, "score": best.score}

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return some predicted answers, each with a correct answer."""
        lines = [f"    {answer.text}   (correct: {answer.answers[0]})" for answer in evaluation.extra["shown"]]
        return [Media("answers", text="\n".join(lines))]


def _keep_best(known: dict[int, Answer], answers: Iterable[Answer]) -> None:
    for answer in answers:
        if answer.question not in known or answer.score > known[answer.question].score:
            known[answer.question] = answer


def _scores(answers: Iterable[Answer]) -> dict[str, float]:
    answers = list(answers)
    pairs = {"exact_match": exact_match, "f1": word_f1}
    return {
        name: sum(score(answer.text, answer.answers) for answer in answers) / len(answers)
        for name, score in pairs.items()
    }


def _text(characters: Tensor) -> str:
    """Return the text of code points, without the null characters after it, which are padding."""
    return "".join(map(chr, characters.tolist())).rstrip(SEPARATOR)

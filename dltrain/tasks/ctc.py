"""Connectionist temporal classification (CTC), for transcripts that are not aligned with the steps of the inputs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.metrics import error_rates
from dltrain.metrics.running import Mean
from dltrain.plots.spectrogram import spectrogram
from dltrain.tasks.base import Batch, Evaluation, Line, Loss, Media, Task
from dltrain.tasks.ctc_baseline import Unigram, input_lengths
from dltrain.tasks.ctc_search import PrefixSearch
from dltrain.tasks.model_call import call_model

NUM_SHOWN = 4  # transcripts in the log


@dataclass(eq=False)
class Ctc(Task):
    """CTC: negative log-likelihood of the transcripts, over all alignments with the model's outputs (B, T, V).

    A batch has ``inputs`` (B, T, ...), their ``lengths`` (B,) if they are padded, ``transcript`` (B, L) and
    ``transcript_lengths`` (B,); both lengths are on the CPU. The model returns V logits per step of the inputs.

    Args:
        vocabulary: Number of distinct tokens V, including blank.
        blank_token: Index of the blank token, which emits no output.
        decode: Function that turns tokens into text.
        beam: See `dltrain.tasks.ctc_search.PrefixSearch`.
        bands: Number of mel bands of a frame, to draw recordings; None for other inputs.
        step_seconds: Seconds per step, to draw recordings; None for other inputs.

    Source: Graves et al. 2006, "Connectionist temporal classification".
    """

    metric: ClassVar[str] = "cer"
    better: ClassVar[Literal["min", "max"]] = "min"

    vocabulary: int
    blank_token: int
    decode: Callable[[list[int]], str] | None = None
    beam: int = 1
    bands: int | None = None
    step_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise ConfigError(format_error("task.beam", "a whole number of at least 1", self.beam))
        if not error_rates.is_available():
            reason = "jiwer, which computes error rates, is not installed"
            raise ConfigError(f"task=ctc: not supported because {reason}. Run pip install 'dltrain[speech]'.")
        self.search = PrefixSearch(self.blank_token, self.beam)
        self.unigram: Unigram | None = None

    def facts(self) -> dict[str, Any]:
        """Return the spec values for the model: one output per token at every step, computed from all steps."""
        return {"outputs": self.vocabulary, "each_step": True, "causal": False}

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Return the loss in nats per token of the transcripts."""
        return self._compare(_log_probabilities(model, batch), batch)

    def _compare(self, steps: Tensor, batch: Batch) -> Loss:
        # All lengths are on the CPU, so the loss does not wait for the device.
        lengths, count = batch["transcript_lengths"], int(batch["transcript_lengths"].sum())
        total = F.ctc_loss(
            steps.transpose(0, 1),
            batch["transcript"],
            input_lengths(batch),
            lengths,
            self.blank_token,
            reduction="sum",
        )
        return Loss(total / max(1, count), count)

    def fit_baselines(self, train: Iterable[Batch], val: Iterable[Batch] | None) -> str | None:
        """Fit the baseline: transcripts that depend only on the length of the input."""
        excluded = [self.blank_token]
        excluded += [token for token in range(self.vocabulary) if not self.text([token]).strip()]
        self.unigram = Unigram(train, self.vocabulary, excluded)
        return f'baseline: "{self.text([self.unigram.token])}", {self.unigram.rate:.3g} times per step'

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return loss and error rates; keep four transcripts and the first recording for `show`."""
        mean, references = Mean(), list[str]()
        found, constant, shown = list[str](), list[str](), dict[str, Any]()
        for batch in batches:
            steps, lengths = _log_probabilities(model, batch), input_lengths(batch)
            loss = self._compare(steps, batch)
            mean.add(loss.weight, loss=loss.total)
            references += map(self.text, _cut(batch["transcript"], batch["transcript_lengths"]))
            found += map(self.text, self.search(steps, lengths).tokens)
            if self.unigram is not None:
                constant += map(self.text, self.unigram(lengths))
            first = int(lengths[0])
            shown = shown or {"inputs": batch["inputs"][0, :first], "path": steps[0, :first].argmax(-1).tolist()}
        shown |= {"texts": list(zip(references, found, strict=True))[:NUM_SHOWN]}
        baselines = {"unigram": error_rates.error_rates(references, constant)} if constant else {}
        return Evaluation(mean.read() | error_rates.error_rates(references, found), baselines, shown)

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """Return the transcript of each input, and its log-probability."""
        found = self.search(_log_probabilities(model, batch), input_lengths(batch))
        pairs = zip(found.tokens, found.scores, strict=True)
        return [{"transcript": self.text(tokens), "score": score} for tokens, score in pairs]

    def text(self, tokens: list[int]) -> str:
        """Return the text of tokens."""
        return self.decode(tokens) if self.decode is not None else " ".join(map(str, tokens))

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return transcripts with their references, and a plot of the first recording with the times of its tokens."""
        texts, inputs, path = (evaluation.extra[name] for name in ("texts", "inputs", "path"))
        names = "reference", "predicted"
        lines = [f"    {name:12}{text}" for pair in texts for name, text in zip(names, pair, strict=True)]
        media = [Media("transcripts", text="\n".join(lines))]
        if self.bands is None or self.step_seconds is None or inputs.dim() != 2:
            return media
        written = [
            (step, self.text([token]))
            for step, (token, before) in enumerate(zip(path, [self.blank_token, *path], strict=False))
            if token not in (self.blank_token, before)
        ]
        frames, seconds = inputs.reshape(-1, self.bands), len(path) * self.step_seconds
        marks = [((step + 0.5) * self.step_seconds, text) for step, text in written]
        return [*media, Media("recording", spectrogram(frames, seconds, marks, texts[0][0]))]


def _log_probabilities(model: nn.Module, batch: Batch) -> Tensor:
    """Return the log-probabilities of the tokens at each step, float32 (B, T, V)."""
    return call_model(model, batch).float().log_softmax(-1)


def _cut(rows: Tensor, lengths: Tensor) -> list[list[int]]:
    return [row[:length] for row, length in zip(rows.tolist(), lengths.tolist(), strict=True)]

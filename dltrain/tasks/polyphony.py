"""Polyphonic music: predict the notes in the next frame of a piano roll."""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.metrics.running import Mean
from dltrain.plots.piano_rolls import piano_rolls
from dltrain.tasks.base import Batch, Evaluation, Line, Loss, Media, Task, TextRequest
from dltrain.tasks.frame_sampling import sample_frames
from dltrain.tasks.model_call import call_model
from dltrain.tasks.note_baselines import NoteCounts, is_known

NUM_SHOWN = 128  # frames in a plot
DEFINITIONS = {
    "loss": "negative log-likelihood per frame in nats: sum over the notes, mean over all frames including the first",
    "accuracy": "hits / (hits + misses + false alarms) over all frames; notes with probability above 0.5 are predicted",
    "expected_accuracy": "accuracy from the expected hits, misses and false alarms under the predicted probabilities",
}


@dataclass(eq=False)
class Polyphony(Task):
    """Polyphonic music: the model's outputs (B, T, notes) are the logits of the notes of the next frame.

    A batch has ``inputs`` (B, T, notes), the previous frames, which begin with an empty frame, and ``targets``
    (B, T, notes), 0 or 1, or -1 for unknown frames. The loss is the negative log-likelihood per frame: the
    binary cross-entropy summed over the notes, averaged over all frames.

    Args:
        notes: Number of notes.
        length: Maximum number of frames that a model reads at once.
        encode, decode: Functions that turn text into frames, and the notes of a frame into text.
        lowest: MIDI pitch of the lowest note, for plots.
        prompt: Text of the first frames of sampled music; None for no prompt.
        temperature: Sampling temperature, above 0.

    Source: Boulanger-Lewandowski, Bengio and Vincent 2012, "Modeling temporal dependencies in high-dimensional
    sequences"; accuracy, Bay, Ehmann and Downie 2009.
    """

    metric: ClassVar[str] = "loss"
    better: ClassVar[Literal["min", "max"]] = "min"

    notes: int
    length: int
    encode: Callable[[str], list[list[int]]] | None = None
    decode: Callable[[list[int]], str] | None = None
    lowest: int = 0
    prompt: str | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigError(format_error("task.temperature", "a number above 0", self.temperature))
        self.start = self._encode_prompt("" if self.prompt is None else str(self.prompt), "task.prompt")
        self.counts: NoteCounts | None = None

    def facts(self) -> dict[str, Any]:
        """Return the spec values for the model: one output per note at every step, computed from the steps so far."""
        return {"outputs": self.notes, "each_step": True, "causal": True}

    def example(self, facts: Mapping[str, Any], batch_size: int = 2) -> Batch:
        """Return a batch of previous and next frames on the meta device."""
        batch = super().example(facts, batch_size)
        return {**batch, "targets": torch.empty_like(batch["inputs"])}

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Return the mean negative log-likelihood per frame, in nats."""
        count = is_known(batch["targets"]).sum()
        return Loss(nll(call_model(model, batch), batch["targets"]).sum() / count.clamp(min=1), count)

    def fit_baselines(self, train: Iterable[Batch], val: Iterable[Batch] | None) -> str | None:
        """Count the notes of the training pieces."""
        self.counts = NoteCounts(train)
        return None

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return the loss and both accuracies of the model and of the baselines; keep the first piece for `show`."""
        own, first = FrameScores(), dict[str, Tensor]()
        predictions = self.counts.predictions() if self.counts is not None else {}
        others = {name: FrameScores() for name in predictions}
        for batch in batches:
            logits = call_model(model, batch)
            own.add(logits, batch["targets"])
            for name, predict in predictions.items():
                others[name].add(predict(batch["inputs"]), batch["targets"])
            known = is_known(batch["targets"][0])
            first = first or {"true": batch["targets"][0][known], "predicted": logits[0][known].sigmoid()}
        baselines = {name: scores.read() for name, scores in others.items()}
        return Evaluation(own.read(), baselines, {"first": first}, definitions=dict(DEFINITIONS))

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """Return the number of frames of each piece, their mean negative log-likelihood, and the likely next notes."""
        logits, lines = call_model(model, batch), list[Line]()
        totals, counts = nll(logits, batch["targets"]).sum(1).tolist(), is_known(batch["targets"]).sum(1).tolist()
        for number, (total, count) in enumerate(zip(totals, counts, strict=True)):
            line: Line = {"frames": count, "nats_per_frame": total / count if count else None}
            if count < logits.shape[1]:
                line["next"] = self._text(logits[number, count] > 0).strip()
            lines.append(line)
        return lines

    def write(self, model: nn.Module, request: TextRequest) -> Iterator[str]:
        """Yield the frames of the requested prompt, if any, and the frames after it, one line of text each."""
        for name in ("top_k", "top_p"):
            if getattr(request, name) is not None:
                reason = "the notes of a frame are drawn independently of one another"
                raise ConfigError(f"--{name.replace('_', '-')}: not supported because {reason}")
        if request.beam is not None:
            raise ConfigError("--beam: not supported because music is sampled frame by frame")
        start = self.start if request.prompt is None else self._encode_prompt(request.prompt, "--prompt")
        if request.prompt is not None:
            yield from map(self._text, start)
        yield from map(self._text, self._continuation(model, request, start))

    def _continuation(self, model: nn.Module, request: TextRequest, start: Tensor) -> Iterator[Tensor]:
        """Yield the frames after the prompt `start` (frames, notes), bool (notes,) each."""
        prompt = torch.cat([start.new_zeros(1, self.notes), start]).to(next(model.parameters()).device, torch.float32)
        temperature = self.temperature if request.temperature is None else request.temperature
        noise = Generator().manual_seed(request.seed)
        return itertools.islice(sample_frames(model, prompt, self.length, temperature, noise), request.length)

    def _encode_prompt(self, prompt: str, key: str) -> Tensor:
        """Return the frames of a prompt, bool (frames, notes); errors are reported under `key`."""
        frames = list[list[int]]()
        if prompt or key != "task.prompt":
            if self.encode is None:
                raise ConfigError(f"{key}: not supported because the data cannot turn text into frames")
            try:
                frames = self.encode(prompt)
            except ConfigError as error:
                raise ConfigError(*(re.sub("^text:", f"{key}:", line) for line in error.problems)) from None
        found = torch.zeros(len(frames), self.notes, dtype=torch.bool)
        for number, notes in enumerate(frames):
            found[number, notes] = True
        return found

    def _text(self, frame: Tensor) -> str:
        """Return the text of a frame, bool (notes,)."""
        if self.decode is None:
            raise ConfigError("task.decode: not supported because the data cannot turn frames into text")
        return self.decode(frame.nonzero()[:, 0].tolist())

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return a plot of a piece, of the predicted probabilities of its notes, and of sampled music."""
        first = evaluation.extra["first"]
        request = TextRequest(length=min(NUM_SHOWN, len(first["true"])))
        sample = torch.stack([*self._continuation(model, request, self.start)]).float()
        panels = {"piece": first["true"], "predicted from previous frames": first["predicted"], "sample": sample}
        shown = {name: frames[:NUM_SHOWN] for name, frames in panels.items()}
        return [Media("piano roll", piano_rolls(shown, self.lowest))]


class FrameScores:
    """Negative log-likelihood per frame, and accuracies of the notes; see `DEFINITIONS`."""

    def __init__(self) -> None:
        self.mean = Mean()

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Add logits and targets, (B, T, notes) each."""
        known = is_known(targets)
        count, true = known.sum(), targets.clamp(min=0)
        sums = {"loss": nll(logits, targets).sum()}
        for name, values in (("", (logits > 0).float()), ("expected_", logits.float().sigmoid())):
            found = values * known[:, :, None]
            hits = (found * true).sum()
            sums |= {f"{name}hits": hits, f"{name}all": found.sum() + true.sum() - hits}
        self.mean.add(count, **{name: value / count.clamp(min=1) for name, value in sums.items()})

    def read(self) -> dict[str, float]:
        """Return the loss and the accuracies."""
        found = self.mean.read()
        if not found:
            return {}
        accuracies = {
            f"{name}accuracy": found[f"{name}hits"] / found[f"{name}all"] if found[f"{name}all"] else 1.0
            for name in ("", "expected_")
        }
        return {"loss": found["loss"], **accuracies}


def nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-likelihood of each frame in nats, (B, T); 0 for unknown frames."""
    known = is_known(targets)
    each = F.binary_cross_entropy_with_logits(logits.float(), targets.clamp(min=0), reduction="none")
    return each.sum(-1) * known

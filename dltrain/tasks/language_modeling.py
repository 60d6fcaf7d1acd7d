"""Language modeling: prediction of the next token."""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.metrics.running import Mean
from dltrain.tasks.asking import ask
from dltrain.tasks.base import Batch, Evaluation, Line, Loss, Media, TextRequest
from dltrain.tasks.carried import CarriedState
from dltrain.tasks.decoding import Sampling, decode_stream, sample_tokens
from dltrain.tasks.gradient_distance import TaskOverSteps

UNKNOWN = -1  # target after the end of a text, which is ignored
WINDOWS = 64  # windows of a text per pass


@dataclass(eq=False)
class LanguageModeling(TaskOverSteps):
    """Language modeling: cross-entropy between the model's outputs (B, T, vocabulary) and the next tokens (B, T).

    Args:
        label_smoothing: Share of each target that is spread evenly over the vocabulary, in training only.
        prompt: Start of sampled text; None for a newline, or for the first token if the vocabulary has no newline.
        temperature: Sampling temperature, above 0.
        gradient_distance: Show the gradient of the last step at each distance in time; see
            `dltrain.tasks.gradient_distance`.
    """

    metric = "loss"

    vocabulary: int
    length: int
    encode: Callable[[str], list[int]] | None = None
    decode: Callable[[list[int]], str] | None = None
    label_smoothing: float = 0.0
    prompt: str | None = None
    temperature: float = 0.8
    gradient_distance: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigError(format_error("task.temperature", "a number above 0", self.temperature))
        self.carried = CarriedState()
        self.start = [0]
        if self.encode is not None:
            try:
                self.start = self._encode_prompt("\n" if self.prompt is None else str(self.prompt), "task.prompt")
            except ConfigError:
                if self.prompt is not None:
                    raise

    def facts(self) -> dict[str, Any]:
        """Return the facts for a language model: one output per token of the vocabulary at every step, and causal."""
        return {"outputs": self.vocabulary, "each_step": True, "causal": True}

    def begin(self, model: nn.Module) -> None:
        """Reset the state of the model that is carried along streams of text."""
        super().begin(model)
        self.carried = CarriedState()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the model after the last batch of each stream."""
        return {"carried": self.carried.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of each stream; checkpoints of version 0.1 have none."""
        self.carried = CarriedState(state.get("carried"))

    def example(self, facts: Mapping[str, Any], batch_size: int = 2) -> Batch:
        """Return inputs and next tokens."""
        batch = super().example(facts, batch_size)
        return {**batch, "targets": torch.empty_like(batch["inputs"])}

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Return the mean cross-entropy over the tokens, in nats."""
        targets = batch["targets"].flatten()
        logits = self.carried.ask(model, batch).flatten(0, 1)
        return Loss(F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing), len(targets))

    def last_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy of the last token of each window, from the initial state; -1 is ignored."""
        logits, targets = ask(model, batch)[:, -1], batch["targets"][:, -1]
        return F.cross_entropy(logits, targets, ignore_index=UNKNOWN, reduction="sum")

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return loss in nats per token, perplexity and bits per token; targets of -1 are ignored."""
        mean, carried = Mean(), CarriedState()
        for batch in batches:
            targets = batch["targets"].flatten()
            logits = carried.ask(model, batch).flatten(0, 1).float()
            mean.add((targets != UNKNOWN).sum(), loss=F.cross_entropy(logits, targets, ignore_index=UNKNOWN))
        loss = mean.read()["loss"]
        perplexity = math.exp(loss) if loss < 700 else math.inf
        return Evaluation({"loss": loss, "perplexity": perplexity, "bits_per_token": loss / math.log(2)})

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """Return the number of characters of each text, and its negative log-likelihood per character after the first.

        Args:
            batch: ``inputs`` (B, T), whole texts of any length; ``targets`` (B, T), -1 if unknown.
        """
        decode, lines = self._decoder(), []
        for tokens, targets in zip(batch["inputs"].split(1), batch["targets"].split(1), strict=True):
            characters = len(decode(tokens[0].tolist()))
            nats = self.nll(model, tokens, targets, "continues" in batch) / (characters - 1) if characters > 1 else None
            lines.append({"characters": characters, "nats_per_character": nats})
        return lines

    def nll(self, model: nn.Module, tokens: Tensor, targets: Tensor, carry: bool = False) -> float:
        """Return the negative log-likelihood of one text (1, T) in nats, in windows of ``length`` as in evaluation.

        Args:
            carry: Carry the state of the model from window to window.
        """
        total, carried = torch.zeros((), dtype=torch.float64), CarriedState()
        whole = 0 if carry else tokens.shape[1] // self.length * self.length
        windows = [part[:, :whole].view(-1, self.length).split(WINDOWS) for part in (tokens, targets) if whole]
        parts = (tokens, targets) if whole < tokens.shape[1] else ()
        rest = [part[:, whole:].split(self.length, dim=1) for part in parts]
        for inputs, next_tokens in [*zip(*windows, strict=True), *zip(*rest, strict=True)]:
            batch = {"inputs": inputs, "continues": torch.tensor([carried.state is not None])}
            logits = (carried.ask(model, batch) if carry else model(inputs)).flatten(0, 1).float()
            total += F.cross_entropy(logits, next_tokens.flatten(), ignore_index=UNKNOWN, reduction="sum").cpu()
        return float(total)

    def write(self, model: nn.Module, request: TextRequest) -> Iterator[str]:
        """Yield the prompt, if one is requested, and its continuation."""
        decode = self._decoder()
        if request.prompt is not None:
            yield decode(self._encode_prompt(request.prompt, "--prompt"))
        yield from decode_stream(self._continuation(model, request), decode)

    def _continuation(self, model: nn.Module, request: TextRequest) -> Iterator[int]:
        """Yield the tokens after a prompt."""
        start = self.start if request.prompt is None else self._encode_prompt(request.prompt, "--prompt")
        prompt = torch.tensor([start], device=next(model.parameters()).device)
        temperature = self.temperature if request.temperature is None else request.temperature
        sampling, noise = Sampling(temperature, request.top_k, request.top_p), Generator().manual_seed(request.seed)
        tokens = sample_tokens(model, prompt, self.length, sampling, noise)
        return (int(token) for token in itertools.islice(tokens, request.length))

    def _decoder(self) -> Callable[[list[int]], str]:
        if self.decode is None:
            raise ConfigError(format_error("task.decode", "data that turn tokens into text", None))
        return self.decode

    def _encode_prompt(self, prompt: str, key: str) -> list[int]:
        """Return the tokens of a prompt; errors are reported under `key`."""
        if self.encode is None:
            raise ConfigError(format_error("task.encode", "data that turn text into tokens", None))
        try:
            tokens = self.encode(prompt)
        except ConfigError as error:
            raise ConfigError(*(re.sub("^text:", f"{key}:", line) for line in error.problems)) from None
        if not tokens:
            raise ConfigError(format_error(key, "a text of at least one character", "an empty text"))
        return tokens

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return a sample of text."""
        if self.decode is None:
            return []
        request = TextRequest(temperature=self.temperature)
        text = self.decode([*self.start, *self._continuation(model, request)])
        return [Media("sample", text="\n".join(f"    {line}" for line in text.splitlines()))]

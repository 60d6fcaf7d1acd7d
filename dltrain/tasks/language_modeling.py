"""Language modeling: prediction of the next token."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.metrics.running import Mean
from dltrain.tasks.asking import ask
from dltrain.tasks.base import Batch, Evaluation, GenerateRequest, Line, Loss, Media, Task

SAMPLE_TOKENS = 200
UNKNOWN = -1  # target after the end of a text
WINDOWS = 64  # windows of a text per pass
MIN_TEMPERATURE = 1e-4  # below it the most likely token is taken, as logits / temperature may overflow


@dataclass(eq=False)
class LanguageModeling(Task):
    """Language modeling: cross-entropy between the model's outputs (B, T, vocabulary) and the next tokens (B, T).

    Args:
        label_smoothing: Share of each target that is spread evenly over the vocabulary, in training only.
        prompt: Start of sampled text; None for a newline, or the first token of a vocabulary without it.
        temperature: Sampling temperature, above 0.
    """

    metric = "loss"

    vocabulary: int
    length: int
    encode: Callable[[str], list[int]] | None = None
    decode: Callable[[list[int]], str] | None = None
    label_smoothing: float = 0.0
    prompt: str | None = None
    temperature: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigError(format_error("task.temperature", "a number above 0", self.temperature))
        self.start = [0]
        try:
            if self.encode is not None:
                self.start = self.encode("\n" if self.prompt is None else str(self.prompt)) or [0]
        except ConfigError as error:
            if self.prompt is not None:
                raise ConfigError(*(re.sub("^text:", "task.prompt:", line) for line in error.problems)) from None

    def facts(self) -> dict[str, Any]:
        """Return one output per token of the vocabulary at every step, without access to later steps."""
        return {"outputs": self.vocabulary, "each_step": True, "causal": True}

    def example(self, facts: Mapping[str, Any], batch_size: int = 2) -> Batch:
        """Return inputs and next tokens."""
        batch = super().example(facts, batch_size)
        return {**batch, "targets": torch.empty_like(batch["inputs"])}

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Return the mean cross-entropy over the tokens, in nats."""
        targets = batch["targets"].flatten()
        logits = ask(model, batch).flatten(0, 1)
        return Loss(F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing), len(targets))

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return loss in nats per token, perplexity and bits per token; targets of -1 do not count."""
        mean = Mean()
        for batch in batches:
            targets = batch["targets"].flatten()
            logits = ask(model, batch).flatten(0, 1).float()
            mean.add((targets != UNKNOWN).sum(), loss=F.cross_entropy(logits, targets, ignore_index=UNKNOWN))
        loss = mean.read()["loss"]
        perplexity = math.exp(loss) if loss < 700 else math.inf
        return Evaluation({"loss": loss, "perplexity": perplexity, "bits_per_token": loss / math.log(2)})

    def predict(
        self,
        model: nn.Module,
        batch: Batch,
        length: int = SAMPLE_TOKENS,
        temperature: float | None = None,
        seed: int = 0,
    ) -> list[Line]:
        """Return the negative log-likelihood of each text, and a continuation.

        Args:
            batch: ``inputs`` (B, T), whole texts of any length; ``targets`` (B, T), -1 if unknown.
            temperature: Sampling temperature; None for that of the task.
        """
        if self.decode is None:
            raise ConfigError(format_error("task.decode", "data that turn tokens into text", None))
        temperature = self.temperature if temperature is None else temperature
        lines = []
        for tokens, targets in zip(batch["inputs"].split(1), batch["targets"].split(1), strict=True):
            characters = len(self.decode(tokens[0].tolist()))
            nats = self.nll(model, tokens, targets) / (characters - 1) if characters > 1 else None
            extended = continue_tokens(model, tokens, length, self.length, temperature, seed)
            continuation = self.decode(extended[0, tokens.shape[1] :].tolist())
            lines.append({"characters": characters, "nats_per_character": nats, "continuation": continuation})
        return lines

    def nll(self, model: nn.Module, tokens: Tensor, targets: Tensor) -> float:
        """Return the negative log-likelihood of one text (1, T) in nats, in windows of ``length`` as in evaluation."""
        total = torch.zeros((), dtype=torch.float64)
        whole = tokens.shape[1] // self.length * self.length
        windows = [part[:, :whole].view(-1, self.length).split(WINDOWS) for part in (tokens, targets)]
        rest = [part[:, whole:] for part in (tokens, targets) if whole < part.shape[1]]
        for inputs, next_tokens in [*zip(*windows, strict=True), *([rest] if rest else [])]:
            logits = model(inputs).flatten(0, 1).float()
            total += F.cross_entropy(logits, next_tokens.flatten(), ignore_index=UNKNOWN, reduction="sum").cpu()
        return float(total)

    def generate(self, model: nn.Module, request: GenerateRequest) -> Tensor:
        """Raise an error, as `predict` generates text."""
        hint = "Use dltrain predict RUN --text TEXT to continue a text."
        raise ConfigError(format_error("generate", "a run whose task generates examples", type(self).__name__, hint))

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return a sample of text."""
        if self.decode is None:
            return []
        prompt = torch.tensor([self.start], device=next(model.parameters()).device)
        tokens = continue_tokens(model, prompt, SAMPLE_TOKENS, self.length, self.temperature)
        text = self.decode(tokens[0].tolist())
        return [Media("sample", text="\n".join(f"    {line}" for line in text.splitlines()))]


def continue_tokens(
    model: nn.Module, tokens: Tensor, count: int, length: int, temperature: float = 1.0, seed: int = 0
) -> Tensor:
    """Append ``count`` sampled tokens to ``tokens`` (B, T), with a context of the last ``length`` tokens.

    Draws from its own generator, so that samples during training do not change it.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        logits = model(tokens[:, -length:])[:, -1].float()
        if temperature < MIN_TEMPERATURE:
            next_token = logits.argmax(-1, keepdim=True)
        else:
            next_token = torch.multinomial((logits / temperature).softmax(-1).cpu(), 1, generator=generator)
        tokens = torch.cat([tokens, next_token.to(tokens.device)], dim=1)
    return tokens

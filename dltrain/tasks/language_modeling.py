"""Predict the next token."""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.metrics.running import Mean
from dltrain.tasks.base import Batch, Evaluation, GenerateRequest, Line, Loss, Media, Task

SAMPLE_TOKENS = 200
UNKNOWN = -1  # as a target: the token that comes after a text
WINDOWS = 64  # read at a time
COLD = 1e-4  # a temperature below which the likeliest token is taken: logits divided by it may be infinite


class LanguageModeling(Task):
    """Cross-entropy between the model's outputs (B, T, vocabulary) and ``targets`` (B, T), each input's next token.

    Args:
        vocabulary: Number of different tokens.
        length: Tokens the model reads at most.
        encode: Text to tokens, for the prompt of a sample.
        decode: Tokens to text.
        label_smoothing: Share of each target that is spread evenly over the vocabulary, in training only.
        prompt: What a sample of generated text starts with; None is a new line, or the first token of the vocabulary
            where the text has none.
        temperature: Of a sample; below 1 prefers what is likely.
    """

    metric: ClassVar[str] = "loss"
    better: ClassVar[Literal["min", "max"]] = "min"

    def __init__(
        self,
        vocabulary: int,
        length: int,
        encode: Callable[[str], list[int]] | None = None,
        decode: Callable[[list[int]], str] | None = None,
        label_smoothing: float = 0.0,
        prompt: str | None = None,
        temperature: float = 0.8,
    ) -> None:
        if not 0 < temperature < math.inf:
            raise ConfigError(format_error("task.temperature", "a number above 0", temperature))
        self.vocabulary = vocabulary
        self.length = length
        self.encode = encode
        self.decode = decode
        self.label_smoothing = label_smoothing
        self.start = self._start(prompt)
        self.temperature = temperature

    def _start(self, prompt: str | None) -> list[int]:
        """The tokens of a prompt."""
        if self.encode is None:
            return [0]
        try:
            return self.encode("\n" if prompt is None else str(prompt)) or [0]
        except ConfigError as error:
            if prompt is None:
                return [0]
            raise ConfigError(*(re.sub("^text:", "task.prompt:", line) for line in error.problems)) from None

    def facts(self) -> dict[str, Any]:
        """One output per token of the vocabulary at every step, from that step's past alone."""
        return {"outputs": self.vocabulary, "each_step": True, "causal": True}

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Mean cross-entropy over the tokens, in nats."""
        targets = batch["targets"].flatten()
        logits = model(batch["inputs"]).flatten(0, 1)
        return Loss(F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing), len(targets))

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Loss in nats per token, perplexity and bits per token."""
        mean = Mean()
        for batch in batches:
            targets = batch["targets"].flatten()
            logits = model(batch["inputs"]).flatten(0, 1).float()
            mean.add(len(targets), loss=F.cross_entropy(logits, targets))
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
        """How well each text was foreseen, and how it may go on.

        Args:
            model: In evaluation mode.
            batch: ``inputs`` (B, T), whole texts of any length; ``targets`` (B, T) are -1 where nobody knows.
            length: Tokens to add.
            temperature: Below 1 prefers what is likely; None takes that of the task's samples.
            seed: Names the continuation.
        """
        if self.decode is None:
            raise ConfigError(format_error("task.decode", "data that turn tokens into text", None))
        lines = []
        for tokens, targets in zip(batch["inputs"].split(1), batch["targets"].split(1), strict=True):
            characters = len(self.decode(tokens[0].tolist()))
            nats = self.surprise(model, tokens, targets) / (characters - 1) if characters > 1 else None
            heat = self.temperature if temperature is None else temperature
            longer = generate(model, tokens, length, self.length, heat, seed)
            said = {"characters": characters, "nats_per_character": nats}
            lines.append({**said, "continuation": self.decode(longer[0, tokens.shape[1] :].tolist())})
        return lines

    def surprise(self, model: nn.Module, tokens: Tensor, targets: Tensor) -> float:
        """Cross-entropy of one text (1, T) in nats, summed; read as evaluation does, ``self.length`` at a time."""
        total = torch.zeros((), dtype=torch.float64)
        whole = tokens.shape[1] // self.length * self.length
        pieces = [part[:, :whole].view(-1, self.length).split(WINDOWS) for part in (tokens, targets)]
        rest = [part[:, whole:] for part in (tokens, targets) if whole < part.shape[1]]
        for read, wanted in [*zip(*pieces, strict=True), *([rest] if rest else [])]:
            logits = model(read).flatten(0, 1).float()
            total += F.cross_entropy(logits, wanted.flatten(), ignore_index=UNKNOWN, reduction="sum").cpu()
        return float(total)

    def generate(self, model: nn.Module, request: GenerateRequest) -> Tensor:
        """Text is made up by `predict`, which goes on with one.

        Raises:
            ConfigError: Always.
        """
        hint = "dltrain predict RUN --text TEXT goes on with a text."
        raise ConfigError(
            format_error("generate", "a run whose model makes up whole examples", type(self).__name__, hint)
        )

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """A sample of generated text."""
        if self.decode is None:
            return []
        device = next(model.parameters()).device
        start = torch.tensor([self.start], device=device)
        tokens = generate(model, start, SAMPLE_TOKENS, self.length, self.temperature)
        text = self.decode(tokens[0].tolist())
        return [Media("sample", text="\n".join(f"    {line}" for line in text.splitlines()))]


def generate(
    model: nn.Module, tokens: Tensor, count: int, length: int, temperature: float = 1.0, seed: int = 0
) -> Tensor:
    """Continue ``tokens`` (B, T) by ``count`` sampled ones, reading the last ``length`` each time.

    Draws from a generator of its own, so that looking at a model does not change how it trains.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        logits = model(tokens[:, -length:])[:, -1].float()
        if temperature < COLD:
            drawn = logits.argmax(-1, keepdim=True)
        else:
            drawn = torch.multinomial((logits / temperature).softmax(-1).cpu(), 1, generator=generator)
        tokens = torch.cat([tokens, drawn.to(tokens.device)], dim=1)
    return tokens

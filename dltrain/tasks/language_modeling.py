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
from dltrain.tasks.base import Batch, Evaluation, Line, Loss, Media, TextRequest
from dltrain.tasks.carried import CarriedState
from dltrain.tasks.decoding import Sampling, decode_stream, sample_tokens, search_tokens
from dltrain.tasks.gradient_distance import TaskOverSteps
from dltrain.tasks.model_call import call_model

UNKNOWN = -1  # target of a position after the end of a text; ignored in evaluation
WINDOWS = 64  # maximum number of windows of a text per forward pass
SPELLING = math.log(256)  # nats per byte of an unknown word


@dataclass(eq=False)
class LanguageModeling(TaskOverSteps):
    """Language modeling: cross-entropy between the model's outputs (B, T, vocabulary) and the next tokens (B, T).

    Args:
        label_smoothing: Fraction of each target that is spread evenly over the vocabulary, in training only.
        prompt: Start of sampled text; None for a newline, or, if the vocabulary has none, for the first token that is
            not special.
        temperature: Sampling temperature, above 0.
        special: Tokens that are not generated, such as the unknown token.
        end: End token; generated text stops before it. None if there is none.
        unit: Name of a token, such as ``event``, if predictions count tokens; None if they count characters.
        gradient_distance: Plot the norm of the gradient of the loss at the last position by distance in time; see
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
    special: tuple[int, ...] = ()
    gradient_distance: bool = False
    unit: str | None = None
    end: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigError(format_error("task.temperature", "a number above 0", self.temperature))
        self.carried = CarriedState()
        self.start = [next((token for token in range(self.vocabulary) if token not in self.special), 0)]
        if self.encode is not None:
            try:
                self.start = self._encode_prompt("\n" if self.prompt is None else str(self.prompt), "task.prompt")
            except ConfigError:
                if self.prompt is not None:
                    raise

    def facts(self) -> dict[str, Any]:
        """Return the spec values for the model: an output per token of the vocabulary at every step."""
        return {"outputs": self.vocabulary, "each_step": True, "causal": True}

    def begin(self, model: nn.Module) -> None:
        """Reset the model state that is carried along streams of text."""
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
        logits = self.carried.call_model(model, batch).flatten(0, 1)
        return Loss(F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing), len(targets))

    def last_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy of the last token, summed over the windows; the model starts without a state.

        Targets of -1 are ignored.
        """
        logits, targets = call_model(model, batch)[:, -1], batch["targets"][:, -1]
        return F.cross_entropy(logits, targets, ignore_index=UNKNOWN, reduction="sum")

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return loss in nats per token, perplexity and bits per token and character; targets of -1 are ignored."""
        mean, carried, rate = Mean(), CarriedState(), CharacterRate()
        for batch in batches:
            targets = batch["targets"].flatten()
            logits = carried.call_model(model, batch).flatten(0, 1).float()
            each, count = F.cross_entropy(logits, targets, ignore_index=UNKNOWN), (targets != UNKNOWN).sum()
            mean.add(count, loss=each)
            rate.add(each, count, batch)
        loss = mean.read()["loss"]
        perplexity = math.exp(loss) if loss < 700 else math.inf
        bits = {"bits_per_token": loss / math.log(2), **rate.read()}
        return Evaluation({"loss": loss, "perplexity": perplexity, **bits})

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """Return the number of characters of each text, and the nats per predicted character (all but the first).

        With a ``unit``, tokens after the first are counted instead of characters.

        Args:
            batch: ``inputs`` (B, T), whole texts of any length; ``targets`` (B, T), -1 if unknown. Optional:
                ``characters`` and ``spelling`` (B,), see `CharacterRate`; only the rate is then returned.
        """
        lines = []
        for row, tokens in enumerate(batch["inputs"].split(1)):
            documents = batch["documents"][row : row + 1] if "documents" in batch else None
            nats = self.nll(model, tokens, batch["targets"][row : row + 1], documents, "continues" in batch)
            if self.unit is not None:
                after = int((batch["targets"][row] != UNKNOWN).sum())
                own = {f"{self.unit}s": after}
            elif "characters" in batch:
                nats += SPELLING * int(batch["spelling"][row])
                own, after = {}, int(batch["characters"][row])
            else:
                own = {"characters": len(self._decoder()(tokens[0].tolist()))}
                after = own["characters"] - 1
            lines.append({**own, f"nats_per_{self.unit or 'character'}": nats / after if after > 0 else None})
        return lines

    def nll(
        self, model: nn.Module, tokens: Tensor, targets: Tensor, documents: Tensor | None = None, carry: bool = False
    ) -> float:
        """Return the negative log-likelihood of one text (1, T) in nats, in windows of ``length`` as in evaluation.

        Args:
            documents: Index of the document of each token, int64 (1, T); None for one document.
            carry: Carry the state of the model from window to window.
        """
        total, carried = torch.zeros((), dtype=torch.float64), CarriedState()
        whole = 0 if carry else tokens.shape[1] // self.length * self.length
        text = (tokens, targets) if documents is None else (tokens, targets, documents)
        windows = [part[:, :whole].view(-1, self.length).split(WINDOWS) for part in text if whole]
        rest = [part[:, whole:].split(self.length, dim=1) for part in text if whole < tokens.shape[1]]
        for inputs, next_tokens, *own in [*zip(*windows, strict=True), *zip(*rest, strict=True)]:
            batch = {"inputs": inputs, **dict(zip(("documents",), own, strict=False))}
            if carry:
                batch["continues"] = torch.tensor([carried.state is not None])
            logits = carried.call_model(model, batch).flatten(0, 1).float()
            total += F.cross_entropy(logits, next_tokens.flatten(), ignore_index=UNKNOWN, reduction="sum").cpu()
        return float(total)

    def write(self, model: nn.Module, request: TextRequest) -> Iterator[str]:
        """Yield the prompt, if there is one, and the generated text."""
        decode, before = self._decoder(), list[int]()
        if request.prompt is not None:
            before = self._encode_prompt(request.prompt, "--prompt")
            yield decode(before)
        yield from decode_stream(self._continuation(model, request), decode, before)

    def _continuation(self, model: nn.Module, request: TextRequest) -> Iterator[int]:
        """Yield the tokens after a prompt."""
        start = self.start if request.prompt is None else self._encode_prompt(request.prompt, "--prompt")
        prompt = torch.tensor([start], device=next(model.parameters()).device)
        if request.beam is not None:
            found = search_tokens(model, prompt, self.length, request.beam, request.length, self.special, self.end)
            return self._before_end(found[0].tolist())
        temperature = self.temperature if request.temperature is None else request.temperature
        sampling, noise = (
            Sampling(temperature, request.top_k, request.top_p, self.special),
            Generator().manual_seed(request.seed),
        )
        tokens = sample_tokens(model, prompt, self.length, sampling, noise)
        return self._before_end(int(token) for token in itertools.islice(tokens, request.length))

    def _before_end(self, tokens: Iterable[int]) -> Iterator[int]:
        return itertools.takewhile(lambda token: token != self.end, tokens)

    def _decoder(self) -> Callable[[list[int]], str]:
        if self.decode is None:
            raise ConfigError("task.decode: not supported because the data cannot turn tokens into text")
        return self.decode

    def _encode_prompt(self, prompt: str, key: str) -> list[int]:
        """Return the tokens of a prompt; errors are reported under `key`."""
        if self.encode is None:
            raise ConfigError(f"{key}: not supported because the data cannot turn text into tokens")
        try:
            tokens = self.encode(prompt)
        except ConfigError as error:
            raise ConfigError(*(re.sub("^text:", f"{key}:", line) for line in error.problems)) from None
        if not tokens:
            expected = "a text with at least one token" if prompt else "a text of at least one character"
            raise ConfigError(format_error(key, expected, "none" if prompt else "an empty text"))
        return tokens

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return a sample of text."""
        if self.decode is None:
            return []
        request = TextRequest(temperature=self.temperature)
        text = self.decode([*self.start, *self._continuation(model, request)])
        return [Media("sample", text="\n".join(f"    {line}" for line in text.splitlines()))]


class CharacterRate:
    """Bits per character of text, which can be compared across vocabularies.

    An unknown word costs the bits of its token, and 8 bits for each of its bytes and for its end. A batch may have
    ``characters`` (B,), the number of characters of its targets, and ``spelling`` (B,), the number of bytes of unknown
    words plus the number of these words.
    """

    def __init__(self) -> None:
        self.nats, self.characters = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)

    def add(self, loss: Tensor, count: Tensor, batch: Batch) -> None:
        """Add a batch with its mean loss over `count` tokens."""
        if "characters" in batch:
            nats = torch.where(count > 0, loss.double() * count, 0) + SPELLING * batch["spelling"].sum()
            self.nats, self.characters = self.nats.to(nats.device) + nats, self.characters.to(nats.device)
            self.characters = self.characters + batch["characters"].sum()

    def read(self) -> dict[str, float]:
        """Return ``bits_per_character``, or an empty dict if the number of characters is unknown."""
        characters = int(self.characters)
        return {"bits_per_character": float(self.nats) / characters / math.log(2)} if characters else {}

"""Sampling and beam search for language models, and decoding of tokens as they are generated."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from dltrain.tasks.beam_search import BeamSearch

GREEDY_BELOW = 1e-4  # below this temperature, take the most likely token, because logits / temperature may overflow
NO_END = -1  # in place of a missing end token; no token has this value
REPLACEMENT = "\ufffd"  # decoding replaces incomplete UTF-8 with this character


@dataclass(frozen=True)
class Sampling:
    """Rule that draws the next token from the model's probabilities.

    Args:
        temperature: Divisor of the logits, at least 0; 0 takes the most likely token.
        top_k: Draw from the ``top_k`` most likely tokens, at least 1; None for all.
        top_p: Draw from the smallest set of most likely tokens whose total probability, among the tokens that ``top_k``
            keeps, is at least ``top_p``, in (0, 1]; None for all.
        excluded: Tokens that are never drawn.

    Source: top-k, Fan, Lewis and Dauphin 2018, section 5; top-p, Holtzman et al. 2020, section 3.1.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    excluded: tuple[int, ...] = ()

    def draw(self, logits: Tensor, noise: Generator) -> Tensor:
        """Return a token for each row of logits: (B, vocabulary) -> (B,), drawn on the CPU.

        Each token has its own random number, independent of its rank. Rounding errors, which may swap the ranks of
        tokens with almost equal probabilities, therefore rarely change the drawn token.
        """
        logits = logits.float().cpu()
        if self.excluded:
            logits = logits.index_fill(1, torch.tensor(self.excluded), -torch.inf)
        if self.temperature < GREEDY_BELOW:
            return logits.argmax(-1)
        probabilities = (logits / self.temperature).softmax(-1)
        if self.top_k is not None or self.top_p is not None:
            probabilities = self._restrict(probabilities)
        return torch.multinomial(probabilities, 1, generator=noise)[:, 0]

    def _restrict(self, probabilities: Tensor) -> Tensor:
        """Return the probabilities (B, vocabulary) with 0 for tokens that top-k and top-p exclude, unnormalized."""
        ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
        ordered, tokens = ordered[:, : self.top_k], tokens[:, : self.top_k]
        if self.top_p is not None:
            shares = ordered / ordered.sum(-1, keepdim=True)
            ordered = ordered.masked_fill(shares.cumsum(-1) - shares >= self.top_p, 0)
        return torch.zeros_like(probabilities).scatter(1, tokens, ordered)


class Window:
    """Step-by-step interface of a model without a state: each step reads the last ``length`` tokens again."""

    def __init__(self, model: nn.Module, length: int) -> None:
        self.model, self.length = model, length

    def start(self, batch_size: int) -> dict[str, Any]:
        """Return the state before the first token."""
        device = next(self.model.parameters()).device
        return {"tokens": torch.empty(batch_size, 0, dtype=torch.int64, device=device)}

    def forward(self, x: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return the logits after each of the tokens (B, T), T up to ``length``, and the next state."""
        tokens = torch.cat([state["tokens"].to(x.device), x], dim=1)[:, -self.length :]
        return self.model.forward(tokens)[:, -x.shape[1] :], {"tokens": tokens}


def sample_tokens(model: Any, prompt: Tensor, length: int, sampling: Sampling, noise: Generator) -> Iterator[Tensor]:
    """Yield an endless sequence of tokens after a prompt, (B,) each.

    Args:
        model: A language model. A model with a method `start` keeps a state and reads only the new token; other models
            read the last ``length`` tokens again for each new token.
        prompt: Tokens (B, T), T at least 1.
        length: Maximum number of tokens that the model reads at once.
        noise: CPU generator of all random numbers, so that sampling during training does not change the run.
    """
    stepwise = model if hasattr(model, "start") else Window(model, length)
    state = stepwise.start(len(prompt))
    # Calling `forward` bypasses torch.compile, which would compile again for each new shape of the state.
    for piece in prompt.split(length, dim=1):
        logits, state = stepwise.forward(piece, state=state)
    yield from draw_tokens(stepwise, logits, state, sampling, noise)


def draw_tokens(
    model: Any, logits: Tensor, state: dict[str, Any], sampling: Sampling, noise: Generator
) -> Iterator[Tensor]:
    """Yield an endless sequence of tokens, (B,) each, after a prompt.

    Args:
        logits: Outputs of the model for the prompt, (B, T, vocabulary).
        state: State of the model after the prompt.
    """
    while True:
        tokens = sampling.draw(logits[:, -1], noise)
        yield tokens
        logits, state = model.forward(tokens.to(logits.device)[:, None], state=state)


def search_tokens(
    model: Any, prompt: Tensor, length: int, beam: int, count: int, excluded: tuple[int, ...], end: int | None = None
) -> Tensor:
    """Search for the most likely ``count`` tokens after a prompt, (B, count), with a beam search.

    Args:
        model: See `sample_tokens`.
        prompt: Tokens (B, T), T at least 1; all rows must end with the same token.
        length: Maximum number of tokens that the model reads at once.
        excluded: Tokens that are never generated.
        end: Token that ends a text and fills the rest of the row; None if there is none.
    """
    stepwise = model if hasattr(model, "start") else Window(model, length)
    state = stepwise.start(len(prompt))
    if prompt.shape[1] > 1:
        for piece in prompt[:, :-1].split(length, dim=1):
            _, state = stepwise.forward(piece, state=state)
    return BeamSearch(int(prompt[0, -1]), NO_END if end is None else end, excluded, count, beam)(stepwise, state).tokens


def decode_stream(
    tokens: Iterable[int], decode: Callable[[list[int]], str], before: Sequence[int] = ()
) -> Iterator[str]:
    """Yield the text of tokens piece by piece; an incomplete character waits for its remaining bytes.

    Args:
        before: Tokens that precede ``tokens``. Their text is not yielded, but the text of the next token may depend on
            them: for example, whether it starts with a space.
    """
    context, waiting = list(before), list[int]()
    for token in tokens:
        waiting.append(token)
        text = decode([*context, *waiting])
        if not text.endswith(REPLACEMENT):
            yield text[len(decode(context)) :]
            context, waiting = waiting, []
    if waiting:
        yield decode([*context, *waiting])[len(decode(context)) :]

"""Attention weights of the words of a text, as records and as highlighted text."""

import html
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from dltrain.errors import ConfigError
from dltrain.tasks.base import Batch, Media

NUM_TEXTS = 8  # texts with highlighted words
MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!])")  # characters with a meaning in Markdown
BOLD, STRONG = 2, 4  # minimum weights of highlighted words, as multiples of the mean weight in a text
LEGEND = (
    f"Words with at least {BOLD} times the mean weight are **bold**, "
    f"words with at least {STRONG} times the mean weight ***bold italic***."
)


def word_weights(
    model: nn.Module, batch: Batch, decode: Callable[[list[int]], str] | None
) -> list[list[dict[str, Any]]]:
    """Return the words of each text with their attention weights, which sum to 1 for each text.

    Args:
        model: A model with a method ``attention_weights(x, lengths)``, which returns weights (B, T).
        batch: ``inputs`` (B, T) and ``lengths`` (B,).

    Raises:
        ConfigError: The model has no attention weights, or ``decode`` is None.
    """
    attention = getattr(model, "attention_weights", None)
    if decode is None:
        raise ConfigError("--explain: not supported because the inputs of this run are not text")
    if attention is None:
        hint = "Use rnn, lstm or gru with model.readout=attention."
        reason = f"{type(model).__name__} has no attention weights. {hint}"
        raise ConfigError(f"--explain: not supported for texts because {reason}")
    weights: Tensor = attention(batch["inputs"], batch["lengths"])
    rows = zip(batch["inputs"].tolist(), weights.tolist(), batch["lengths"].tolist(), strict=True)
    return [
        [
            {"word": decode([token]), "weight": weight}
            for token, weight in zip(tokens[:length], shares[:length], strict=True)
        ]
        for tokens, shares, length in rows
    ]


def first_texts(batch: Batch, decode: Callable[[list[int]], str] | None) -> Batch | None:
    """Return the first examples of a batch of texts, to show them; None if the inputs are not texts."""
    if decode is None or "lengths" not in batch:
        return None
    return {name: value[:NUM_TEXTS] for name, value in batch.items()}


def show_words(
    model: nn.Module,
    texts: Batch | None,
    decode: Callable[[list[int]], str] | None,
    captions: Callable[[Batch], Iterable[str]],
) -> list[Media]:
    """Return texts with highlighted words, each after its caption, if the model has attention weights."""
    has_weights = hasattr(model, "attention_weights") and getattr(model, "readout", "attention") == "attention"
    if texts is None or not has_weights:
        return []
    lines = map(highlighted, word_weights(model, texts, decode))
    captioned = [f"{caption}: {line}" for caption, line in zip(captions(texts), lines, strict=True)]
    return [Media("attention", text="\n\n".join([LEGEND, *captioned]))]


def highlighted(words: Sequence[dict[str, Any]]) -> str:
    """Return Markdown with words of high weight in bold and words of very high weight in bold italics."""
    return " ".join(_marked(each["word"], each["weight"] * len(words)) for each in words)


def _marked(word: str, share: float) -> str:
    text = MARKDOWN.sub(r"\\\1", html.escape(word.strip(), quote=False)) or "␣"
    stars = "***" if share >= STRONG else "**" if share >= BOLD else ""
    return f"{stars}{text}{stars}"

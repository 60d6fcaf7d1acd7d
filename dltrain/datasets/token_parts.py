"""Tokens of the training, validation and test part of a text."""

from collections.abc import Sequence

from dltrain.datasets.describe import count
from dltrain.datasets.special_token import join
from dltrain.datasets.text_parts import NAMES, TextParts
from dltrain.datasets.text_tokenizers import Encoded, Tokenizer, compact
from dltrain.errors import ConfigError, format_error


def encode_parts(tokenizer: Tokenizer, parts: TextParts) -> list[Encoded]:
    """Return the tokens of each part; a part of documents has a token for the end before, between and after them.

    Raises:
        ConfigError: A part that is to be held out, or the training part, has no document.
    """
    encoded: list[list[Encoded]] = [[], [], []]
    for number, piece in parts:
        encoded[number].append(tokenizer.encode_content(piece))
    nothing = tokenizer.encode_content(parts.empty)
    if parts.separator is None:
        return [pieces[0] if pieces else nothing for pieces in encoded]
    _check_documents(parts, list(map(len, encoded)))
    end, size = tokenizer.spec.end, len(parts.separator)
    assert end is not None, "a tokenizer of documents has a token for their end"
    joined = (join([nothing, *pieces, nothing], end, size) for pieces in encoded)
    return [part._replace(tokens=compact(part.tokens.numpy(), tokenizer.size)) for part in joined]


def describe_documents(parts: Sequence[Encoded], end: int | None) -> list[str]:
    """Return a line with the number of documents and their mean length; nothing for a text without documents."""
    if end is None:
        return []
    numbers = [max(0, int((part.tokens == end).sum()) - 1) for part in parts]
    tokens = sum(len(part.tokens) for part in parts) / max(1, sum(numbers))
    splits = ", ".join(f"{number:,} {name}" for number, name in zip(numbers, NAMES, strict=True))
    return [f"{count(sum(numbers), 'document')}: {splits}; {tokens:,.1f} tokens on average"]


def _check_documents(parts: TextParts, numbers: list[int]) -> None:
    needed = [number for number, size in enumerate(parts.sizes) if size and not numbers[number]]
    if needed:
        expected = f"a text that divides {parts.path} into documents for each split"
        hint = f"The {NAMES[needed[0]]} split has none."
        got = f"{parts.separator!r}, which gives {count(sum(numbers), 'document')}"
        raise ConfigError(format_error("data.separator", expected, got, hint))

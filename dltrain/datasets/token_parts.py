"""Tokens of the training, validation and test parts of a text."""

from collections.abc import Sequence

import torch

from dltrain.datasets.describe import count
from dltrain.datasets.special_token import join
from dltrain.datasets.text_parts import NAMES, TextParts
from dltrain.datasets.text_tokenizers import Counts, Encoded, Tokenizer, compact
from dltrain.errors import ConfigError, format_error


def encode_parts(tokenizer: Tokenizer, parts: TextParts) -> list[Encoded]:
    """Return the tokens of each part; with a separator, an end token precedes the first document and follows each one.

    Raises:
        ConfigError: A part of nonzero size has no document.
    """
    encoded: list[list[Encoded]] = [[], [], []]
    for number, piece in parts:
        encoded[number].append(tokenizer.encode_content(piece))
    nothing = tokenizer.encode_content(parts.empty)
    if parts.separator is None:
        return [pieces[0] if pieces else nothing for pieces in encoded]
    check_documents(parts, list(map(len, encoded)))
    end = tokenizer.spec.end
    assert end is not None, "a tokenizer of documents has an end token"
    joined = (join([nothing, *pieces, nothing], end, len(parts.separator)) for pieces in encoded)
    return [part._replace(tokens=compact(part.tokens.numpy(), tokenizer.size)) for part in joined]


def end_of_document(tokenizer: Tokenizer, parts: TextParts) -> Encoded | None:
    """Return the end token, whose size is the length of the separator; None for a text without a separator."""
    end = tokenizer.spec.end
    if parts.separator is None or end is None:
        return None
    size, nothing = torch.tensor([len(parts.separator)]), torch.zeros(1, dtype=torch.int32)
    return Encoded(torch.tensor([end]), size, nothing)


def count_parts(parts: Sequence[Encoded]) -> list[Counts]:
    """Return the number of tokens, characters and unknown tokens of each part."""
    sizes = [None if part.sizes is None else int(part.sizes.sum()) for part in parts]
    unknown = [int(part.spelling.count_nonzero()) for part in parts]
    return [Counts(len(part.tokens), size, rare) for part, size, rare in zip(parts, sizes, unknown, strict=True)]


def describe_documents(parts: Sequence[Encoded], end: int | None) -> list[str]:
    """Return a line with the number of documents and their mean length; [] for a text without a separator."""
    if end is None:
        return []
    numbers = [max(0, int((part.tokens == end).sum()) - 1) for part in parts]
    tokens = sum(len(part.tokens) for part in parts) / max(1, sum(numbers))
    splits = ", ".join(f"{number:,} {name}" for number, name in zip(numbers, NAMES, strict=True))
    return [f"{count(sum(numbers), 'document')}: {splits}; {tokens:,.1f} tokens on average"]


def check_documents(parts: TextParts, numbers: list[int]) -> None:
    """Raise ConfigError if a part of nonzero size has no document.

    Args:
        numbers: Number of documents of each part.
    """
    needed = [number for number, size in enumerate(parts.sizes) if size and not numbers[number]]
    if needed:
        expected = f"a separator that divides {parts.path} into documents for each split"
        hint = f"The {NAMES[needed[0]]} split has none."
        got = f"{parts.separator!r}, which gives {count(sum(numbers), 'document')}"
        raise ConfigError(format_error("data.separator", expected, got, hint))

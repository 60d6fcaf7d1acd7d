"""Vocabularies of sequence-to-sequence data: words, characters or subwords, with begin and end tokens."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Protocol

from dltrain.data.tokens import Tokens
from dltrain.datasets.subword_training import NAMES, fit_subwords
from dltrain.datasets.subwords import Subwords, check_installed
from dltrain.datasets.words import split_words
from dltrain.errors import ConfigError, format_error

PAD, UNKNOWN, BEGIN, END = range(4)
SPECIAL = ("<pad>", "<unknown>", "<begin>", "<end>")
FILE = "file"  # kind of a user-provided tokenizer


class Vocabulary(Protocol):
    """Conversion between text and tokens. Tokens 0 to 3 are `SPECIAL`."""

    size: int
    content: list[str]  # the state from which `restore` builds the vocabulary

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without begin and end tokens."""

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens, without padding, begin and end tokens."""


class Pieces:
    """Vocabulary of words and symbols, or of characters.

    Args:
        content: The pieces, from token 4 on.
        split: Function that splits a text into pieces.
        separator: Text between two pieces.
    """

    def __init__(self, content: Sequence[str], split: Callable[[str], list[str]], separator: str) -> None:
        self.content, self.split, self.separator = list(content), split, separator
        self.size = len(SPECIAL) + len(self.content)
        self.numbers = {piece: number for number, piece in enumerate(self.content, len(SPECIAL))}

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text; a piece that is not in the vocabulary is `UNKNOWN`."""
        return [self.numbers.get(piece, UNKNOWN) for piece in self.split(text)]

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens, without padding, begin and end tokens."""
        names = (*SPECIAL, *self.content)
        return self.separator.join(names[token] for token in tokens if token not in (PAD, BEGIN, END))


def restore(kind: str, content: Sequence[str], lowercase: bool) -> Vocabulary:
    """Return the vocabulary with this content, of kind ``words``, ``characters``, ``file`` or one of `NAMES`."""
    if kind in NAMES:
        check_installed(f"data.tokens={kind}")
        return Subwords(content, lowercase)
    if kind == FILE:
        check_installed("data.tokenizer")
        return Subwords(content, first=len(SPECIAL), unknown=UNKNOWN)
    if kind == "words":
        return Pieces(content, lambda text: split_words(text, lowercase), " ")
    return Pieces(content, lambda text: list(text.lower() if lowercase else text), "")


def fit(kind: str, texts: Iterable[str], lowercase: bool, min_count: int, max_words: int) -> Vocabulary:
    """Fit a vocabulary to texts.

    Args:
        kind: ``words``, ``characters``, ``bpe`` or ``wordpiece``.
        min_count: Minimum number of occurrences of a piece, or of a pair of pieces to merge.
        max_words: Maximum number of pieces; the most frequent ones are kept. For subwords, the number includes special
            tokens and all bytes or characters, which are kept even above the maximum.

    Raises:
        ConfigError: No piece occurs often enough, or the package for subwords is not installed.
    """
    if kind in NAMES:
        check_installed(f"data.tokens={kind}")
        cased = [text.lower() if lowercase else text for text in texts]
        return Subwords([fit_subwords(kind, lambda: cased, SPECIAL, (min_count, max_words))], lowercase)
    empty = restore(kind, [], lowercase)
    assert isinstance(empty, Pieces)
    counts = Counter(chain.from_iterable(map(empty.split, texts)))
    kept = [piece for piece, count in counts.items() if count >= min_count]
    if not kept:
        highest = max(counts.values(), default=0)
        expected = f"at most {highest}, the count of the most frequent {kind[:-1]} in the training data"
        raise ConfigError(format_error("data.min_count", expected, min_count))
    return restore(kind, sorted(kept, key=lambda piece: (-counts[piece], piece))[:max_words], lowercase)


def as_tokens(vocabulary: Vocabulary) -> Tokens:
    """Return a vocabulary as `Tokens`."""
    encode, decode = vocabulary.encode, vocabulary.decode
    return Tokens(vocabulary.size, pad=PAD, begin=BEGIN, end=END, unknown=UNKNOWN, encode=encode, decode=decode)

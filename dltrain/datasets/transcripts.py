"""Transcripts of speech: their normalized text, and their tokens for connectionist temporal classification."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise

from dltrain.data.tokens import Tokens
from dltrain.errors import ConfigError, format_error

CHARACTERS, WORDS = KINDS = ("characters", "words")
BLANK, UNKNOWN = range(2)
SPECIAL = ("", "\ufffd")  # the texts of blank and unknown tokens
KEPT = "LNM"  # first letters of the Unicode categories for letters, numbers and combining marks


def normalize(text: str, lowercase: bool, punctuation: bool) -> str:
    """Return a transcript in Unicode's composed form (NFC), with single spaces between words.

    Args:
        lowercase: Whether to convert the text to lower case.
        punctuation: Whether to keep punctuation and symbols; otherwise they become spaces, except apostrophes in words.
    """
    text = unicodedata.normalize("NFC", text.lower() if lowercase else text)
    if punctuation:
        return " ".join(text.split())
    text = text.replace("\u2019", "'")
    kept = (letter if letter == "'" or unicodedata.category(letter)[0] in KEPT else " " for letter in text)
    return " ".join(word for part in "".join(kept).split() if (word := part.strip("'")))


class TranscriptVocabulary:
    """Vocabulary of the pieces (characters or words) of training transcripts.

    Token 0 is the blank; token 1 stands for any unknown piece.

    Args:
        kind: ``characters`` or ``words``.
        content: The pieces, from token 2 on.
    """

    def __init__(self, kind: str, content: Sequence[str]) -> None:
        self.kind, self.content = kind, list(content)
        self.separator = "" if kind == CHARACTERS else " "
        self.size = len(SPECIAL) + len(self.content)
        self.numbers = {piece: number for number, piece in enumerate(self.content, len(SPECIAL))}

    def split(self, text: str) -> list[str]:
        """Return the pieces of a normalized transcript."""
        return list(text) if self.kind == CHARACTERS else text.split()

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a normalized transcript; a piece that is not in the vocabulary is `UNKNOWN`."""
        return [self.numbers.get(piece, UNKNOWN) for piece in self.split(text)]

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens; an unknown piece becomes the replacement character."""
        names = (*SPECIAL, *self.content)
        return self.separator.join(names[token] for token in tokens if token != BLANK)

    def as_tokens(self) -> Tokens:
        """Return the vocabulary as `Tokens`."""
        return Tokens(self.size, unknown=UNKNOWN, blank=BLANK, encode=self.encode, decode=self.decode)


def fit_vocabulary(kind: str, texts: Iterable[str], min_count: int, max_words: int) -> TranscriptVocabulary:
    """Return the vocabulary of normalized transcripts.

    Args:
        kind: ``characters`` or ``words``.
        min_count: Minimum number of occurrences of a piece.
        max_words: Maximum number of pieces; the most frequent are kept.

    Raises:
        ConfigError: All transcripts are empty, or no piece occurs often enough.
    """
    empty = TranscriptVocabulary(kind, [])
    counts = Counter(chain.from_iterable(map(empty.split, texts)))
    if not counts:
        expected, hint = "transcripts with letters or digits", "data.punctuation=true keeps other characters"
        raise ConfigError(format_error("data.path", expected, "only empty transcripts in the training data", hint))
    kept = [piece for piece, count in counts.items() if count >= min_count]
    if not kept:
        expected = f"at most {max(counts.values())}, the count of the most frequent {kind[:-1]} in the training data"
        raise ConfigError(format_error("data.min_count", expected, min_count))
    return TranscriptVocabulary(kind, sorted(kept, key=lambda piece: (-counts[piece], piece))[:max_words])


def min_steps(tokens: Sequence[int]) -> int:
    """Return the minimum number of CTC steps for tokens: one per token, plus a blank between equal neighboring tokens.

    Source: Graves et al. 2006, section 3.1.
    """
    return len(tokens) + sum(one == other for one, other in pairwise(tokens))

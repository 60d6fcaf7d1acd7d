"""Words as the tokens of a text, with a vocabulary fitted on training texts."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from dltrain.data.tokens import Tokens
from dltrain.errors import ConfigError, format_error

PAD, UNKNOWN = 0, 1
SPECIAL = ("<pad>", "<unknown>")
BEGIN, END, MASK = 2, 3, 4  # only in vocabularies with `MORE_SPECIAL`
MORE_SPECIAL = (*SPECIAL, "<begin>", "<end>", "<mask>")

# One kana or Chinese character; a run of letters, digits and underscores with inner apostrophes; or one symbol.
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+(?:['’][^\W{UNSPACED}]+)*|[^\w\s]")


class Words:
    """Vocabulary of words and symbols.

    Token 0 is padding, token 1 any unknown word.

    Args:
        words: The words without special tokens; their tokens follow the special tokens.
        lowercase: Whether to convert texts to lower case first.
        special: Special tokens, `SPECIAL` or `MORE_SPECIAL`.
    """

    def __init__(self, words: Sequence[str], lowercase: bool = True, special: Sequence[str] = SPECIAL) -> None:
        self.words, self.lowercase, self.special = [*special, *words], lowercase, tuple(special)
        self.numbers = {word: number for number, word in enumerate(self.words) if number >= len(special)}

    @classmethod
    def fit(
        cls, texts: Iterable[str], lowercase: bool, min_count: int, max_words: int, special: Sequence[str] = SPECIAL
    ) -> "Words":
        """Return the vocabulary of texts, frequent words first.

        Args:
            min_count: Minimum number of occurrences; rarer words are unknown.
            max_words: Maximum number of words; the most frequent ones are kept.

        Raises:
            ConfigError: No word occurs often enough, or there are no words.
        """
        return cls.of_words(
            (word for text in texts for word in split_words(text, lowercase)), lowercase, min_count, max_words, special
        )

    @classmethod
    def of_words(
        cls, words: Iterable[str], lowercase: bool, min_count: int, max_words: int, special: Sequence[str] = SPECIAL
    ) -> "Words":
        """Return the vocabulary of words; see `fit`."""
        counts = Counter(word.lower() if lowercase else word for word in words)
        kept = [word for word, count in counts.items() if count >= min_count]
        if not counts:
            raise ConfigError(format_error("data.path", "training texts with words", "none"))
        if not kept:
            most = f"at most {max(counts.values())}, the count of the most frequent word of the training texts"
            raise ConfigError(format_error("data.min_count", most, min_count))
        return cls(sorted(kept, key=lambda word: (-counts[word], word))[:max_words], lowercase, special)

    @property
    def tokens(self) -> Tokens:
        """The vocabulary as `Tokens`."""
        more: dict[str, Any] = {"begin": BEGIN, "end": END, "mask": MASK} if self.special == MORE_SPECIAL else {}
        return Tokens(len(self.words), pad=PAD, unknown=UNKNOWN, **more, encode=self.encode, decode=self.decode)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without begin and end tokens.

        With `MORE_SPECIAL`, ``<mask>`` is the mask token.
        """
        parts = text.split(MORE_SPECIAL[MASK]) if self.special == MORE_SPECIAL else [text]
        encoded = ([self.numbers.get(word, UNKNOWN) for word in split_words(part, self.lowercase)] for part in parts)
        return [token for number, part in enumerate(encoded) for token in (*[MASK][:number], *part)]

    def number(self, word: str) -> int:
        """Return the token of a word, without splitting the word."""
        return self.numbers.get(word.lower() if self.lowercase else word, UNKNOWN)

    def encode_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the tokens of a text, and the character span (start, end) of each, end exclusive.

        Unlike in `encode`, ``<mask>`` is never the mask token.
        """
        found = list(WORD.finditer(text))
        return [self.number(match[0]) for match in found], [match.span() for match in found]

    def decode(self, tokens: list[int]) -> str:
        """Return the words of tokens, separated by spaces, without padding."""
        return " ".join(self.words[token] for token in tokens if token != PAD)


def split_words(text: str, lowercase: bool) -> list[str]:
    """Return the words and symbols of a text."""
    return WORD.findall(text.lower() if lowercase else text)

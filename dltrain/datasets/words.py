"""Words as the tokens of a text, with a vocabulary fitted on training texts."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from dltrain.data.tokens import Tokens
from dltrain.datasets.subwords import Subwords, check_installed
from dltrain.errors import ConfigError, format_error

PAD, UNKNOWN = 0, 1
SPECIAL = ("<pad>", "<unknown>")
BEGIN, END, MASK = 2, 3, 4  # only in vocabularies with more special tokens
MORE_SPECIAL = (*SPECIAL, "<begin>", "<end>", "<mask>")

# Letters and digits, with inner apostrophes; one character of a script without spaces; or one symbol.
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+(?:['’][^\W{UNSPACED}]+)*|[^\w\s]")


class Words:
    """Vocabulary of words and symbols.

    Token 0 is padding, token 1 any unknown word.

    Args:
        words: The words, after the special tokens.
        lowercase: Convert texts to lower case first.
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
            max_words: Maximum number of words to keep, the most frequent ones.

        Raises:
            ConfigError: No word occurs often enough, or there are no words.
        """
        counts = Counter(word for text in texts for word in split_words(text, lowercase))
        kept = [word for word, count in counts.items() if count >= min_count]
        if not counts:
            raise ConfigError(format_error("data.path", "training texts with words", "none"))
        if not kept:
            most = f"at most {max(counts.values())}, the count of the most frequent word of the training texts"
            raise ConfigError(format_error("data.min_count", most, min_count))
        return cls(sorted(kept, key=lambda word: (-counts[word], word))[:max_words], lowercase, special)

    @property
    def size(self) -> int:
        """Number of tokens, special ones included."""
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without special ones."""
        return [self.numbers.get(word, UNKNOWN) for word in split_words(text, self.lowercase)]

    def decode(self, tokens: list[int]) -> str:
        """Return the words of tokens, separated by spaces, without padding."""
        return " ".join(self.words[token] for token in tokens if token != PAD)


def split_words(text: str, lowercase: bool) -> list[str]:
    """Return the words and symbols of a text."""
    return WORD.findall(text.lower() if lowercase else text)


def own_tokenizer(content: Sequence[str], special: Sequence[str]) -> Subwords:
    """Return a tokenizer of the user, whose tokens come after the special tokens."""
    check_installed("data.tokenizer: a file")
    return Subwords(content, first=len(special), unknown=UNKNOWN)


def as_tokens(words: Words | Subwords, special: Sequence[str]) -> Tokens:
    """Return a vocabulary as the fact `Tokens`. With `MORE_SPECIAL`, ``<mask>`` in a text is the mask token."""
    tokens = Tokens(words.size, pad=PAD, unknown=UNKNOWN, encode=words.encode, decode=words.decode)
    if tuple(special) != MORE_SPECIAL:
        return tokens

    def encode(text: str) -> list[int]:
        parts = map(words.encode, text.split(MORE_SPECIAL[MASK]))
        return [token for number, part in enumerate(parts) for token in (*[MASK][:number], *part)]

    return replace(tokens, begin=BEGIN, end=END, mask=MASK, encode=encode)

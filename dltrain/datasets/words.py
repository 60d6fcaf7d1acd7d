"""Words as the tokens of a text, with a vocabulary fitted on training texts."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from dltrain.data.tokens import Tokens
from dltrain.datasets.subwords import Subwords, check_installed
from dltrain.errors import ConfigError, format_error

PAD, UNKNOWN = 0, 1
SPECIAL = ("<pad>", "<unknown>")

# Letters and digits, with inner apostrophes; one character of a script without spaces; or one symbol.
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+(?:['’][^\W{UNSPACED}]+)*|[^\w\s]")


class Words:
    """Vocabulary of words and symbols.

    Token 0 is padding, token 1 any unknown word.

    Args:
        words: The words, from token 2 on.
        lowercase: Convert texts to lower case first.
    """

    def __init__(self, words: Sequence[str], lowercase: bool = True) -> None:
        self.words, self.lowercase = [*SPECIAL, *words], lowercase
        self.numbers = {word: number for number, word in enumerate(self.words) if number >= len(SPECIAL)}

    @classmethod
    def fit(cls, texts: Iterable[str], lowercase: bool, min_count: int, max_words: int) -> "Words":
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
        return cls(sorted(kept, key=lambda word: (-counts[word], word))[:max_words], lowercase)

    @property
    def size(self) -> int:
        """Number of tokens, special ones included."""
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return [self.numbers.get(word, UNKNOWN) for word in split_words(text, self.lowercase)]

    def decode(self, tokens: list[int]) -> str:
        """Return the words of tokens, separated by spaces, without padding."""
        return " ".join(self.words[token] for token in tokens if token != PAD)


def split_words(text: str, lowercase: bool) -> list[str]:
    """Return the words and symbols of a text."""
    return WORD.findall(text.lower() if lowercase else text)


def own_tokenizer(content: Sequence[str]) -> Subwords:
    """Return a tokenizer of the user, whose tokens come after `SPECIAL`."""
    check_installed("data.tokenizer: a file")
    return Subwords(content, first=len(SPECIAL), unknown=UNKNOWN)


def as_tokens(words: Words | Subwords) -> Tokens:
    """Return a vocabulary as the fact `Tokens`."""
    return Tokens(words.size, pad=PAD, unknown=UNKNOWN, encode=words.encode, decode=words.decode)

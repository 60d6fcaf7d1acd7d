"""Vocabularies of sequence-to-sequence data: words, characters or byte pair encoding, with tokens for begin and end."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from itertools import chain
from typing import Any, Protocol

from dltrain.data.tokens import Tokens
from dltrain.datasets.words import split_words
from dltrain.errors import ConfigError, format_error

PAD, UNKNOWN, BEGIN, END = range(4)
SPECIAL = ("<pad>", "<unknown>", "<begin>", "<end>")


class Vocabulary(Protocol):
    """Conversion between text and tokens. Tokens 0 to 3 are `SPECIAL`."""

    size: int
    content: list[str]  # the state from which `restore` builds the vocabulary

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without begin and end."""

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens, without pad, begin and end."""


class Pieces:
    """Words and symbols, or characters, of training texts.

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
        """Return the pieces of tokens."""
        names = (*SPECIAL, *self.content)
        return self.separator.join(names[token] for token in tokens if token not in (PAD, BEGIN, END))


class BytePairs:
    """Byte pair encoding of the bytes of a text, without unknown tokens.

    Args:
        content: The tokenizer as JSON, in a list.
        lowercase: Whether to convert texts to lower case.

    Source: Sennrich, Haddow and Birch 2016; on bytes, Radford et al. 2019 (GPT-2), section 2.2. By `tokenizers`.
    """

    def __init__(self, content: Sequence[str], lowercase: bool) -> None:
        from tokenizers import Tokenizer

        self.content, self.lowercase = list(content), lowercase
        self.tokenizer = Tokenizer.from_str(self.content[0])
        self.tokenizer.encode_special_tokens = True  # read "<end>" in a text as its characters
        self.size = self.tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        ids: list[int] = self.tokenizer.encode(text.lower() if self.lowercase else text).ids
        return ids

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens; incomplete UTF-8 becomes replacement characters."""
        text: str = self.tokenizer.decode([token for token in tokens if token >= len(SPECIAL)])
        return text


def check_installed(kind: str) -> None:
    """Raise ConfigError if the package for a kind of vocabulary is not installed."""
    if kind == "bpe" and find_spec("tokenizers") is None:
        reason = "tokenizers, which computes byte pair encodings, is not installed"
        raise ConfigError(f"data.tokens: bpe is not supported because {reason}. Run pip install 'dltrain[text]'.")


def restore(kind: str, content: Sequence[str], lowercase: bool) -> Vocabulary:
    """Return the vocabulary with this content: of ``words``, ``characters`` or ``bpe``."""
    check_installed(kind)
    if kind == "bpe":
        return BytePairs(content, lowercase)
    if kind == "words":
        return Pieces(content, lambda text: split_words(text, lowercase), " ")
    return Pieces(content, lambda text: list(text.lower() if lowercase else text), "")


def fit(kind: str, texts: Iterable[str], lowercase: bool, min_count: int, max_words: int) -> Vocabulary:
    """Return the vocabulary of texts.

    Args:
        kind: ``words``, ``characters`` or ``bpe``.
        min_count: Minimum number of occurrences of a piece, or of a pair of pieces to join.
        max_words: Maximum number of pieces, the most frequent ones; for ``bpe``, special tokens and bytes included.

    Raises:
        ConfigError: No piece occurs often enough, or the package for ``bpe`` is not installed.
    """
    check_installed(kind)
    if kind == "bpe":
        return _fit_byte_pairs(texts, lowercase, min_count, max_words)
    empty = restore(kind, [], lowercase)
    assert isinstance(empty, Pieces)
    counts = Counter(chain.from_iterable(map(empty.split, texts)))
    kept = [piece for piece, count in counts.items() if count >= min_count]
    if not kept:
        got = f"{len(counts):,} different {kind}, all of them rarer"
        raise ConfigError(format_error("data.min_count", f"a count that {kind} of the training texts reach", got))
    return restore(kind, sorted(kept, key=lambda piece: (-counts[piece], piece))[:max_words], lowercase)


def _fit_byte_pairs(texts: Iterable[str], lowercase: bool, min_count: int, max_words: int) -> BytePairs:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    options: dict[str, Any] = {"special_tokens": list(SPECIAL), "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    trainer = trainers.BpeTrainer(vocab_size=max_words, min_frequency=min_count, show_progress=False, **options)
    tokenizer.train_from_iterator((text.lower() if lowercase else text for text in texts), trainer)
    return BytePairs([tokenizer.to_str()], lowercase)


def as_tokens(vocabulary: Vocabulary) -> Tokens:
    """Return a vocabulary as the fact `Tokens`."""
    special = {"pad": PAD, "begin": BEGIN, "end": END, "unknown": UNKNOWN}
    return Tokens(vocabulary.size, **special, encode=vocabulary.encode, decode=vocabulary.decode)

"""Vocabularies of texts that models read but do not generate: words, subwords, or a user-provided tokenizer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dltrain.data.checks import at_least, one_of
from dltrain.data.spec import Fitted
from dltrain.datasets.subword_training import NAMES, fit_subwords
from dltrain.datasets.subwords import check_installed
from dltrain.datasets.tokenizer_file import TokenizerFile, read_tokenizer
from dltrain.datasets.words import MASK, MORE_SPECIAL, Words

KINDS = ("words", *NAMES)


class FittedSubwords(TokenizerFile):
    """Subwords that are fitted to texts.

    `encode` reads ``<mask>`` as a special token if the vocabulary has it, and names of other special
    tokens as plain text.
    """

    def __init__(self, content: str) -> None:
        super().__init__(content)
        self.tokenizer.encode_special_tokens = True

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without begin and end tokens."""
        name = MORE_SPECIAL[MASK]
        mask = self.tokenizer.token_to_id(name)
        first, *others = map(super().encode, [text] if mask is None else text.split(name))
        return [*first, *(token for part in others for token in (mask, *part))]

    def encode_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the tokens and their (start, end) in a text; a span excludes spaces at the start of its token."""
        tokens, spans = super().encode_spans(text)
        return tokens, [(stop - len(text[start:stop].lstrip()), stop) for start, stop in spans]


@dataclass(frozen=True)
class VocabularySettings:
    """Settings of a vocabulary.

    Args:
        tokens: ``words``, ``bpe`` or ``wordpiece``, fitted to the training texts.
        tokenizer: File ``tokenizer.json``, which replaces ``tokens``.
        lowercase: Whether to convert texts to lower case.
        min_count: Minimum number of occurrences of a word, or of a pair of subwords to join, at least 1.
        max_words: Maximum number of words (without special tokens) or of subwords (with special tokens and all bytes or
            characters, which are always kept), at least 1.
        special: Special tokens of a fitted vocabulary.
    """

    tokens: str
    tokenizer: str | None
    lowercase: bool
    min_count: int
    max_words: int
    special: Sequence[str] = MORE_SPECIAL

    def __post_init__(self) -> None:
        if not self.tokenizer:
            one_of("data.tokens", self.tokens, KINDS)
        at_least("data.min_count", self.min_count, 1)
        at_least("data.max_words", self.max_words, 1)

    @property
    def name(self) -> str:
        """Name of the tokens, for messages."""
        names = {"words": "words", **NAMES}
        return "tokens of data.tokenizer" if self.tokenizer else f"{names[self.tokens]} of the training texts"

    def fit(self, texts: Iterable[str], whole: bool = False) -> Words | TokenizerFile:
        """Fit the vocabulary to texts, or read the tokenizer.

        Args:
            texts: The training texts.
            whole: Whether each text is one word.

        Raises:
            ConfigError: The tokenizer file is missing or invalid, no word occurs often enough, or a package is not
                installed.
        """
        if self.tokenizer:
            return read_tokenizer(self.tokenizer)
        if self.tokens == "words":
            fit_words = Words.of_words if whole else Words.fit
            return fit_words(texts, self.lowercase, self.min_count, self.max_words, self.special)
        check_installed(f"data.tokens={self.tokens}")
        limits, kept = (self.min_count, self.max_words), list(texts)
        return FittedSubwords(fit_subwords(self.tokens, lambda: kept, self.special, limits, self.lowercase))

    def restore(self, fitted: Fitted) -> Words | TokenizerFile:
        """Restore the vocabulary from a result of `state_of`."""
        known = fitted.get("tokenizer")
        if known is None:
            return Words(fitted["words"], fitted["lowercase"], self.special)
        if self.tokenizer:
            return TokenizerFile(known)
        check_installed(f"data.tokens={self.tokens}")
        return FittedSubwords(known)


def state_of(vocabulary: Words | TokenizerFile) -> Fitted:
    """Return the state of a vocabulary: its words, or its tokenizer as JSON."""
    if isinstance(vocabulary, TokenizerFile):
        return {"tokenizer": vocabulary.content, "words": [], "lowercase": False}
    words = vocabulary.words[len(vocabulary.special) :]
    return {"tokenizer": None, "words": words, "lowercase": vocabulary.lowercase}

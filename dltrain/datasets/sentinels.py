"""Sentinels: tokens of a vocabulary that replace masked spans of a text."""

import re
from dataclasses import replace
from itertools import groupby

from dltrain.data.tokens import Tokens
from dltrain.datasets import vocabularies
from dltrain.datasets.vocabularies import Vocabulary

NAME = "<extra_id_{}>"  # as in published vocabularies of T5
WRITTEN = re.compile(r"<extra_id_(\d+)>")


class WithSentinels:
    """A vocabulary with additional tokens at its end: ``<extra_id_0>``, ``<extra_id_1>`` and so on.

    `encode`, used for training texts, reads names of sentinels as ordinary text; `encode_marked` converts them.

    Args:
        count: Number of sentinels, at least 0.
    """

    def __init__(self, vocabulary: Vocabulary, count: int) -> None:
        self.vocabulary, self.count, self.first = vocabulary, count, vocabulary.size
        self.size, self.content, self.encode = vocabulary.size + count, vocabulary.content, vocabulary.encode

    @property
    def tokens(self) -> Tokens:
        """The vocabulary as `Tokens`."""
        known = vocabularies.as_tokens(self)
        return replace(known, encode=self.encode_marked, sentinels=tuple(range(self.first, self.size)))

    def encode_marked(self, text: str) -> list[int]:
        """Return the tokens of a user's text, with names of sentinels converted to sentinels."""
        found, end = list[int](), 0
        for match in WRITTEN.finditer(text):
            if int(match[1]) < self.count:
                found += [*self.encode(text[end : match.start()]), self.first + int(match[1])]
                end = match.end()
        return found + self.encode(text[end:])

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens, with spaces between sentinels and other text."""
        parts = [
            " ".join(NAME.format(token - self.first) for token in group) if marks else self.vocabulary.decode([*group])
            for marks, group in groupby(tokens, key=lambda token: token >= self.first)
        ]
        return " ".join(part.strip() for part in parts) if len(parts) > 1 else "".join(parts)

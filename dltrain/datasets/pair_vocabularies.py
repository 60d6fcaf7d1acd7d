"""Vocabularies of the sources and targets of text pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from dltrain.datasets import vocabularies
from dltrain.datasets.sentinels import WithSentinels
from dltrain.datasets.tokenizer_file import read_tokenizer
from dltrain.datasets.vocabularies import FILE, Vocabulary
from dltrain.errors import ConfigError


@dataclass(frozen=True)
class PairVocabularies:
    """Settings of the vocabularies of sources and targets.

    Args:
        kind: ``words``, ``characters``, ``bpe``, ``wordpiece`` or ``file``.
        lowercase: Whether to convert texts to lower case.
        limits: ``min_count`` and ``max_words`` of `dltrain.datasets.parallel.Parallel`.
        shared: Whether sources and targets have one vocabulary.
        sentinels: Number of sentinels, the last tokens of each vocabulary.
    """

    kind: str
    lowercase: bool
    limits: tuple[int, int]
    shared: bool
    sentinels: int

    def fit(self, sides: Sequence[Sequence[str]], files: Sequence[str]) -> list[WithSentinels]:
        """Return the vocabularies of sources and targets, from tokenizer files or fitted to the training texts.

        Raises:
            ConfigError: The vocabularies are shared but the two tokenizers differ, a file cannot be read, or
                `dltrain.datasets.vocabularies.fit` fails.
        """
        return [WithSentinels(vocabulary, self.sentinels) for vocabulary in self._fit(sides, files)]

    def _fit(self, sides: Sequence[Sequence[str]], files: Sequence[str]) -> list[Vocabulary]:
        if files:
            contents = [read_tokenizer(file).content for file in files]
            if self.shared and contents[0] != contents[1]:
                reason = "data.tokenizer names two different tokenizers"
                raise ConfigError(f"data.shared_vocabulary: not supported because {reason}")
            return [vocabularies.restore(FILE, [content], self.lowercase) for content in contents]
        if self.shared:
            return [vocabularies.fit(self.kind, chain(*sides), self.lowercase, *self.limits)] * 2
        return [vocabularies.fit(self.kind, texts, self.lowercase, *self.limits) for texts in sides]

    def restore(self, contents: Sequence[Sequence[str]]) -> list[WithSentinels]:
        """Return the vocabularies with these contents."""
        restored = (vocabularies.restore(self.kind, content, self.lowercase) for content in contents)
        return [WithSentinels(vocabulary, self.sentinels) for vocabulary in restored]

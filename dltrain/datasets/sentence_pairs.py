"""Pairs of passages of a text: the second one follows the first one in its document, or is from another document."""

from typing import Any

from dltrain.data.checks import at_least, check_held_out, existing_file, user_path
from dltrain.data.spec import Fitted, Source, Spec, Splits
from dltrain.data.splits import held_out_size
from dltrain.datasets.describe import count, splits_line
from dltrain.datasets.input_vocabulary import VocabularySettings, state_of
from dltrain.datasets.next_sentences import Join, Passages, RandomSecond, encode_documents
from dltrain.datasets.sentences import SENTENCES, split_documents
from dltrain.datasets.text import BUNDLED
from dltrain.datasets.text_content import read_utf8
from dltrain.errors import ConfigError, choose, format_error

NAMES = ("training", "validation", "test")
MIN_LENGTH = 8


class SentencePairs:
    """Pairs of passages of a text; each split has consecutive documents of the text.

    In about half of the pairs, the second passage follows the first one in its document. In the other pairs, it starts
    at a random sentence of another document of the split. In training, second passages are drawn again in each epoch;
    in the other splits, they are the same in every run.

    Args:
        path: A text file in UTF-8, with blank lines between its documents; None for the bundled text, Moby Dick up to
            chapter 46, with each paragraph as a document.
        sentences: How documents are divided into sentences: ``punctuation`` or ``lines``.
        tokens: ``words``, or subwords that are fitted to the training documents: ``bpe`` or ``wordpiece``, as in BERT.
        tokenizer: File ``tokenizer.json`` of the package tokenizers; None to use ``tokens``.
        lowercase: Whether to convert texts to lower case, unless there is a ``tokenizer``.
        min_count: Minimum occurrences of a word, or of a pair of subwords to join, in the training texts, at least 1.
        max_words: Maximum number of words (without special tokens) or of subwords (with special tokens and all bytes or
            characters, which are always kept), at least 1.
        max_length: Number of tokens of a pair, including special tokens and padding, at least 8.
        validation: Fraction of the documents to hold out for validation, in [0, 1).
        test: Fraction of the documents, at the end, to hold out for testing, in (0, 1).
        batch_size: Pairs per batch, at least 1.
        workers: Unused: the text stays in memory.
        fitted: Result of `fit` in an earlier run; None fits to the training documents.

    Source: Devlin et al. 2019, "BERT", section 3.1, task 2, and appendix A.2.
    Differs: the first passage has up to half of the tokens instead of a random fraction.
    """

    def __init__(
        self,
        path: str | None = None,
        sentences: str = "punctuation",
        tokens: str = "words",
        tokenizer: str | None = None,
        lowercase: bool = True,
        min_count: int = 2,
        max_words: int = 10_000,
        max_length: int = 128,
        validation: float = 0.1,
        test: float = 0.1,
        batch_size: int = 32,
        workers: int = 0,
        fitted: Fitted | None = None,
    ) -> None:
        check_held_out(validation, test)
        self.path = user_path(path) if path else BUNDLED
        self.sentences = choose("data.sentences", sentences, {name: name for name in SENTENCES})
        if max_length < MIN_LENGTH:
            expected = f"at least {MIN_LENGTH}, for two passages and their special tokens"
            raise ConfigError(format_error("data.max_length", expected, max_length))
        self.max_length = max_length
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        vocabulary = VocabularySettings(tokens, tokenizer, lowercase, min_count, max_words)
        if fitted is None:
            if path:
                existing_file(path, "an existing text file")
            self.parts = self._split(self._read(), validation, test)
            texts = (sentence for document in self.parts[0] for sentence in document)
            self.words = vocabulary.fit(texts)
        else:
            self.words = vocabulary.restore(fitted)
        self.lines = list[str]()
        known = self.words.tokens
        if known.begin is None or known.end is None:
            expected = "a tokenizer with begin and end tokens, such as [CLS] and [SEP]"
            raise ConfigError(format_error("data.tokenizer", expected, tokenizer))
        # `features` stays None, so that only bert, which has an output for the class of a pair, accepts these data.
        self.spec = Spec(shape=(max_length,), length=max_length, tokens=known, sentence_pairs=True)

    def fit(self) -> Fitted:
        """Return the vocabulary or the tokenizer."""
        return state_of(self.words)

    def evaluation(self) -> Source:
        """Return pairs of all documents of the file."""
        existing_file(self.path, "an existing text file")
        return self._held_out(self._encode(self._read(), str(self.path)))

    def load(self) -> Splits:
        """Encode the documents, and return the splits."""
        train, val, test = encoded = [
            self._encode(part, f"the {name} split of {self.path}") if part else None
            for part, name in zip(self.parts, NAMES, strict=True)
        ]
        assert train is not None and test is not None, "checked in `_split`"
        source = Source(train.rows(drawn=False), Join(train), augment=RandomSecond(train))
        splits = Splits(source, None if val is None else self._held_out(val), self._held_out(test))
        sizes = {"training": len(source), "validation": len(splits.val or ()), "test": len(splits.test)}
        sentences = sum(len(part.sentences) for part in encoded if part is not None)
        documents = sum(len(part.counts) for part in encoded if part is not None)
        self.lines = [
            f"{self.path.name}: {count(documents, 'document')}, {count(sentences, 'sentence')}",
            f"vocabulary: {self.words.tokens.size:,} tokens",
            splits_line(sizes, "pairs"),
        ]
        return splits

    def describe(self) -> list[str]:
        """Return lines about the documents and the splits; empty before `load`."""
        return self.lines

    def _read(self) -> list[list[str]]:
        return split_documents(read_utf8(self.path, hint=""), self.sentences)

    def _split(self, documents: list[list[str]], validation: float, test: float) -> list[list[list[str]]]:
        held_out = [held_out_size(len(documents), share) for share in (validation, test)]
        first, second = len(documents) - sum(held_out), len(documents) - held_out[1]
        if first < 1:
            expected = f"at least two documents for each split, separated by blank lines, in {self.path}"
            raise ConfigError(format_error("data.path", expected, count(len(documents), "document")))
        return [documents[:first], documents[first:second], documents[second:]]

    def _encode(self, documents: list[list[str]], name: str) -> Passages:
        passages = encode_documents(documents, self.words.tokens, self.max_length)
        if len(passages.counts) < 2 or int(passages.counts.max()) < 2:
            needed = "at least two documents, separated by blank lines, and one with at least two sentences"
            expected = f"{needed} in {name}"
            most = int(passages.counts.max()) if len(passages.counts) else 0
            got = f"{count(len(passages.counts), 'document')} with at most {count(most, 'sentence')}"
            raise ConfigError(format_error("data.path", expected, got))
        return passages

    def _held_out(self, passages: Passages) -> Source:
        rows: Any = passages.rows(drawn=True)
        return Source(rows, Join(passages))

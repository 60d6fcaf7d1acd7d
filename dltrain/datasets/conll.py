"""Sentences with a tag for each word, from files with one word per line (CoNLL columns)."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.data.checks import at_least, check_held_out, existing_file
from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batch
from dltrain.data.plans import ByLength
from dltrain.data.ragged import Ragged, check_multiple, largest_width
from dltrain.data.spec import Fitted, Inputs, Source, Spec, Splits
from dltrain.data.splits import held_out_size, permutation
from dltrain.data.tokens import Tokens
from dltrain.datasets.conll_file import Sentence, read_sentences, read_words
from dltrain.datasets.describe import count, listed, splits_line
from dltrain.datasets.input_vocabulary import VocabularySettings, state_of
from dltrain.datasets.words import SPECIAL, Words
from dltrain.errors import ConfigError, format_error

MIN_SENTENCES = 3
NO_TAG = -1  # target of special tokens and of tokens that are not the first one of a word


class PrepareTags(nn.Module):
    """Module that converts rows of tokens and tags to the fields of a batch.

    Shape:
        tokens, starts and optional targets (B, T), and tokens_lengths (B,) -> inputs and targets (B, T) in int64,
        starts (B, T) in bool, and lengths (B,) in int64 on the CPU
    """

    def forward(self, rows: Batch) -> Batch:
        """Prepare a batch of padded sentences."""
        batch = {"inputs": rows["tokens"].long(), "lengths": rows["tokens_lengths"], "starts": rows["starts"].bool()}
        return {**batch, "targets": rows["targets"].long()} if "targets" in rows else batch


class Conll:
    """Sentences with a tag for each word; the splits are random but fixed.

    A file has one word per line, with columns separated by spaces or tabs, and an empty line after each sentence. Lines
    whose first column is ``-DOCSTART-`` are left out.

    Args:
        path: The file.
        word_column, tag_column: Indices of the word column and of the tag column, from 0; -1 is the last column,
            -2 the one before.
        tokens: ``words``, or subwords that are fitted to the training words: ``bpe`` or ``wordpiece``, as in BERT.
            The tag of a word is assigned to its first subword.
        lowercase: Whether to convert texts to lower case, unless there is a ``tokenizer``.
        min_count: Minimum occurrences of a word, or of a pair of subwords to join, in the training texts, at least 1.
        max_words: Maximum number of words (without special tokens) or of subwords (with special tokens and all bytes or
            characters, which are always kept), at least 1.
        max_length: Maximum number of tokens of a sentence, including begin and end tokens; longer sentences are
            truncated. At least 1, or 3 with a ``tokenizer``.
        tokenizer: File ``tokenizer.json`` of the package tokenizers; None to use ``tokens``.
        pad_multiple: Batches are padded to a multiple of this number of steps: 1, 2, 4 or 8.
        validation: Fraction of the sentences to hold out for validation, in [0, 1).
        test: Fraction of the sentences to hold out for testing, in (0, 1).
        batch_size: Sentences per batch, at least 1.
        workers: Unused: the sentences stay in memory.
        fitted: Result of `fit` in an earlier run; None fits the vocabulary to the training sentences and reads the tags
            of all sentences.
    """

    def __init__(
        self,
        path: str,
        word_column: int = 0,
        tag_column: int = -1,
        tokens: str = "words",
        lowercase: bool = True,
        min_count: int = 2,
        max_words: int = 20_000,
        max_length: int = 128,
        tokenizer: str | None = None,
        pad_multiple: int = 1,
        validation: float = 0.15,
        test: float = 0.15,
        batch_size: int = 32,
        workers: int = 0,
        fitted: Fitted | None = None,
    ) -> None:
        check_held_out(validation, test)
        self.path, self.columns = path, (word_column, tag_column)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.max_length = at_least("data.max_length", max_length, 3 if tokenizer else 1)
        self.prepare, self.pad_multiple = PrepareTags(), check_multiple(pad_multiple)
        vocabulary = VocabularySettings(tokens, tokenizer, lowercase, min_count, max_words, SPECIAL)
        if fitted is None:
            self.sentences = self._read()
            self.parts = self._split(validation, test)
            train = [self.sentences[row] for row in self.parts[0].tolist()]
            self.tags = sorted({tag for sentence in self.sentences for tag in sentence.tags})
            if len(self.tags) < 2:
                got = " ".join(self.tags)
                raise ConfigError(format_error("data.tag_column", "a column with at least two different tags", got))
            self.words = vocabulary.fit(_all_words(train), whole=True)
        else:
            self.tags, self.words = list(fitted["tags"]), vocabulary.restore(fitted)
        self.tokens: Tokens = self.words.tokens
        length = largest_width(max_length)
        self.spec = Spec(
            shape=(length,),
            length=length,
            features=self.tokens.size,
            tokens=self.tokens,
            tags=len(self.tags),
            tag_names=tuple(self.tags),
        )

    def fit(self) -> Fitted:
        """Return the vocabulary or the tokenizer, and the tags."""
        return {"tags": self.tags, **state_of(self.words)}

    def evaluation(self) -> Source:
        """Return all sentences of the file."""
        return self._source(self._read())

    def load(self) -> Splits:
        """Return the splits."""
        parts = [[self.sentences[row] for row in part.tolist()] for part in self.parts]
        train, val, test = (self._source(part) if part else None for part in parts)
        assert train is not None and test is not None, "the training and test splits have sentences"
        return Splits(train, val, test)

    def describe(self) -> list[str]:
        """Return lines about the sentences, the vocabulary, the tags and the splits."""
        encoded = [self.encode(sentence.words)[0] for sentence in self.sentences]
        held_out = [token for part in self.parts[1:] for row in part.tolist() for token in encoded[row]]
        unknown = sum(token == self.tokens.unknown for token in held_out)
        words = sum(len(sentence.words) for sentence in self.sentences)
        lines = [f"{Path(self.path).name}: {count(len(self.sentences), 'sentence')}, {count(words, 'word')}"]
        share = f"{unknown / max(1, len(held_out)):.1%} of the tokens of the validation and test splits are unknown"
        lines += [f"vocabulary: {self.tokens.size:,} tokens; {share}", f"tags: {len(self.tags)}: {listed(self.tags)}"]
        if cut := sum(len(tokens) > self.room for tokens in encoded):
            lines.append(f"{count(cut, 'sentence')} truncated to {count(self.room, 'token')} (data.max_length)")
        names = ("training", "validation", "test")
        return [
            *lines,
            splits_line({name: len(part) for name, part in zip(names, self.parts, strict=True)}, "sentences"),
        ]

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read files with one word per line, or a sentence from the command line with words separated by spaces."""
        if files.text is not None:
            yield self._inputs([files.text.split()], [{"input": "--text"}])
        if files.names or files.text is None:
            for file in InputFiles(files.names, None, files.batch_size).expand("a file with one word per line"):
                with file.errors_as_input():
                    found = read_words(file.read_bytes(), file.name, self.columns[0])
                    names: list[dict[str, Any]] = [{"input": file.name, "line": line} for line, _ in found]
                    yield self._inputs([words for _, words in found], names)

    def _inputs(self, sentences: list[list[str]], names: list[dict[str, Any]]) -> Inputs:
        rows = self._rows([Sentence(words, []) for words in sentences])
        del rows["targets"]
        named = [{**name, "words": words} for name, words in zip(names, sentences, strict=True)]
        return Inputs(rows, named)

    def _read(self) -> list[Sentence]:
        file = existing_file(self.path, "an existing file with one word per line")
        return read_sentences(file, *self.columns)

    def _split(self, validation: float, test: float) -> list[Tensor]:
        total = len(self.sentences)
        if total < MIN_SENTENCES:
            expected = f"at least {MIN_SENTENCES} sentences in {self.path}, separated by empty lines"
            raise ConfigError(format_error("data.path", expected, total))
        held_out = [held_out_size(total, validation), held_out_size(total, test)]
        return list(permutation(total).split([total - sum(held_out), *held_out]))

    @property
    def room(self) -> int:
        """Maximum number of tokens of a sentence without begin and end tokens."""
        return self.max_length - sum(token is not None for token in (self.tokens.begin, self.tokens.end))

    def encode(self, words: Iterable[str]) -> tuple[list[int], list[bool]]:
        """Return the tokens of words, and for each token whether it is the first one of a word."""
        tokens, starts = list[int](), list[bool]()
        for word in words:
            pieces = [self.words.number(word)] if isinstance(self.words, Words) else self.words.encode(word)
            pieces = pieces or [self.tokens.unknown or 0]
            tokens += pieces
            starts += [True, *[False] * (len(pieces) - 1)]
        return tokens, starts

    def _source(self, sentences: list[Sentence]) -> Source:
        rows = self._rows(sentences)
        return Source(dict(rows), self.prepare, plan=ByLength(rows["tokens"].lengths, multiple=self.pad_multiple))

    def _rows(self, sentences: list[Sentence]) -> dict[str, Ragged]:
        begin, end = ([] if token is None else [token] for token in (self.tokens.begin, self.tokens.end))
        numbers = {tag: number for number, tag in enumerate(self.tags)}
        columns: dict[str, list[list[int]]] = {"tokens": [], "starts": [], "targets": []}
        for sentence in sentences:
            tokens, starts = self.encode(sentence.words)
            tags = iter([self._number(numbers, tag) for tag in sentence.tags])
            targets = [next(tags, NO_TAG) if start else NO_TAG for start in starts]
            columns["tokens"].append([*begin, *tokens[: self.room], *end])
            columns["starts"].append([*[0] * len(begin), *map(int, starts[: self.room]), *[0] * len(end)])
            columns["targets"].append([*[NO_TAG] * len(begin), *targets[: self.room], *[NO_TAG] * len(end)])
        lengths = torch.tensor([len(row) for row in columns["tokens"]])
        pads = {"tokens": self.tokens.pad or 0, "starts": 0, "targets": NO_TAG}
        return {
            name: Ragged(torch.tensor([value for row in rows for value in row], dtype=torch.int32), lengths, pads[name])
            for name, rows in columns.items()
        }

    def _number(self, numbers: dict[str, int], tag: str) -> int:
        if tag not in numbers:
            raise ConfigError(format_error("data.tag_column", f"one of {listed(self.tags)}, as in training", tag))
        return numbers[tag]


def _all_words(sentences: Iterable[Sentence]) -> Iterator[str]:
    for sentence in sentences:
        yield from sentence.words

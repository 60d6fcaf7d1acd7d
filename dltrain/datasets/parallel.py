"""Parallel text: pairs of a source and a target, from a table with two columns or from two aligned files."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from dltrain.data.bad_samples import MAX_BAD_SAMPLES, BadSamples
from dltrain.data.checks import at_least, check_held_out, one_of
from dltrain.data.inputs import InputFile, InputFiles, errors_as
from dltrain.data.plans import ByLength
from dltrain.data.ragged import padded_width
from dltrain.data.spec import Fitted, Inputs, Source, Spec, Splits
from dltrain.data.splits import held_out_size, permutation
from dltrain.datasets import vocabularies
from dltrain.datasets.csv_file import csv_errors, iterate_tables
from dltrain.datasets.csv_table import Marks
from dltrain.datasets.describe import count, splits_line
from dltrain.datasets.parallel_files import TABLES, PairReader, Pairs
from dltrain.datasets.sequence_pairs import LINES, PreparePairs, as_ragged, encode_inputs, read_lines
from dltrain.datasets.subwords import tokenizer_files
from dltrain.datasets.tokenizer_file import read_tokenizer
from dltrain.datasets.vocabularies import FILE, Vocabulary
from dltrain.errors import ConfigError, format_error

KINDS = ("words", "characters", "bpe")
MIN_PAIRS = 3
Encoded = tuple[list[list[int]], list[list[int]]]  # sources, targets
SPLITS = ("training", "validation", "test")


class Parallel:
    """Pairs of texts, such as sentences and their translations; the splits are random but fixed.

    Both vocabularies are fitted to the training texts.

    Args:
        path: A table (CSV or TSV) with a column of sources and one of targets, or a list of two text files whose lines
            correspond: sources, targets.
        source, target: Columns of a table; None for the first two columns that do not hold numbers.
        header: Whether the first line of a table names the columns.
        tokens: ``words`` (and symbols), ``characters``, or ``bpe``: byte pair encoding, by the package tokenizers.
        tokenizer: A ``tokenizer.json`` of that package, which replaces ``tokens``, or a list of two, for sources and
            for targets; None for no such file.
        lowercase: Whether to convert texts to lower case, unless there is a ``tokenizer``.
        min_count: Minimum occurrences of a piece in the training texts, at least 1; rarer ones are unknown.
        max_words: Maximum number of pieces in each vocabulary, at least 1.
        shared_vocabulary: Whether sources and targets have one vocabulary, fitted to both.
        max_length: Maximum number of tokens of a text; pairs with a longer one are left out. At least 1.
        max_tokens: Maximum number of tokens per training batch including padding, of sources and of targets; replaces
            ``batch_size``. None to use ``batch_size``.
        validation: Fraction of the pairs to hold out for validation, in [0, 1).
        test: Fraction of the pairs to hold out for testing, in (0, 1).
        batch_size: Pairs per step, at least 1.
        workers: Unused: the texts stay in memory.
        on_bad_sample: Policy for unreadable lines and pairs with an empty text: ``stop`` or ``skip``.
        max_bad_samples: Maximum number of them to skip before the run stops, at least 1.
        fitted: Result of `fit` in an earlier run; None fits to the training texts.
    """

    def __init__(
        self,
        path: str | list[str],
        source: str | None = None,
        target: str | None = None,
        header: bool = True,
        tokens: str = "words",
        tokenizer: str | list[str] | None = None,
        lowercase: bool = True,
        min_count: int = 2,
        max_words: int = 20_000,
        shared_vocabulary: bool = False,
        max_length: int = 64,
        max_tokens: int | None = None,
        validation: float = 0.05,
        test: float = 0.05,
        batch_size: int = 64,
        workers: int = 0,
        on_bad_sample: str = "stop",
        max_bad_samples: int = MAX_BAD_SAMPLES,
        fitted: Fitted | None = None,
    ) -> None:
        check_held_out(validation, test)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.max_length = at_least("data.max_length", max_length, 1)
        width = padded_width(torch.tensor([max_length + 1]))
        if max_tokens is not None:
            at_least("data.max_tokens", max_tokens, width)
        self.max_tokens = max_tokens
        self.kind = FILE if tokenizer else one_of("data.tokens", tokens, KINDS)
        self.lowercase = lowercase
        self.bad = BadSamples(on_bad_sample, max_bad_samples)
        self.reader = PairReader(path, source, target, header, self.bad)
        self.prepare = PreparePairs()
        limits = at_least("data.min_count", min_count, 1), at_least("data.max_words", max_words, 1)
        if fitted is None:
            self._fit((validation, test), limits, tokenizer_files(tokenizer), shared_vocabulary)
        else:
            self._adopt(fitted)
        known = [vocabularies.as_tokens(vocabulary) for vocabulary in self.vocabularies]
        longest = padded_width(torch.tensor([max_length]))
        self.spec = Spec(
            shape=(longest,),
            length=longest,
            target_length=width,
            tokens=known[0],
            target_tokens=known[1],
            shared_vocabulary=self.vocabularies[0].content == self.vocabularies[1].content,
        )

    def _fit(self, shares: tuple[float, float], limits: tuple[int, int], files: list[str], is_shared: bool) -> None:
        """Read and split the pairs, fit the vocabularies, and leave out pairs with a long text."""
        self.pairs = self.reader.read()
        self.columns = self.pairs.columns
        if len(self.pairs.sources) < MIN_PAIRS:
            got = len(self.pairs.sources)
            raise ConfigError(format_error("data.path", f"at least {MIN_PAIRS} pairs in {self.pairs.name}", got))
        order = permutation(len(self.pairs.sources))
        held_out = [held_out_size(len(order), share) for share in shares]
        parts = order.split([len(order) - sum(held_out), *held_out])
        train = parts[0].tolist()
        sides = [[texts[row] for row in train] for texts in (self.pairs.sources, self.pairs.targets)]
        self.vocabularies = self._make_vocabularies(sides, limits, files, is_shared)
        self.encoded = self._encode(self.pairs)
        lengths = [torch.tensor([len(tokens) for tokens in side]) for side in self.encoded]
        self.is_short = torch.maximum(*lengths) <= self.max_length
        self.parts = [part[self.is_short[part]] for part in parts]
        for name, part, share in zip(SPLITS, self.parts, (1, *shares), strict=True):
            if share and not len(part):
                expected = "a length that some texts of each split do not exceed"
                hint = f"All pairs of the {name} split have a longer text."
                raise ConfigError(format_error("data.max_length", expected, self.max_length, hint))

    def _make_vocabularies(
        self, sides: list[list[str]], limits: tuple[int, int], files: list[str], is_shared: bool
    ) -> list[Vocabulary]:
        """Return the vocabularies of sources and targets, from tokenizer files or fitted to the training texts."""
        if files:
            contents = [read_tokenizer(file).content for file in files]
            if is_shared and contents[0] != contents[1]:
                reason = "data.tokenizer names two different tokenizers"
                raise ConfigError(f"data.shared_vocabulary: not supported because {reason}")
            return [vocabularies.restore(FILE, [content], self.lowercase) for content in contents]
        if is_shared:
            return [vocabularies.fit(self.kind, chain(*sides), self.lowercase, *limits)] * 2
        return [vocabularies.fit(self.kind, texts, self.lowercase, *limits) for texts in sides]

    def fit(self) -> Fitted:
        """Return the vocabularies, the columns, and the file's delimiter, decimal mark and quoting."""
        return {
            "vocabularies": [vocabulary.content for vocabulary in self.vocabularies],
            "columns": self.columns,
            "marks": list(self.reader.notation.trained_on or ()),
        }

    def _adopt(self, fitted: Fitted) -> None:
        contents = fitted["vocabularies"]
        self.vocabularies = [vocabularies.restore(self.kind, content, self.lowercase) for content in contents]
        self.columns = list(fitted["columns"])
        marks = Marks(*fitted["marks"]) if fitted["marks"] else None
        self.reader.notation = replace(self.reader.notation, trained_on=marks)
        if self.columns and len(self.reader.paths) == 1:
            self.reader.columns = self.columns[0], self.columns[1]

    def evaluation(self) -> Source:
        """Return all pairs of the file or files, long ones included."""
        return self._source(self._encode(self.reader.read()), None)

    def load(self) -> Splits:
        """Return the splits."""
        train, val, test = (self._source(self.encoded, part, by_length=part is self.parts[0]) for part in self.parts)
        return Splits(train, val if len(val) else None, test)

    def describe(self) -> list[str]:
        """Return lines about the pairs, both texts and the splits."""
        lines = [f"{self.pairs.name}: {count(len(self.is_short), 'pair')}"]
        for name, side, vocabulary in zip(("sources", "targets"), self.encoded, self.vocabularies, strict=True):
            lengths = np.array([len(tokens) for tokens in side])
            held_out = [token for part in self.parts[1:] for row in part.tolist() for token in side[row]]
            unknown = held_out.count(vocabularies.UNKNOWN) / max(1, len(held_out))
            lines.append(
                f"{name}: {lengths.min()} to {lengths.max()} tokens ({lengths.mean():.0f} on average), vocabulary of "
                f"{vocabulary.size:,}, {unknown:.1%} of the tokens of validation and test unknown"
            )
        if long := int((~self.is_short).sum()):
            lines.append(
                f"{count(long, 'pair')} left out: a text has more than {self.max_length} tokens (data.max_length)"
            )
        sources = self.pairs.sources
        trained = {sources[row] for row in self.parts[0].tolist()}
        if copies := sum(sources[row] in trained for part in self.parts[1:] for row in part.tolist()):
            lines.append(f"{count(copies, 'source')} of the validation and test splits are also in the training split")
        return [*lines, splits_line({name: len(part) for name, part in zip(SPLITS, self.parts, strict=True)}, "pairs")]

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read one source per line of a text file, the column of sources of a table, or a text on the command line."""
        if files.text is not None:
            with errors_as("--text"):
                yield encode_inputs([files.text], [{"input": "--text"}], self.vocabularies[0])
        if files.names or files.text is None:
            for file in InputFiles(files.names, None, files.batch_size).expand(
                "a text file or table", (*LINES, *TABLES)
            ):
                with file.errors_as_input():
                    is_table = bool(self.columns) and file.suffix in TABLES
                    read = self._read_table if is_table else read_lines
                    yield from read(file, files.batch_size, self.vocabularies[0])

    def _read_table(self, file: InputFile, size: int, vocabulary: Vocabulary) -> Iterator[Inputs]:
        with csv_errors(file.path), file.open_text() as lines:
            for table in iterate_tables(lines, file.path, size, self.reader.notation):
                cells = table.columns[table.indices_of(self.columns[:1])[0]]
                names: list[dict[str, object]] = [{"input": file.name, "line": line} for line in table.lines.tolist()]
                yield encode_inputs([cells[row] for row in range(len(table))], names, vocabulary)

    def _encode(self, pairs: Pairs) -> Encoded:
        """Return the tokens of all sources and of all targets."""
        source, target = self.vocabularies
        return [source.encode(text) for text in pairs.sources], [target.encode(text) for text in pairs.targets]

    def _source(self, encoded: Encoded, part: Tensor | None, by_length: bool = False) -> Source:
        """Return pairs as a split, in batches of similar length or in their own order, whose start is a fair sample.

        The targets come first, because their outputs need the most memory.
        """
        rows = range(len(encoded[0])) if part is None else part.tolist()
        source, target = ([side[row] for row in rows] for side in encoded)
        ragged = {"target": as_ragged(target, end=True), "source": as_ragged(source)}
        lengths = torch.maximum(ragged["source"].lengths, ragged["target"].lengths)
        return Source(ragged, self.prepare, plan=ByLength(lengths, self.max_tokens) if by_length else None)

"""Table with two columns of texts and a class or a number for each pair, as in entailment."""

from collections.abc import Iterable, Iterator
from dataclasses import astuple, replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from dltrain.data.checks import at_least, check_held_out, existing_file
from dltrain.data.inputs import InputFile, InputFiles
from dltrain.data.loader import Batch
from dltrain.data.plans import ByLength
from dltrain.data.ragged import Ragged, check_multiple, largest_width
from dltrain.data.spec import Fitted, Inputs, Source, Spec, Splits
from dltrain.datasets.csv_file import Notation, csv_errors, iterate_tables, read_csv
from dltrain.datasets.csv_table import Marks, Table, reject_missing
from dltrain.datasets.describe import count, splits_line
from dltrain.datasets.input_vocabulary import VocabularySettings, state_of
from dltrain.datasets.text_columns import TextTarget, choose_pair, choose_target, fit_target, split_rows
from dltrain.datasets.text_encoder import PairEncoder
from dltrain.datasets.text_file import JSON, iterate_json
from dltrain.errors import ConfigError, format_error

MIN_ROWS, MIN_LENGTH = 3, 8
SUFFIXES = (".csv", ".tsv", *JSON)


class PrepareTextPairs(nn.Module):
    """Module that converts pairs of texts to the inputs of a model.

    Shape: tokens and segments (B, T), their lengths (B,), and any other fields -> inputs and segments int64 (B, T),
    lengths int64 (B,) on the CPU, and the other fields.
    """

    def forward(self, rows: Batch) -> Batch:
        """Prepare a batch of padded pairs."""
        others = {name: value for name, value in rows.items() if not name.startswith(("tokens", "segments"))}
        fields = {"inputs": rows["tokens"].long(), "segments": rows["segments"].long()}
        return {**fields, "lengths": rows["tokens_lengths"], **others}


class TextPairs:
    """Pairs of texts with a class or a number for each pair; the splits are random but fixed.

    A pair is read as one sequence: begin token, first text, end token, second text, end token. If it is too long, the
    longer text is truncated, or both texts if each has more than about half of `max_length` tokens. The column to
    predict is read as in `dltrain.datasets.text_table`.

    Args:
        path: A CSV or TSV file, or a JSON lines file (``.jsonl``).
        first, second: Columns of texts; None for the only two columns that look like texts.
        column: Column to predict; None for the only other column that holds neither identifiers nor texts.
        header: Whether the first line of a table names the columns.
        tokens: ``words``, or subwords that are fitted to the training texts: ``bpe`` or ``wordpiece``, as in BERT.
        lowercase: Whether to convert texts to lower case, unless there is a ``tokenizer``.
        min_count: Minimum occurrences of a word, or of a pair of subwords to join, in the training texts, at least 1.
        max_words: Maximum number of words (without special tokens) or of subwords (with special tokens and all bytes or
            characters, which are always kept), at least 1.
        max_length: Maximum number of tokens of a pair, including special tokens, at least 8.
        tokenizer: File ``tokenizer.json`` of the package tokenizers; None to use ``tokens``.
        pad_multiple: Batches are padded to a multiple of this number of steps: 1, 2, 4 or 8.
        validation: Fraction of the pairs to hold out for validation, in [0, 1).
        test: Fraction of the pairs to hold out for testing, in (0, 1).
        batch_size: Pairs per batch, at least 1.
        workers: Unused: the texts stay in memory.
        fitted: Result of `fit` in an earlier run; None to fit on the training texts.
    """

    def __init__(
        self,
        path: str,
        first: str | None = None,
        second: str | None = None,
        column: str | None = None,
        header: bool = True,
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
        self.path, self.notation, self.prepare = path, Notation(header), PrepareTextPairs()
        self.batch_size, self.pad_multiple = at_least("data.batch_size", batch_size, 1), check_multiple(pad_multiple)
        self.workers = at_least("data.workers", workers, 0)
        if max_length < MIN_LENGTH:
            expected = f"at least {MIN_LENGTH}, for two texts and their special tokens"
            raise ConfigError(format_error("data.max_length", expected, max_length))
        vocabulary = VocabularySettings(tokens, tokenizer, lowercase, min_count, max_words)
        if fitted is None:
            self._fit((first, second), column, (validation, test))
            texts = chain.from_iterable(self._texts(self.table, self.parts[0].tolist()))
            self.words = vocabulary.fit(texts)
        else:
            self.words = vocabulary.restore(fitted)
            self.names, self.target = tuple(fitted["names"]), TextTarget(*fitted["target"])
            marks = Marks(*fitted["marks"]) if fitted["marks"] else None
            self.notation = replace(self.notation, trained_on=marks)
        self.encoder = PairEncoder(self.words.tokens, max_length)
        length = largest_width(max_length)
        known = self.words.tokens
        self.spec = Spec(shape=(length,), length=length, features=known.size, tokens=known, **self.target.facts)

    def _fit(self, names: tuple[str | None, str | None], column: str | None, shares: tuple[float, float]) -> None:
        """Read and split the pairs, and fit the target to the training pairs."""
        self.table = self._read()
        if len(self.table) < MIN_ROWS:
            raise ConfigError(format_error("data.path", f"at least {MIN_ROWS} pairs in {self.path}", len(self.table)))
        pair = choose_pair(self.table, *names)
        self.names = tuple(self.table.header[text] for text in pair)
        self.column = choose_target(self.table, column, *pair)
        every = fit_target(self.table, self.column, torch.arange(len(self.table)).numpy(), None)
        labels = every.encode(self.table, self.column)["targets"].numpy() if every.classes else None
        self.parts: list[Tensor] = split_rows(labels, len(self.table), *shares)
        self.target = fit_target(self.table, self.column, self.parts[0].numpy(), None)

    def fit(self) -> Fitted:
        """Return the vocabulary or tokenizer, the columns, the target and the file's `Marks`."""
        return {
            **state_of(self.words),
            "names": list(self.names),
            "target": list(astuple(self.target)),
            "marks": list(self.notation.trained_on or ()),
        }

    def evaluation(self) -> Source:
        """Return all pairs of the file."""
        table = self._read()
        *_, column = table.indices_of([*self.names, self.target.name], "data.path")
        reject_missing(table, [column], "Remove such rows from the file")
        return self._source(table, column, torch.arange(len(table)))

    def load(self) -> Splits:
        """Encode the pairs, and return the splits."""
        train, val, test = (self._source(self.table, self.column, part) for part in self.parts)
        return Splits(train, val if len(val) else None, test)

    def describe(self) -> list[str]:
        """Return lines about the pairs and the splits."""
        sizes = dict(zip(("training", "validation", "test"), map(len, self.parts), strict=True))
        kinds = f", {len(self.target.classes)} classes" if self.target.classes else ""
        return [
            f"{Path(self.path).name}: {count(len(self.table), 'pair')}, texts {' and '.join(self.names)}",
            f"vocabulary: {self.words.tokens.size:,} tokens",
            f"to predict: {self.target.name}{kinds}",
            splits_line(sizes, "pairs"),
        ]

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read tables with both columns of texts."""
        for file in files.expand("a CSV or JSON lines file", SUFFIXES):
            with file.errors_as_input():
                yield from self._file_inputs(file, files.batch_size)

    def _file_inputs(self, file: InputFile, size: int) -> Iterator[Inputs]:
        with csv_errors(file.path), file.open_text() as lines:
            if file.suffix in JSON:
                tables = iterate_json(lines, file.path, size, list(self.names))
            else:
                tables = iterate_tables(lines, file.path, size, self.notation)
            for table in tables:
                rows = self.encoder.rows(self._texts(table, range(len(table))))
                names: list[dict[str, object]] = [{"input": file.name, "line": line} for line in table.lines.tolist()]
                yield Inputs({**rows, **self.target.units(len(table))}, names)

    def _read(self) -> Table:
        file = existing_file(self.path, "an existing CSV or JSON lines file")
        if file.suffix.casefold() not in JSON:
            table = read_csv(file, self.notation)
            self.notation = replace(self.notation, trained_on=table.marks)
            return table
        with csv_errors(file), file.open(encoding="utf-8-sig") as lines:
            return next(iterate_json(lines, file, None))

    def _texts(self, table: Table, rows: Iterable[int]) -> Iterator[tuple[str, str]]:
        """Yield the two texts of each row in `rows`.

        Raises:
            ConfigError: A text is empty.
        """
        first, second = table.indices_of(self.names, "data.path")
        for row in rows:
            texts = table.columns[first][row], table.columns[second][row]
            if not all(text.strip() for text in texts):
                empty = first if not texts[0].strip() else second
                expected = f"a text in {table.describe_cell(empty, row)}"
                raise ConfigError(
                    format_error("data.path", expected, "an empty text", "Remove such rows from the file.")
                )
            yield texts

    def _source(self, table: Table, column: int, part: Tensor) -> Source:
        rows = self.encoder.rows(self._texts(table, part.tolist()))
        targets = {name: value[part] for name, value in self.target.encode(table, column).items()}
        fields: dict[str, Tensor | Ragged] = {**rows, **targets}
        return Source(fields, self.prepare, plan=ByLength(rows["tokens"].lengths, multiple=self.pad_multiple))

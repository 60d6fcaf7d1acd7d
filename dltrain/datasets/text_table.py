"""Texts with a class or a number each: a table with a column of texts, or folders of text files."""

from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dltrain.data.bad_samples import MAX_BAD_SAMPLES, BadSamples
from dltrain.data.checks import at_least, check_held_out, existing_file, one_of
from dltrain.data.inputs import InputFile, InputFiles
from dltrain.data.plans import ByLength, FixedSize
from dltrain.data.ragged import Ragged, check_multiple, largest_width
from dltrain.data.spec import Fitted, Inputs, Source, Spec, Splits
from dltrain.datasets.cells import Cells
from dltrain.datasets.csv_file import Notation, csv_errors, iterate_tables, read_csv
from dltrain.datasets.csv_table import Marks, Table, reject_missing
from dltrain.datasets.document_frequency import inverse_document_frequency
from dltrain.datasets.image_layout import TEST, TRAIN, VAL
from dltrain.datasets.input_vocabulary import VocabularySettings, state_of
from dltrain.datasets.text_columns import TextTarget, choose_target, choose_text, fit_target, limit_rows, split_rows
from dltrain.datasets.text_encoder import PrepareTexts, TextEncoder
from dltrain.datasets.text_file import JSON, TEXT, iterate_json, read_folders, read_text
from dltrain.datasets.text_report import describe_file, describe_texts
from dltrain.datasets.words import MORE_SPECIAL, SPECIAL
from dltrain.errors import ConfigError, format_error

MIN_ROWS = 3
SUFFIXES = (".csv", ".tsv", *JSON, *TEXT)


class TextTable:
    """Texts with a class or a number each; the splits are random but fixed, unless there are folders for them.

    A text is a sequence of words or subwords; the vocabulary is fitted to the training texts unless there is a
    ``tokenizer``. If the column to predict has words, they are classes. If it has numbers, they are regression targets,
    and also classes if ``threshold`` is set or there are at most 20 distinct values, all of them whole numbers.

    Args:
        path: A CSV file (commas, semicolons, tabs or vertical bars), a JSON lines file (``.jsonl``), or a folder with
            ``.txt`` files in ``<class>/``, or in ``train/<class>/``, ``val/<class>/`` and ``test/<class>/``.
        text: Column of texts; None for the only column that looks like texts.
        column: Column to predict; None for the only other column that holds neither identifiers nor texts.
        header: Whether the first line of a table names the columns.
        threshold: Split numbers into two classes: at most this value, and above it. None to disable.
        tokens: ``words``, or subwords: ``bpe`` or ``wordpiece``, as in BERT.
        lowercase: Whether to convert texts to lower case, unless there is a ``tokenizer``.
        min_count: Minimum occurrences of a word, or of a pair of subwords to join, in the training texts, at least 1.
        max_words: Maximum number of words (without special tokens) or of subwords (with special tokens and all bytes or
            characters, which are always kept), at least 1.
        max_length: Maximum number of tokens of a text; longer texts are truncated. At least 1; at least 3 with
            ``special_tokens`` or a ``tokenizer``.
        tokenizer: File ``tokenizer.json`` of the package tokenizers; None to use ``tokens``.
        special_tokens: Whether to add begin and end tokens, which count in ``max_length``, to each text, and a mask
            token to the vocabulary; bert and masked language modeling need them. A ``tokenizer`` has its own special
            tokens.
        batching: Training texts in a batch: ``length`` for texts of similar length, ``random`` for random texts.
        max_tokens: Maximum number of tokens per batch including padding; replaces ``batch_size``. None to use
            ``batch_size``.
        num_labels: Number of training texts to keep, at least 1; every run keeps the same texts. Each class keeps the
            same fraction of its texts, to within one text. The vocabulary is still fitted to all training texts. None
            keeps all.
        pad_multiple: Batches are padded to a multiple of this number of steps: 1, 2, 4 or 8.
        validation: Fraction to hold out for validation, in [0, 1), unless there is a folder ``val``.
        test: Fraction to hold out for testing, in (0, 1), unless there is a folder ``test``.
        batch_size: Texts per batch, at least 1.
        workers: Unused: the texts stay in memory.
        on_bad_sample: Policy for unreadable lines and files: ``stop`` or ``skip``.
        max_bad_samples: Maximum number of lines and files to skip before the run stops, at least 1.
        fitted: Result of `fit` in an earlier run; None fits to the training texts.
    """

    describe_file = staticmethod(describe_file)

    def __init__(
        self,
        path: str,
        text: str | None = None,
        column: str | None = None,
        header: bool = True,
        threshold: float | None = None,
        tokens: str = "words",
        lowercase: bool = True,
        min_count: int = 2,
        max_words: int = 20_000,
        max_length: int = 256,
        tokenizer: str | None = None,
        special_tokens: bool = False,
        batching: str = "length",
        max_tokens: int | None = None,
        num_labels: int | None = None,
        pad_multiple: int = 1,
        validation: float = 0.15,
        test: float = 0.15,
        batch_size: int = 64,
        workers: int = 0,
        on_bad_sample: str = "stop",
        max_bad_samples: int = MAX_BAD_SAMPLES,
        fitted: Fitted | None = None,
    ) -> None:
        check_held_out(validation, test)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.max_length = at_least("data.max_length", max_length, 3 if special_tokens or tokenizer else 1)
        special = MORE_SPECIAL if special_tokens else SPECIAL
        self.vocabulary = VocabularySettings(tokens, tokenizer, lowercase, min_count, max_words, special)
        self.by_length = one_of("data.batching", batching, ("length", "random")) == "length"
        self.num_labels = None if num_labels is None else at_least("data.num_labels", num_labels, 1)
        self.max_tokens, self.pad_multiple = max_tokens, check_multiple(pad_multiple)
        self.bad = BadSamples(on_bad_sample, max_bad_samples)
        self.notation = Notation(header)
        self.path = path
        self.prepare = PrepareTexts()
        self._check_max_tokens()
        if fitted is None:
            self._fit(text, column, threshold, (validation, test))
        else:
            self._adopt(fitted)
        self.encoder = TextEncoder(self.words.tokens, max_length, self.vocabulary.name)
        length = largest_width(max_length)
        self.spec = Spec(
            shape=(length,),
            length=length,
            features=self.encoder.tokens.size,
            tokens=self.encoder.tokens,
            idf=self._count_texts() if fitted is None else fitted.get("idf"),
            **self.target.facts,
        )

    def _fit(
        self,
        text: str | None,
        column: str | None,
        threshold: float | None,
        shares: tuple[float, float],
    ) -> None:
        """Read and split the texts, and fit the vocabulary and the target to the training texts."""
        self.table, folders = self._read()
        if len(self.table) < MIN_ROWS:
            raise ConfigError(format_error("data.path", f"at least {MIN_ROWS} texts in {self.path}", len(self.table)))
        self.text = choose_text(self.table, text)
        self.column = choose_target(self.table, column, self.text)
        self.parts = self._split(folders, threshold, *shares)
        self.train = self.parts[TRAIN]
        train = self.train.numpy()
        self.target = fit_target(self.table, self.column, train, threshold)
        self.text_name, cells = self.table.header[self.text], self.table.columns[self.text]
        self.words = self.vocabulary.fit(cells[row] for row in train)

    def _count_texts(self) -> Tensor:
        """Encode the texts, and return the inverse document frequency of each token in the training texts."""
        self.encoded, tokens = self._encode(self.table.columns[self.text]), self.encoder.tokens
        special = (tokens.pad, tokens.unknown, tokens.begin, tokens.end, tokens.mask)
        ignored = [token for token in special if token is not None]
        return inverse_document_frequency(self.encoded[self.parts[TRAIN]], tokens.size, ignored)

    def fit(self) -> Fitted:
        """Return the vocabulary, inverse document frequencies, the text column, the target and the file's `Marks`."""
        return {
            **state_of(self.words),
            "text": self.text_name,
            "target": list(astuple(self.target)),
            "marks": list(self.notation.trained_on or ()),
            "idf": self.spec.idf,
        }

    def _adopt(self, fitted: Fitted) -> None:
        self.words = self.vocabulary.restore(fitted)
        self.text_name, self.target = fitted["text"], TextTarget(*fitted["target"])
        marks = Marks(*fitted["marks"]) if fitted["marks"] else None
        self.notation = replace(self.notation, trained_on=marks)

    def evaluation(self) -> Source:
        """Return all texts of the file or folder. Only the text column and the target column are needed."""
        table, _ = self._read()
        text, column = table.indices_of([self.text_name, self.target.name])
        reject_missing(table, [column], "Remove such rows from the file")
        rows: dict[str, Tensor | Ragged] = {"tokens": self._encode(table.columns[text])}
        rows |= self.target.encode(table, column)
        return self._source(rows, torch.arange(len(table)), by_length=True)

    def load(self) -> Splits:
        """Encode the texts, and return the splits."""
        rows: dict[str, Tensor | Ragged] = {"tokens": self.encoded}
        rows |= self.target.encode(self.table, self.column)
        self.parts = {**self.parts, TRAIN: self._labeled(rows["targets"])}
        train, val, test = (
            self._source(rows, self.parts[split], self.by_length or split != TRAIN) for split in (TRAIN, VAL, TEST)
        )
        return Splits(train, val if len(val) else None, test)

    def describe(self) -> list[str]:
        """Return lines about the texts, the vocabulary, the column to predict and the splits."""
        return describe_texts(self.table, self.text, self.target, self.column, self.encoder, self.parts)

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read tables with the column of texts, text files, or a text from the command line."""
        if files.text is not None:
            yield self._inputs([files.text], [{"input": "--text"}])
        if files.names or files.text is None:
            expected = "a CSV, JSON lines or text file"
            for file in InputFiles(files.names, None, files.batch_size).expand(expected, SUFFIXES):
                with file.errors_as_input():
                    yield from self._file_inputs(file, files.batch_size)

    def _file_inputs(self, file: InputFile, size: int) -> Iterator[Inputs]:
        if file.suffix in TEXT:
            yield self._inputs([read_text(file.path) or ""], [{"input": file.name}])
            return
        name = self.text_name
        with csv_errors(file.path), file.open_text() as lines:
            if file.suffix in JSON:
                tables = iterate_json(lines, file.path, size, [name])
            else:
                tables = iterate_tables(lines, file.path, size, self.notation)
            for table in tables:
                if name not in table.header:
                    expected = f"the column {name} in {file.path}, as in training"
                    raise ConfigError(format_error("data.text", expected, f"the columns {', '.join(table.header)}"))
                column = table.columns[table.index_of(name)]
                names = [{"input": file.name, "line": line} for line in table.lines.tolist()]
                yield self._inputs([column[row] for row in range(len(table))], names)

    def _inputs(self, texts: list[str], names: list[dict[str, object]]) -> Inputs:
        encoded = [self.encoder.encode(text) for text in texts]
        for name, tokens in zip(names, encoded, strict=True):
            name["unread_words"] = max(0, len(tokens) - self.encoder.room)
        return Inputs({"tokens": self.encoder.rows(encoded), **self.target.units(len(texts))}, names)

    def _read(self) -> tuple[Table, dict[str, np.ndarray]]:
        """Return the texts as a table, and the rows of each split that has a folder."""
        path, folder = self.path, Path(self.path).expanduser()
        if folder.is_dir():
            table, parts = read_folders(folder, self.bad)
        else:
            file, parts = existing_file(path, "an existing CSV or JSON lines file, or a folder"), {}
            table = self._read_json(file) if file.suffix.casefold() in JSON else self._read_csv(file)
        return table, parts

    def _read_csv(self, file: Path) -> Table:
        table = read_csv(file, self.notation, self.bad)
        self.notation = replace(self.notation, trained_on=table.marks)
        return table

    def _read_json(self, file: Path) -> Table:
        with csv_errors(file), file.open(encoding="utf-8-sig") as lines:
            return next(iterate_json(lines, file, None, bad=self.bad))

    def _split(
        self, folders: dict[str, np.ndarray], threshold: float | None, validation: float, test: float
    ) -> dict[str, Tensor]:
        """Return the rows of each split: from its folder, or held out of the training texts."""
        given = {split: torch.from_numpy(rows) for split, rows in folders.items()}
        rows = given.pop(TRAIN, torch.arange(len(self.table)))
        target = fit_target(self.table, self.column, np.arange(len(self.table)), threshold)
        labels = target.encode(self.table, self.column)["targets"][rows].numpy() if target.classes else None
        shares = (0.0 if split in given else share for split, share in ((VAL, validation), (TEST, test)))
        parts = [rows[part] for part in split_rows(labels, len(rows), *shares)]
        return {**dict(zip((TRAIN, VAL, TEST), parts, strict=True)), **given}

    def _labeled(self, targets: Tensor | Ragged) -> Tensor:
        """Return the training rows to keep; see ``num_labels``."""
        rows = self.train
        if self.num_labels is None:
            return rows
        assert isinstance(targets, Tensor), "one target per text"
        return limit_rows(rows, targets[rows] if self.target.classes else None, self.num_labels)

    def _check_max_tokens(self) -> None:
        if self.max_tokens is None:
            return
        if not self.by_length:
            raise ConfigError(format_error("data.max_tokens", "null with data.batching=random", self.max_tokens))
        at_least("data.max_tokens", self.max_tokens, largest_width(self.max_length))

    def _source(self, rows: dict[str, Tensor | Ragged], part: Tensor, by_length: bool) -> Source:
        own = {name: value[part] for name, value in rows.items()}
        tokens = own["tokens"]
        assert isinstance(tokens, Ragged)
        plan = ByLength(tokens.lengths, self.max_tokens, self.pad_multiple)
        return Source(own, self.prepare, plan=plan if by_length else FixedSize(self.pad_multiple))

    def _encode(self, cells: Cells) -> Ragged:
        encoded = [self.encoder.encode(word) for word in cells.words]
        return self.encoder.rows(encoded[code] for code in cells.codes)

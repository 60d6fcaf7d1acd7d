"""Parallel text: pairs of a source and a target, from two columns of a table or from two aligned files."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from dltrain.data.bad_samples import MAX_BAD_SAMPLES, BadSamples
from dltrain.data.checks import at_least, check_held_out, one_of
from dltrain.data.inputs import InputFiles, errors_as
from dltrain.data.plans import JITTER, ByLength
from dltrain.data.ragged import Ragged, check_multiple, largest_width
from dltrain.data.spec import Fitted, Inputs, Source, Spec, Splits
from dltrain.data.splits import held_out_size, permutation
from dltrain.datasets.pair_files import PairFiles, join
from dltrain.datasets.pair_report import SPLITS, PairReport
from dltrain.datasets.pair_vocabularies import PairVocabularies
from dltrain.datasets.parallel_files import TABLES, Pairs
from dltrain.datasets.sequence_pairs import LINES, PreparePairs, SourceEncoder, as_ragged, encode_inputs
from dltrain.datasets.subword_training import NAMES
from dltrain.datasets.subwords import tokenizer_files
from dltrain.datasets.vocabularies import FILE
from dltrain.errors import ConfigError, format_error

KINDS = ("words", "characters", *NAMES)
MIN_PAIRS = 3
EncodedPairs = tuple[list[list[int]], list[list[int]]]  # sources, targets


class Parallel:
    """Pairs of texts, such as sentences and their translations; the splits are random but fixed.

    Both vocabularies are fitted to the training texts, unless there is a ``tokenizer``.

    Args:
        path: A table (CSV, TSV or JSON lines) with a column of sources and one of targets, a list of tables, or a list
            of two text files whose lines correspond: sources, targets.
        source, target: Columns of a table, or a list with one for each table; None for the first unused column that
            does not hold numbers.
        header: Whether the first line of a table names the columns.
        prefix: Name of the task, such as ``summarize``, or a list with one for each table; each source then starts with
            ``summarize: ``. None for no prefix.
        weight: Number of times that a training pair occurs in an epoch, at least 1, or a list with one for each table.
        num_labels: Maximum number of training pairs of each table; the vocabularies are fitted to all training
            pairs. None keeps all.
        tokens: ``words`` (and symbols), ``characters``, or subwords of the package tokenizers: ``bpe`` (byte
            pair encoding) or ``wordpiece`` (as in BERT).
        tokenizer: A ``tokenizer.json`` of the package tokenizers, which replaces ``tokens``, or a list of two, for
            sources and for targets; None fits the vocabularies to the texts.
        lowercase: Whether to convert texts to lower case, unless there is a ``tokenizer``.
        min_count: Minimum occurrences of a word or character, or of a pair of subwords to join, in the training texts,
            at least 1.
        max_words: Maximum number of words or characters (without special tokens) or of subwords (with special tokens
            and all bytes or characters, which are always kept) in each vocabulary, at least 1.
        shared_vocabulary: Whether sources and targets have one vocabulary, fitted to both.
        sentinels: Number of sentinel tokens in each vocabulary, at least 0.
        max_length: Maximum number of tokens of a source, at least 1, and the default for targets; pairs with a longer
            text are left out, see ``cut_sources``.
        max_target_length: Maximum number of tokens of a target, at least 1; None for ``max_length``.
        cut_sources: Whether to truncate sources to ``max_length`` tokens instead of leaving out their pairs.
        max_tokens: Maximum number of tokens per batch including padding, for sources and for targets
            separately; replaces ``batch_size``. None to use ``batch_size``.
        pad_multiple: Batches are padded to a multiple of this number of steps: 1, 2, 4 or 8.
        validation: Fraction of the pairs to hold out for validation, in [0, 1).
        test: Fraction of the pairs to hold out for testing, in (0, 1).
        batch_size: Pairs per batch, at least 1.
        workers: Unused: the texts stay in memory.
        on_bad_sample: Policy for unreadable lines and pairs with an empty text: ``stop`` or ``skip``.
        max_bad_samples: Maximum number of lines and pairs to skip before the run stops, at least 1.
        fitted: Result of `fit` in an earlier run; None fits to the training texts.
    """

    def __init__(
        self,
        path: str | list[str],
        source: str | list[str | None] | None = None,
        target: str | list[str | None] | None = None,
        header: bool = True,
        prefix: str | list[str] | None = None,
        weight: int | list[int] = 1,
        num_labels: int | None = None,
        tokens: str = "words",
        tokenizer: str | list[str] | None = None,
        lowercase: bool = True,
        min_count: int = 2,
        max_words: int = 20_000,
        shared_vocabulary: bool = False,
        sentinels: int = 0,
        max_length: int = 64,
        max_target_length: int | None = None,
        cut_sources: bool = False,
        max_tokens: int | None = None,
        pad_multiple: int = 1,
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
        self.max_target_length = max_length if max_target_length is None else max_target_length
        at_least("data.max_target_length", self.max_target_length, 1)
        self.length, self.target_length = largest_width(max_length), largest_width(self.max_target_length + 1)
        self.max_tokens, self.num_labels, self.cut_sources = max_tokens, num_labels, cut_sources
        self.pad_multiple = check_multiple(pad_multiple)
        if max_tokens is not None:
            at_least("data.max_tokens", max_tokens, max(self.length, self.target_length))
        self.bad = BadSamples(on_bad_sample, max_bad_samples)
        self.reader = PairFiles(path, source, target, header, prefix, self.bad)
        number = len(self.reader.readers)
        self.weights = [at_least("data.weight", each, 1) for each in PairFiles.for_each("data.weight", weight, number)]
        self.prepare = PreparePairs()
        settings = PairVocabularies(
            FILE if tokenizer else one_of("data.tokens", tokens, KINDS),
            lowercase,
            (at_least("data.min_count", min_count, 1), at_least("data.max_words", max_words, 1)),
            shared_vocabulary,
            at_least("data.sentinels", sentinels, 0),
        )
        if fitted is None:
            self._fit((validation, test), settings, tokenizer_files(tokenizer))
        else:
            self.vocabularies = settings.restore(fitted["vocabularies"])
            self.reader.restore(fitted)
        limit = max_length if cut_sources else None
        self.encoder = SourceEncoder(self.vocabularies[0].encode_marked, self.reader.own_prefix, limit)
        self.spec = self._make_spec()

    def _make_spec(self) -> Spec:
        source, target = self.vocabularies
        prefixes = tuple(self.reader.prefixes)
        return Spec(
            shape=(self.length,),
            length=self.length,
            target_length=self.target_length,
            tokens=replace(source.tokens, encode=self.encoder.encode),
            target_tokens=target.tokens,
            shared_vocabulary=source.content == target.content,
            prefixes=prefixes if any(prefixes) else None,
        )

    def _fit(self, shares: tuple[float, float], settings: PairVocabularies, files: list[str]) -> None:
        """Read and split the pairs, fit the vocabularies, and leave out pairs with a text that is too long."""
        read = self.reader.read()
        self.pairs, self.files = join(read), [(pairs.name, len(pairs.sources)) for pairs in read]
        self.parts = _split(self.files, shares)
        train = self.parts[0].tolist()
        sides = [[texts[row] for row in train] for texts in (self.pairs.sources, self.pairs.targets)]
        self.vocabularies = settings.fit(sides, files)
        self.encoded = self._encode(self.pairs)
        lengths = [torch.tensor([len(tokens) for tokens in side]) for side in self.encoded]
        self.is_short = (lengths[0] <= self.max_length) & (lengths[1] <= self.max_target_length)
        for name, part, share in zip(SPLITS, self.parts, (1, *shares), strict=True):
            if share and not self.is_short[part].any():
                key, limit = "max_length", self.max_length
                if (lengths[0][part] <= self.max_length).all():
                    key, limit = "max_target_length", self.max_target_length
                expected = "a length that keeps some pairs of each split"
                hint = f"All pairs of the {name} split exceed data.max_length or data.max_target_length."
                raise ConfigError(format_error(f"data.{key}", expected, limit, hint))
        self.parts = [part[self.is_short[part]] for part in self.parts]
        self.parts[0] = self._limit(self.parts[0])

    @property
    def columns(self) -> list[str]:
        """Columns of the sources and targets of the first table; empty for text files."""
        return self.reader.columns[0]

    def _file_of(self, rows: Tensor) -> Tensor:
        """Return the index of the file of each pair, int64."""
        ends = torch.tensor([size for _, size in self.files]).cumsum(0)
        return torch.bucketize(rows, ends, right=True)

    def _limit(self, train: Tensor) -> Tensor:
        """Return the first ``num_labels`` training pairs of each file."""
        if self.num_labels is None:
            return train
        files = self._file_of(train)
        return torch.cat([train[files == file][: self.num_labels] for file in range(len(self.files))])

    def fit(self) -> Fitted:
        """Return the vocabularies, and the columns, delimiter, decimal mark and quoting of each file."""
        return {"vocabularies": [vocabulary.content for vocabulary in self.vocabularies], **self.reader.state()}

    def evaluation(self) -> Source:
        """Return all pairs of the file or files, including long ones."""
        read = self.reader.read()
        self.files = [(pairs.name, len(pairs.sources)) for pairs in read]
        return self._source(self._encode(join(read)), _mix(sum(size for _, size in self.files), len(read)))

    def load(self) -> Splits:
        """Return the splits."""
        train, val, test = self.parts
        weights = torch.tensor(self.weights)[self._file_of(train)]
        held_out = (self._source(self.encoded, part[_mix(len(part), len(self.files))]) for part in (val, test))
        val_source, test_source = held_out
        repeated = self._source(self.encoded, train.repeat_interleave(weights))
        return Splits(repeated, val_source if len(val) else None, test_source)

    def describe(self) -> list[str]:
        """Return lines about the pairs, their texts and the splits."""
        left_out = int((~self.is_short).sum())
        limits = self.max_length, self.max_target_length
        report = PairReport(
            self.files, self.pairs.sources, self.encoded, self.vocabularies, self.parts, left_out, self.num_cut, limits
        )
        return report.lines()

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read one source per line of a text file, the column of sources of a table, or a text on the command line."""
        if files.text is not None:
            with errors_as("--text"):
                yield encode_inputs([files.text], [{"input": "--text"}], self.encoder)
        if files.names or files.text is None:
            for file in InputFiles(files.names, None, files.batch_size).expand(
                "a text file or table", (*LINES, *TABLES)
            ):
                with file.errors_as_input():
                    yield from self.reader.read_inputs(file, files.batch_size, self.encoder)

    def _encode(self, pairs: Pairs) -> EncodedPairs:
        """Return the tokens of all sources, truncated if `cut_sources` is set, and of all targets."""
        source, target = self.vocabularies
        sources = [source.encode(text) for text in pairs.sources]
        self.num_cut: int | None = None
        if self.cut_sources:
            self.num_cut = sum(len(tokens) > self.max_length for tokens in sources)
            sources = [tokens[: self.max_length] for tokens in sources]
        return sources, [target.encode(text) for text in pairs.targets]

    def _source(self, encoded: EncodedPairs, part: Tensor) -> Source:
        """Return the pairs at the indices `part` as a split; the pairs of a batch have similar lengths.

        Targets are the first field because their outputs need the most memory: without `max_tokens`, `ByLength` sorts
        by the first field first.
        """
        source, target = ([side[row] for row in part.tolist()] for side in encoded)
        ragged = {"target": as_ragged(target, end=True), "source": as_ragged(source)}
        rows: dict[str, Tensor | Ragged] = {**ragged}
        if len(self.files) > 1:
            rows["text_task"] = self._file_of(part)
        lengths = torch.stack([each.lengths for each in ragged.values()], dim=1)
        return Source(rows, self.prepare, plan=ByLength(lengths, self.max_tokens, self.pad_multiple, JITTER))


def _mix(count: int, files: int) -> Tensor:
    """Return the order of held-out pairs: unchanged for one file; random but fixed for several, to mix the files."""
    return permutation(count) if files > 1 else torch.arange(count)


def _split(files: list[tuple[str, int]], shares: tuple[float, float]) -> list[Tensor]:
    """Return the pair indices of the training, validation and test splits; each file is split separately.

    Raises:
        ConfigError: A file has fewer than `MIN_PAIRS` pairs.
    """
    found, start = [], 0
    for name, size in files:
        if size < MIN_PAIRS:
            raise ConfigError(format_error("data.path", f"at least {MIN_PAIRS} pairs in {name}", size))
        held_out = [held_out_size(size, share) for share in shares]
        found.append((start + permutation(size)).split([size - sum(held_out), *held_out]))
        start += size
    return [torch.cat(parts) for parts in zip(*found, strict=True)]

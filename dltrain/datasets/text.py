"""Text as a sequence of tokens, for language models."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from dltrain.data.checks import at_least, check_held_out, existing_file, one_of, user_path
from dltrain.data.inputs import InputFiles, errors_as
from dltrain.data.plans import Streams
from dltrain.data.ragged import Ragged
from dltrain.data.spec import Fitted, Inputs, Source, Spec, Splits
from dltrain.datasets import text_vocabulary
from dltrain.datasets.long_file import LongFile
from dltrain.datasets.mapped_tokens import map_parts
from dltrain.datasets.special_token import encode_input
from dltrain.datasets.text_parts import TextParts
from dltrain.datasets.text_tokenizers import (
    ByteTokenizer,
    CharacterTokenizer,
    Counts,
    Encoded,
    Tokenizer,
    describe_text,
)
from dltrain.datasets.token_parts import count_parts, describe_documents, encode_parts
from dltrain.datasets.token_windows import EVALUATION_STREAMS, UNKNOWN, NextToken, held_out_windows, measures
from dltrain.errors import ConfigError, format_error

BUNDLED = Path(__file__).parent / "bundled" / "moby_dick.txt"


class Text:
    r"""A text file, split in order into training, validation and test tokens.

    Training windows start every ``stride`` tokens. Validation and test windows predict each token of their split once,
    except the first token; the last window of these splits is padded with the token -1. Characters are collected from
    the whole file, so a character that occurs only in the test split has an untrained token. Words and subwords are
    fitted to the training split. The sizes of the splits are counted in characters, or in bytes with
    ``tokens=bytes``, so that all settings of ``tokens`` except ``bytes`` have the same splits.

    Args:
        path: A text file in UTF-8; None for the bundled text, Moby Dick up to chapter 46.
        tokens: ``characters``, the raw ``bytes`` of the file, ``words`` (words and symbols include the space before
            them; other whitespace is a token), or subwords of the package tokenizers: ``bpe`` (byte pair encoding) or
            ``wordpiece``, which splits a word as BERT does, but keeps the space before it, other whitespace and case.
        tokenizer: A ``tokenizer.json`` file of the package tokenizers; replaces ``tokens``.
        min_count: Minimum occurrences of a word, or of a pair of subwords to join, in the training split, at least 1.
        max_words: Maximum number of words or subwords, at least 1; all bytes (``bpe``) or characters (``wordpiece``)
            are always kept.
        special_tokens: Whether to add a mask token, which masked language modeling needs, to a vocabulary without one.
        context_length: Tokens that a model reads at once, at least 1.
        stride: Tokens between the starts of training windows, at least 1; None is 1, or ``context_length`` with
            ``streams``, with a ``separator`` or for a file above ``map_above``.
        streams: Read each split as contiguous streams, one for each row of a batch, for models that carry a state from
            batch to batch; at most 16 streams in evaluation, so that few tokens are predicted without context.
        separator: Text between two documents of the file; ``\n`` stands for a line break, and ``\t`` for a tab.
            Documents are packed into windows, with an end token before, between and after them, and are not divided
            between splits. None if the file is one document.
        isolate_documents: Whether a model reads each document without the other documents of its window.
        validation: Fraction of the text to hold out for validation, in [0, 1).
        test: Fraction of the text, at its end, to hold out for testing, in (0, 1).
        map_above: Size of a file in MiB, at least 0, above which its tokens are written to a cache and memory-mapped;
            None to keep the tokens of all files in memory.
        batch_size: Windows per batch, at least 1.
        workers: Unused: no example is decoded.
        fitted: Result of `fit` in an earlier run; None fits the vocabulary to the file.
    """

    def __init__(
        self,
        path: str | None = None,
        tokens: str = "characters",
        tokenizer: str | None = None,
        min_count: int = 2,
        max_words: int = 10_000,
        special_tokens: bool = False,
        context_length: int = 64,
        stride: int | None = None,
        streams: bool = False,
        separator: str | None = None,
        isolate_documents: bool = False,
        validation: float = 0.1,
        test: float = 0.1,
        map_above: float | None = None,
        batch_size: int = 64,
        workers: int = 0,
        fitted: Fitted | None = None,
    ) -> None:
        check_held_out(validation, test)
        self.path = user_path(path) if path else BUNDLED
        self.kind = text_vocabulary.FILE if tokenizer else one_of("data.tokens", tokens, text_vocabulary.KINDS)
        self.separator = _check_separator(separator, isolate_documents, streams)
        self.context_length = at_least("data.context_length", context_length, 1)
        self.stride = _check_stride(stride, streams, context_length)
        self.streams, self.map_above = streams, map_above
        self.shares = validation, test
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        if fitted is None and path:
            existing_file(path, "an existing text file")  # not `self.path`, to show the path as typed
        self.limits = at_least("data.min_count", min_count, 1), at_least("data.max_words", max_words, 1)
        self.parts: TextParts | None = None
        self.known: Tokenizer = self._fit(tokenizer) if fitted is None else text_vocabulary.restore(self.kind, fitted)
        self.tokenizer = text_vocabulary.with_special(self.known, self.separator, special_tokens)
        self.end = None if separator is None else self.tokenizer.spec.end
        self.prepare, self.lines = NextToken(self.end if isolate_documents else None), list[str]()
        self.plan = Streams(EVALUATION_STREAMS) if streams else None
        self.spec = Spec(
            shape=(context_length,),
            length=context_length,
            features=self.tokenizer.size,
            tokens=self.tokenizer.spec,
            target_tokens=self.tokenizer.spec,
        )

    def _fit(self, file: str | None) -> Tokenizer:
        if file:
            return text_vocabulary.read(file)
        if self.kind == "bytes":
            return ByteTokenizer()
        self.parts = self._read(*self.shares)
        return text_vocabulary.fit(self.kind, self.parts, *self.limits)

    def fit(self) -> Fitted:
        """Return the vocabulary; see `dltrain.datasets.text_vocabulary.state`."""
        return text_vocabulary.state(self.kind, self.known)

    def evaluation(self) -> Source:
        """Return windows that predict each token of the file once, except the first token."""
        existing_file(self.path, "an existing text file")
        return self._held_out(self._encode(self._read(0, 0))[0][0])

    def _read(self, validation: float, test: float) -> TextParts:
        """Return the parts of the file, which is read into memory unless it is larger than `map_above`."""
        raw = self.kind == "bytes"
        shares = validation, test, self.separator
        if self.map_above is not None and self.path.stat().st_size > self.map_above * 2**20:
            file = LongFile(self.path, raw)
            return TextParts(self.path, file.chunks, file.scan.size, *shares, b"" if raw else "", file)
        content = (ByteTokenizer() if raw else CharacterTokenizer("")).read(self.path)
        return TextParts(self.path, lambda: [content], len(content), *shares, content[:0])

    def _encode(self, parts: TextParts) -> tuple[list[Encoded], list[Counts]]:
        """Return the tokens of each part, and their counts."""
        if parts.file is None:
            encoded = encode_parts(self.tokenizer, parts)
            return encoded, count_parts(encoded)
        vocabulary = text_vocabulary.fingerprint(self.kind, self.known)
        return map_parts(self.tokenizer, parts, {"file": parts.file.scan.sha256, "vocabulary": vocabulary})

    def load(self) -> Splits:
        """Read and encode the file, and return the splits."""
        parts = self.parts or self._read(*self.shares)
        self.parts = None  # free the memory
        (train, val, test), counts = self._encode(parts)
        self.lines = describe_text(self.path.name, self.kind, self.tokenizer.size, counts)
        self.lines += describe_documents((train, val, test), self.end)
        packed = self.streams or self.separator is not None or parts.file is not None
        windows = self._windows(train.tokens, self.stride or (self.context_length if packed else 1))
        return Splits(
            Source(windows, self.prepare, plan=Streams() if self.streams else None),
            self._held_out(val) if self.shares[0] else None,
            self._held_out(test),
        )

    def describe(self) -> list[str]:
        """Return lines about the text, its tokens and the splits; empty before `load`."""
        return self.lines

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read whole texts, each followed by the token -1 because the next token is unknown."""
        if files.text is not None:
            with errors_as("--text"):
                yield self._whole_text("--text", files.text)
        if files.names or files.text is None:
            for file in replace(files, text=None).expand("a text file"):
                with file.errors_as_input():
                    yield self._whole_text(file.name, file.read_bytes())

    def _whole_text(self, name: str, content: str | bytes) -> Inputs:
        part = encode_input(self.tokenizer, content)
        if not len(part.tokens):
            raise ConfigError(format_error("text", "a text of at least one character", "an empty text"))
        rows: dict[str, Tensor | Ragged] = {"tokens": F.pad(part.tokens.int(), (0, 1), value=UNKNOWN)[None]}
        names: dict[str, object] = {"input": name}
        if part.sizes is not None:
            names["characters"] = int(part.sizes.sum())
            rows |= {"characters": part.sizes[1:].sum()[None], "spelling": part.spelling[1:].sum()[None]}
        if unknown := int(part.spelling.count_nonzero()):
            names["unknown_tokens"] = unknown
        return Inputs(rows, [names])

    def _held_out(self, part: Encoded) -> Source:
        rows = self._windows(part.tokens, self.context_length)
        windows = held_out_windows(part.tokens, self.context_length) | measures(part, self.context_length)
        return Source(windows, self.prepare, fingerprinted=rows, plan=self.plan)

    def _windows(self, part: Tensor, stride: int) -> dict[str, Tensor]:
        if len(part) <= self.context_length:
            expected = f"fewer tokens than each split of {self.path} has"
            hint = f"One split has {len(part)}. Reduce data.context_length, or use a longer text."
            raise ConfigError(format_error("data.context_length", expected, self.context_length, hint))
        return {"tokens": part.unfold(0, self.context_length + 1, stride)}


def _check_separator(separator: str | None, isolate: bool, streams: bool) -> str | None:
    """Return the text between two documents, with escape sequences replaced; None if the file is one document."""
    if isolate and separator is None:
        raise ConfigError(format_error("data.isolate_documents", "false without data.separator", isolate))
    if isolate and streams:
        reason = "streams carry the state of the model from one document to the next"
        raise ConfigError(f"data.isolate_documents: not supported with data.streams=true because {reason}")
    if separator == "":
        raise ConfigError(format_error("data.separator", "a text of at least one character, or null", "an empty text"))
    return separator if separator is None else separator.replace("\\n", "\n").replace("\\t", "\t")


def _check_stride(stride: int | None, streams: bool, context_length: int) -> int | None:
    """Return the number of tokens between the starts of training windows; windows of a stream do not overlap."""
    if stride is None:
        return None
    if streams and stride != context_length:
        hint = "Windows of a stream follow one another."
        raise ConfigError(format_error("data.stride", f"null or {context_length} with data.streams=true", stride, hint))
    return at_least("data.stride", stride, 1)

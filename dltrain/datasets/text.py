"""Text as a sequence of tokens, for language models."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.data.checks import at_least, check_held_out, existing_file, one_of, user_path
from dltrain.data.inputs import InputFiles, errors_as
from dltrain.data.loader import Batch
from dltrain.data.plans import Streams
from dltrain.data.ragged import Ragged
from dltrain.data.spec import Fitted, Inputs, Source, Spec, Splits
from dltrain.data.splits import held_out_size
from dltrain.datasets.mask_token import WithMask, encode_input
from dltrain.datasets.subwords import Subwords, check_installed, fit_byte_pairs, lines_of
from dltrain.datasets.text_content import read_utf8
from dltrain.datasets.text_tokenizers import (
    ByteTokenizer,
    CharacterTokenizer,
    Encoded,
    PieceTokenizer,
    Tokenizer,
    as_text,
    describe_text,
    split_pieces,
    words_of,
)
from dltrain.datasets.tokenizer_file import TokenizerFile, read_tokenizer
from dltrain.datasets.vocabularies import SPECIAL
from dltrain.errors import ConfigError, format_error

BUNDLED = Path(__file__).parent / "bundled" / "moby_dick.txt"
KINDS = ("characters", "bytes", "words", "bpe")
UNKNOWN = -1
EVALUATION_STREAMS = 16


class Text:
    """A text file, split in its order into training, validation and test tokens.

    Training windows start every ``stride`` tokens; validation and test windows predict each token of their split
    once, except the first; the last window is padded with the token -1. The characters of the whole file are known, so
    that characters that occur only in the test split are known, but untrained. Words and byte pairs are fitted to the
    training split. All kinds of tokens have the same splits.

    Args:
        path: A text file in UTF-8; None for the bundled text, Moby Dick up to chapter 46.
        tokens: ``characters``, the raw ``bytes`` of the file, ``words`` (with the space before them, symbols, and other
            white space), or ``bpe``: byte pair encoding, by the package tokenizers.
        tokenizer: File ``tokenizer.json`` of that package to split the text; replaces ``tokens``.
        min_count: Minimum occurrences in the training split of a word, or of a pair that ``bpe`` joins, at least 1.
        max_words: Maximum number of words, or of byte pairs and bytes, at least 1.
        special_tokens: Whether to add a mask token, which masked language modeling needs, to a vocabulary without one.
        context_length: Tokens that a model reads at once, at least 1.
        stride: Tokens between the starts of training windows, at least 1; None is 1, or ``context_length`` in streams.
        streams: Read each split as ``batch_size`` contiguous streams, for models that carry a state from batch to
            batch; at most 16 in evaluation, so that few tokens are predicted without context.
        validation: Fraction of the text to hold out for validation, in [0, 1).
        test: Fraction of the text, at its end, to hold out for testing, in (0, 1).
        batch_size: Windows per step, at least 1.
        workers: Unused: the text stays in memory.
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
        validation: float = 0.1,
        test: float = 0.1,
        batch_size: int = 64,
        workers: int = 0,
        fitted: Fitted | None = None,
    ) -> None:
        check_held_out(validation, test)
        self.path = user_path(path) if path else BUNDLED
        self.kind = "file" if tokenizer else one_of("data.tokens", tokens, KINDS)
        self.context_length = at_least("data.context_length", context_length, 1)
        self.stride = _check_stride(stride, streams, context_length)
        self.streams = streams
        self.validation = validation
        self.test = test
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        if fitted is None and path:
            existing_file(path, "an existing text file")  # not `self.path`, to show the path as typed
        self.limits = at_least("data.min_count", min_count, 1), at_least("data.max_words", max_words, 1)
        self.known: Tokenizer = self._fit(tokenizer) if fitted is None else self._restore(fitted)
        self.tokenizer = WithMask(self.known) if special_tokens and self.known.spec.mask is None else self.known
        self.prepare, self.lines = NextToken(), list[str]()
        self.plan = Streams(EVALUATION_STREAMS) if streams else None
        self.spec = Spec(
            shape=(context_length,),
            length=context_length,
            features=self.tokenizer.size,
            tokens=self.tokenizer.spec,
            target_tokens=self.tokenizer.spec,
        )

    def _fit(self, file: str | None) -> Tokenizer:
        """Return a tokenizer: of a file, or with the characters of the text, or fitted to its training split."""
        if self.kind == "bytes":
            return ByteTokenizer()
        if file:
            return _of_file(read_tokenizer(file))
        if self.kind == "characters":
            return CharacterTokenizer(read_utf8(self.path))
        if self.kind == "bpe":
            check_installed("data.tokens: bpe")
        train = as_text(self._split(read_utf8(self.path))[0])
        if self.kind == "bpe":
            return PieceTokenizer(Subwords([fit_byte_pairs(lines_of(train), SPECIAL, *self.limits)]), "byte pairs")
        return words_of(_frequent(train, *self.limits))

    def _restore(self, fitted: Fitted) -> Tokenizer:
        if self.kind == "bytes":
            return ByteTokenizer()
        if self.kind == "characters":
            return CharacterTokenizer(fitted["characters"])
        if self.kind == "words":
            return words_of(fitted["pieces"])
        if self.kind == "file":
            return _of_file(TokenizerFile(fitted["tokenizer"]))
        check_installed("data.tokens: bpe")
        return PieceTokenizer(Subwords(fitted["pieces"]), "byte pairs")

    def fit(self) -> Fitted:
        """Return the vocabulary: characters in Unicode order, words, or a tokenizer as JSON."""
        if isinstance(self.known, PieceTokenizer) and self.kind == "file":
            return {"characters": "", "tokenizer": self.known.vocabulary.content[0]}
        if isinstance(self.known, PieceTokenizer):
            return {"characters": "", "pieces": self.known.vocabulary.content}
        characters = self.known.characters if isinstance(self.known, CharacterTokenizer) else []
        return {"characters": "".join(characters)}

    def evaluation(self) -> Source:
        """Return windows that predict each token of the file once, except the first."""
        existing_file(self.path, "an existing text file")
        return self._held_out(self.tokenizer.encode_content(self.tokenizer.read(self.path)))

    def _split(self, content: str | bytes) -> list[str | bytes]:
        """Return the training, validation and test part of the content of the file."""
        held_out = [held_out_size(len(content), share) for share in (self.validation, self.test)]
        first, second = len(content) - sum(held_out), len(content) - held_out[1]
        return [content[:first], content[first:second], content[second:]]

    def load(self) -> Splits:
        """Read and split the file."""
        encoded = train, val, test = [*map(self.tokenizer.encode_content, self._split(self.tokenizer.read(self.path)))]
        self.lines = describe_text(self.path.name, self.kind, self.tokenizer.size, encoded)
        windows = self._windows(train.tokens, self.stride)
        return Splits(
            Source(windows, NextToken(), plan=Streams() if self.streams else None),
            self._held_out(val) if self.validation else None,
            self._held_out(test),
        )

    def describe(self) -> list[str]:
        """Return lines about the text, its tokens and the splits, once it is loaded."""
        return self.lines

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read whole texts, each followed by the token -1, as the next token is unknown."""
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
        missing = -(len(part.tokens) - 1) % self.context_length
        whole = F.pad(part.tokens.to(torch.int32), (0, missing), value=UNKNOWN)
        rows = self._windows(part.tokens, self.context_length)
        windows = self._windows(whole, self.context_length) | _measures(part, self.context_length)
        return Source(windows, self.prepare, fingerprinted=rows, plan=self.plan)

    def _windows(self, part: Tensor, stride: int) -> dict[str, Tensor]:
        if len(part) <= self.context_length:
            expected = f"more than context_length = {self.context_length} tokens in each split of {self.path}"
            hint = "Reduce data.context_length, or increase data.validation and data.test"
            raise ConfigError(format_error("data.context_length", expected, f"{len(part)} tokens in one of them", hint))
        return {"tokens": part.unfold(0, self.context_length + 1, stride)}


class NextToken(nn.Module):
    """Windows of tokens as inputs and targets: the targets are the inputs shifted by one token.

    The token -1, which follows the end of a text, becomes the target -1 and the input 0. A causal model does not read
    this input to predict earlier tokens.

    Shape:
        tokens (B, length + 1) -> inputs (B, length), targets (B, length), both int64; characters and spelling (B,), of
        the targets, stay as they are
    """

    def forward(self, rows: Batch) -> Batch:
        """Prepare any number of windows at once."""
        tokens, others = rows["tokens"].long(), {name: value for name, value in rows.items() if name != "tokens"}
        return {"inputs": tokens[:, :-1].clamp(min=0), "targets": tokens[:, 1:].contiguous(), **others}


def _measures(part: Encoded, length: int) -> dict[str, Tensor]:
    """Return characters and spelling of the targets of each window, int32 (N,); nothing if the content is not text."""
    if part.sizes is None:
        return {}
    fields = {"characters": part.sizes, "spelling": part.spelling}
    missing = -(len(part.tokens) - 1) % length
    return {name: F.pad(each[1:], (0, missing)).view(-1, length).sum(1).int() for name, each in fields.items()}


def _of_file(file: TokenizerFile) -> PieceTokenizer:
    """Return the tokenizer of a file, whose special tokens may be written in a text."""
    return PieceTokenizer(Subwords([file.content], literal=False), "tokens", file.tokens)


def _frequent(text: str, min_count: int, max_words: int) -> list[str]:
    """Return the pieces of a text that occur at least ``min_count`` times, the most frequent first.

    Raises:
        ConfigError: There is none.
    """
    counts = Counter(split_pieces(text))
    kept = [piece for piece, count in counts.items() if count >= min_count]
    if not kept:
        most = f"at most {max(counts.values(), default=0)}, the count of the most frequent word of the training text"
        raise ConfigError(format_error("data.min_count", most, min_count))
    return sorted(kept, key=lambda piece: (-counts[piece], piece))[:max_words]


def _check_stride(stride: int | None, streams: bool, context_length: int) -> int:
    """Return the tokens between the starts of training windows; streams do not overlap."""
    if stride is None:
        return context_length if streams else 1
    if streams and stride != context_length:
        hint = "Windows of a stream follow one another."
        raise ConfigError(format_error("data.stride", f"null or {context_length} with data.streams=true", stride, hint))
    return at_least("data.stride", stride, 1)

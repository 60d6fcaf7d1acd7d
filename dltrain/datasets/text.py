"""Text as a sequence of tokens, for language models."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.data.checks import at_least, check_held_out, existing_file, one_of, user_path
from dltrain.data.inputs import InputFiles, errors_as
from dltrain.data.loader import Batch
from dltrain.data.plans import Streams
from dltrain.data.spec import Fitted, Inputs, Source, Spec, Splits
from dltrain.data.splits import held_out_size
from dltrain.data.tokens import Tokens
from dltrain.datasets.mask_token import Tokenizer, WithMask
from dltrain.datasets.text_content import read_utf8
from dltrain.datasets.tokenizer_file import TokenizerFile, read_tokenizer
from dltrain.errors import ConfigError, format_error, shorten

BUNDLED = Path(__file__).parent / "bundled" / "moby_dick.txt"
BYTES = 256
UNKNOWN = -1
EVALUATION_STREAMS = 16


class Text:
    """A text file, split in its order into training, validation and test tokens.

    Training windows start every ``stride`` tokens; validation and test windows predict each token of their split
    once, except the first; the last window is padded with the token -1. The vocabulary is that of the whole file, so
    characters that occur only in the test split are known, but untrained.

    Args:
        path: A text file in UTF-8; None for the bundled text, Moby Dick up to chapter 46.
        tokens: ``characters``, or the raw ``bytes`` of the file.
        tokenizer: File ``tokenizer.json`` of the package tokenizers to split the text; replaces ``tokens``.
        special_tokens: Whether to add a mask token, which masked language modeling needs, to a vocabulary without one.
        context_length: Tokens that a model reads at once, at least 1.
        stride: Tokens between the starts of training windows, at least 1; None is 1, or ``context_length`` in streams.
        streams: Read each split as ``batch_size`` contiguous streams, for models that carry a state from batch to
            batch; at most 16 in evaluation, so that few tokens are predicted without context.
        validation: Fraction of the text to hold out for validation, in [0, 1).
        test: Fraction of the text, at its end, to hold out for testing, in (0, 1).
        batch_size: Windows per step, at least 1.
        workers: Unused: the text stays in memory.
        fitted: Result of `fit` in an earlier run; None takes the vocabulary of the file.
    """

    def __init__(
        self,
        path: str | None = None,
        tokens: str = "characters",
        tokenizer: str | None = None,
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
        one_of("data.tokens", tokens, ("characters", "bytes"))
        self.context_length = at_least("data.context_length", context_length, 1)
        self.stride = _check_stride(stride, streams, context_length)
        self.streams = streams
        self.validation = validation
        self.test = test
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        if fitted is None and path:
            existing_file(path, "an existing text file")  # not `self.path`, to show the path as typed
        self.known = self._known_tokens(tokens, tokenizer, fitted)
        known = self.known.tokens if isinstance(self.known, TokenizerFile) else Tokens(self.known.size)
        is_added = special_tokens and known.mask is None
        self.tokenizer: Tokenizer = WithMask(self.known) if is_added else self.known
        self.prepare = NextToken()
        self.plan = Streams(EVALUATION_STREAMS) if streams else None
        mask = known.size if is_added else known.mask
        encode, decode = self.tokenizer.encode, self.tokenizer.decode
        vocabulary = replace(known, size=self.tokenizer.size, mask=mask, encode=encode, decode=decode)
        self.spec = Spec(
            shape=(context_length,),
            length=context_length,
            features=self.tokenizer.size,
            tokens=vocabulary,
            target_tokens=vocabulary,
        )

    def _known_tokens(
        self, tokens: str, tokenizer: str | None, fitted: Fitted | None
    ) -> "CharacterTokenizer | ByteTokenizer | TokenizerFile":
        """Return the tokenizer of a file, or that of bytes or characters."""
        if tokenizer is not None:
            return read_tokenizer(tokenizer) if fitted is None else TokenizerFile(fitted["tokenizer"])
        if tokens == "bytes":
            return ByteTokenizer()
        return CharacterTokenizer(read_utf8(self.path) if fitted is None else fitted["characters"])

    def fit(self) -> Fitted:
        """Return the characters of the file in Unicode order, empty for bytes, and the tokenizer, if one was named."""
        characters = self.known.characters if isinstance(self.known, CharacterTokenizer) else []
        more = {"tokenizer": self.known.content} if isinstance(self.known, TokenizerFile) else {}
        return {"characters": "".join(characters), **more}

    def evaluation(self) -> Source:
        """Return windows that predict each token of the file once, except the first."""
        existing_file(self.path, "an existing text file")
        return self._held_out(self.tokenizer.encode_file(self.path))

    def load(self) -> Splits:
        """Read and split the file."""
        tokens = self.tokenizer.encode_file(self.path)
        held_out = [held_out_size(len(tokens), self.validation), held_out_size(len(tokens), self.test)]
        train, val, test = tokens.split([len(tokens) - sum(held_out), *held_out])
        return Splits(
            Source(self._windows(train, self.stride), NextToken(), plan=Streams() if self.streams else None),
            self._held_out(val) if self.validation else None,
            self._held_out(test),
        )

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read whole texts, each followed by the token -1, as the next token is unknown."""
        if files.text is not None:
            with errors_as("--text"):
                yield _whole_text("--text", self.tokenizer.encode(files.text))
        if files.names or files.text is None:
            for file in replace(files, text=None).expand("a text file"):
                with file.errors_as_input():
                    yield _whole_text(file.name, self.tokenizer.encode_bytes(file.read_bytes()))

    def _held_out(self, part: Tensor) -> Source:
        missing = -(len(part) - 1) % self.context_length
        whole = F.pad(part.to(torch.int32), (0, missing), value=UNKNOWN)
        rows = self._windows(part, self.context_length)
        windows = self._windows(whole, self.context_length)
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
        tokens (B, length + 1) -> inputs (B, length), targets (B, length), both int64
    """

    def forward(self, rows: Batch) -> Batch:
        """Prepare any number of windows at once."""
        tokens = rows["tokens"].long()
        return {"inputs": tokens[:, :-1].clamp(min=0), "targets": tokens[:, 1:].contiguous()}


def _check_stride(stride: int | None, streams: bool, context_length: int) -> int:
    """Return the tokens between the starts of training windows; streams do not overlap."""
    if stride is None:
        return context_length if streams else 1
    if streams and stride != context_length:
        hint = "Windows of a stream follow one another."
        raise ConfigError(format_error("data.stride", f"null or {context_length} with data.streams=true", stride, hint))
    return at_least("data.stride", stride, 1)


def _whole_text(name: str, tokens: list[int]) -> Inputs:
    if not tokens:
        raise ConfigError(format_error("text", "a text of at least one character", "an empty text"))
    return Inputs({"tokens": torch.tensor([[*tokens, UNKNOWN]])}, [{"input": name}])


class ByteTokenizer:
    """The 256 bytes as tokens."""

    size = BYTES

    def encode_file(self, path: Path) -> Tensor:
        """Return the bytes of a file in uint8."""
        return torch.from_numpy(np.fromfile(path, dtype=np.uint8))

    def encode_bytes(self, content: bytes) -> list[int]:
        """Return the bytes as tokens."""
        return list(content)

    def encode(self, text: str) -> list[int]:
        """Return the UTF-8 bytes of a text; undecodable bytes of a command line stay as they were typed."""
        return list(text.encode(errors="surrogateescape"))

    def decode(self, tokens: list[int]) -> str:
        """Return the text of the bytes, with replacement characters for invalid UTF-8."""
        return bytes(tokens).decode(errors="replace")


class CharacterTokenizer:
    """The distinct characters of a text, in Unicode order, as tokens."""

    def __init__(self, text: str) -> None:
        self.characters = sorted(set(text))
        self.size = len(self.characters)
        self.numbers = {character: number for number, character in enumerate(self.characters)}

    def encode_file(self, path: Path) -> Tensor:
        """Return the tokens of a file, in the smallest of uint8, int16 and int32."""
        codes = np.frombuffer(read_utf8(path).encode("utf-32-le"), dtype=np.uint32)
        known = np.array([ord(character) for character in self.characters], dtype=np.uint32)
        self._check_known(map(chr, np.setdiff1d(codes, known).tolist()))
        dtype = np.uint8 if self.size <= 2**8 else np.int16 if self.size <= 2**15 else np.int32
        return torch.from_numpy(np.searchsorted(known, codes).astype(dtype))

    def encode_bytes(self, content: bytes) -> list[int]:
        """Return the tokens of a UTF-8 text.

        Raises:
            ConfigError: The content is not UTF-8, or has an unknown character.
        """
        try:
            return self.encode(content.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise ConfigError(format_error("text", "a text in UTF-8", str(error))) from error

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, with line endings normalized as in the training file.

        Raises:
            ConfigError: The text has an unknown character.
        """
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        self._check_known(sorted(set(text) - set(self.numbers)))
        return [self.numbers[character] for character in text]

    def _check_known(self, unknown: Iterable[str]) -> None:
        if got := "".join(unknown):
            known = f"characters of the training text ({shorten(repr(''.join(self.characters)))})"
            raise ConfigError(format_error("text", known, repr(got)))

    def decode(self, tokens: list[int]) -> str:
        """Return the text of the tokens."""
        return "".join(self.characters[token] for token in tokens)

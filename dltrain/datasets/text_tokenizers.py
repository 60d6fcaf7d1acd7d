"""Tokenizers of language models: bytes, characters, words with their spaces, and subwords."""

import codecs
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dltrain.data.tokens import Tokens
from dltrain.datasets.describe import count, splits_line
from dltrain.datasets.subwords import Subwords, lines_of
from dltrain.datasets.text_content import read_utf8
from dltrain.datasets.vocabularies import SPECIAL, UNKNOWN, Pieces
from dltrain.datasets.words import WORD
from dltrain.errors import ConfigError, format_error, shorten

BYTES = 256
CONTINUATION = bytes(range(0x80, 0xC0))  # bytes that continue a character in UTF-8
PIECE = re.compile(rf" ?(?:{WORD.pattern})|\s")  # a word or symbol with the space before it, or other whitespace


class Encoded(NamedTuple):
    """Tokens of a text.

    Args:
        tokens: The tokens (N,), in a small integer type.
        sizes: Number of characters of each token, int32 (N,); None if the content is not UTF-8.
        spelling: Number of UTF-8 bytes of each unknown token, plus 1 for an end symbol, int32 (N,); 0 for known tokens.
    """

    tokens: Tensor
    sizes: Tensor | None
    spelling: Tensor


class Counts(NamedTuple):
    """Numbers of tokens, characters (None if the content is not UTF-8) and unknown tokens of a text."""

    tokens: int
    characters: int | None
    unknown: int


class Tokenizer(Protocol):
    """Conversion between text and tokens."""

    size: int

    @property
    def spec(self) -> Tokens:
        """The vocabulary as `Tokens`."""

    def read(self, path: Path) -> str | bytes:
        """Return the content of a file."""

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text; raise ConfigError if a part of the text is unknown."""

    def encode_content(self, content: str | bytes) -> Encoded:
        """Return the tokens of a file's content, or of a part of the content."""

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens."""


class ByteTokenizer:
    """The 256 bytes as tokens."""

    size = BYTES

    @property
    def spec(self) -> Tokens:
        """The vocabulary as `Tokens`."""
        return Tokens(self.size, encode=self.encode, decode=self.decode)

    def read(self, path: Path) -> bytes:
        """Return the bytes of a file."""
        return path.read_bytes()

    def encode_content(self, content: str | bytes) -> Encoded:
        """Return the bytes as tokens in uint8; the sizes are None if the bytes are not UTF-8."""
        content = bytes(self.encode(content)) if isinstance(content, str) else content
        tokens = torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())
        sizes = ((tokens & 0xC0) != 0x80).int() if _is_utf8(content) else None
        return Encoded(tokens, sizes, torch.zeros(1, dtype=torch.int32).expand(len(tokens)))

    def encode(self, text: str) -> list[int]:
        """Return the UTF-8 bytes of a text; undecodable bytes of a command line are kept."""
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

    @property
    def spec(self) -> Tokens:
        """The vocabulary as `Tokens`."""
        return Tokens(self.size, encode=self.encode, decode=self.decode)

    def read(self, path: Path) -> str:
        """Return the text of a file."""
        return read_utf8(path)

    def encode_content(self, content: str | bytes) -> Encoded:
        """Return the tokens of a text, in the smallest of uint8, int16 and int32.

        Raises:
            ConfigError: The text has an unknown character.
        """
        codes = np.frombuffer(as_text(content).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        known = np.array([ord(character) for character in self.characters], dtype=np.uint32)
        self._check_known(map(chr, np.setdiff1d(codes, known).tolist()))
        tokens = compact(np.searchsorted(known, codes), self.size)
        ones, zeros = (torch.full((1,), value, dtype=torch.int32).expand(len(tokens)) for value in (1, 0))
        return Encoded(tokens, ones, zeros)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, with line endings normalized as in the training file.

        Raises:
            ConfigError: The text has an unknown character.
        """
        text = as_text(text)
        self._check_known(sorted(set(text) - set(self.numbers)))
        return [self.numbers[character] for character in text]

    def _check_known(self, unknown: Iterable[str]) -> None:
        if got := "".join(unknown):
            known = f"characters of the training text ({shorten(repr(''.join(self.characters)))})"
            raise ConfigError(format_error("text", known, repr(got)))

    def decode(self, tokens: list[int]) -> str:
        """Return the text of the tokens."""
        return "".join(self.characters[token] for token in tokens)


class PieceTokenizer:
    """Tokenizer of words with the space before them, or of subwords.

    Decoding restores texts, unless pieces are unknown or a user-provided tokenizer changes texts.

    Args:
        vocabulary: `Pieces` with the function `split_pieces`, or `Subwords`.
        name: Plural name of the pieces, for messages.
        known: `Tokens` with the special tokens of the vocabulary, except the unknown token.
    """

    def __init__(self, vocabulary: Pieces | Subwords, name: str, known: Tokens | None = None) -> None:
        self.vocabulary, self.name, self.size = vocabulary, name, vocabulary.size
        self.known = known or Tokens(self.size)
        self.unknown = vocabulary.unknown if isinstance(vocabulary, Subwords) else UNKNOWN
        self.special = vocabulary.special if isinstance(vocabulary, Subwords) else set(range(len(SPECIAL)))

    @property
    def spec(self) -> Tokens:
        """The vocabulary as `Tokens`."""
        special = tuple(sorted({*self.special, *([] if self.unknown is None else [self.unknown])}))
        own = replace(self.known, size=self.size, unknown=self.unknown, special=special)
        return replace(own, encode=self.encode, decode=self.decode)

    def read(self, path: Path) -> str:
        """Return the text of a file."""
        return read_utf8(path)

    def encode_content(self, content: str | bytes) -> Encoded:
        """Return the tokens of a text; a piece that is not in the vocabulary becomes the unknown token."""
        text = as_text(content)
        tokens, sizes = list[int](), list[int]()
        for part in lines_of(text):
            ids, lengths = self._sized(part)
            tokens += ids
            sizes += lengths
        ends = np.cumsum(sizes)
        spelling = np.zeros(len(tokens), dtype=np.int32)
        for position in np.flatnonzero(np.array(tokens) == self.unknown):
            spelling[position] = 1 + len(text[ends[position] - sizes[position] : ends[position]].encode())
        measured = (torch.from_numpy(np.array(values, dtype=np.int32)) for values in (sizes, spelling))
        return Encoded(compact(np.array(tokens, dtype=np.int64), self.size), *measured)

    def _sized(self, text: str) -> tuple[list[int], list[int]]:
        if isinstance(self.vocabulary, Subwords):
            return self.vocabulary.encode_sized(text)
        return self.vocabulary.encode(text), list(map(len, split_pieces(text)))

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text.

        If the first word is in the vocabulary only with a space before it, a space is added before the text.

        Raises:
            ConfigError: A piece of the text is not in the vocabulary.
        """
        text = as_text(text)
        if isinstance(self.vocabulary, Pieces) and (first := next(iter(split_pieces(text)), "")):
            numbers = self.vocabulary.numbers
            text = f" {text}" if first not in numbers and f" {first}" in numbers else text
        tokens, sizes = self._sized(text)
        ends = np.cumsum(sizes).tolist()
        spans = zip(tokens, sizes, ends, strict=True)
        unknown = [text[end - size : end] for token, size, end in spans if token == self.unknown]
        if unknown:
            got = ", ".join(repr(piece.strip() or piece) for piece in unknown)
            raise ConfigError(format_error("text", f"{self.name} of the training text", got))
        return tokens

    def decode(self, tokens: list[int]) -> str:
        """Return the text of the tokens."""
        return self.vocabulary.decode(tokens)


def describe_text(name: str, kind: str, size: int, parts: Sequence[Counts]) -> list[str]:
    """Return lines about the tokens of the training, validation and test parts of a text."""
    counts = [part.tokens for part in parts]
    measured = [part.characters for part in parts if part.characters is not None]
    length = f", {sum(measured) / max(1, sum(counts)):.1f} characters per token" if len(measured) == len(parts) else ""
    unknown = sum(part.unknown for part in parts[1:]) / max(1, sum(counts[1:]))
    share = f", {unknown:.1%} unknown tokens in the validation and test splits" if unknown else ""
    tokens = f"tokens: {'data.tokenizer' if kind == 'file' else kind}, vocabulary of {size:,}{length}{share}"
    splits = dict(zip(("training", "validation", "test"), counts, strict=True))
    return [f"{name}: {count(sum(counts), 'token')}", tokens, splits_line(splits, "tokens")]


def split_pieces(text: str) -> list[str]:
    """Return the words, symbols and whitespace of a text; joining them restores the text."""
    return PIECE.findall(text)


def words_of(content: Sequence[str]) -> PieceTokenizer:
    """Return the tokenizer with these words as its vocabulary."""
    return PieceTokenizer(Pieces(content, split_pieces, ""), "words")


def as_text(content: str | bytes) -> str:
    """Return the content as text with normalized line endings.

    Raises:
        ConfigError: The content is not UTF-8.
    """
    if isinstance(content, bytes):
        try:
            content = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ConfigError(format_error("text", "UTF-8 text", str(error))) from error
    return content.replace("\r\n", "\n").replace("\r", "\n")


def _is_utf8(content: bytes) -> bool:
    """Return whether the content is a part of UTF-8 text; it may start and end within a character."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(content.lstrip(CONTINUATION))
    except UnicodeDecodeError:
        return False
    return True


def token_dtype(size: int) -> torch.dtype:
    """Return the smallest of uint8, int16 and int32 for tokens below ``size``."""
    return torch.uint8 if size <= 2**8 else torch.int16 if size <= 2**15 else torch.int32


def compact(tokens: np.ndarray, size: int) -> Tensor:
    """Return tokens below ``size`` in the smallest of uint8, int16 and int32."""
    return torch.from_numpy(tokens).to(token_dtype(size))

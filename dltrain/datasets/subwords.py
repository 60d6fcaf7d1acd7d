"""Tokenizers of the package tokenizers: fitted to texts, or from a user-provided ``tokenizer.json``."""

import json
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from dltrain.errors import ConfigError, format_error

if TYPE_CHECKING:
    from tokenizers import Encoding


class Subwords:
    """Tokenizer of the package tokenizers; texts get no special tokens, and are neither truncated nor padded.

    Args:
        content: List of one string, the tokenizer as JSON.
        lowercase: Whether to convert texts to lower case first.
        first: Number of tokens of the data set that precede the tokens of the tokenizer.
        unknown: Token of the data set for the tokenizer's unknown token; None for the tokenizer's own.
        literal: Whether the names of special tokens in a text, such as "<end>", are encoded as ordinary characters, and
            special tokens are left out of decoded texts.
    """

    def __init__(
        self,
        content: Sequence[str],
        lowercase: bool = False,
        first: int = 0,
        unknown: int | None = None,
        literal: bool = True,
    ) -> None:
        from tokenizers import Tokenizer

        self.content, self.lowercase, self.first = list(content), lowercase, first
        self.tokenizer = Tokenizer.from_str(self.content[0])
        self.literal = self.tokenizer.encode_special_tokens = literal
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.size = first + 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())
        own = _unknown_id(json.loads(self.content[0])["model"], self.tokenizer.token_to_id)
        self.unknown = unknown if unknown is not None else None if own is None else first + own
        # The tokenizer's unknown token -> its token in the data set; other tokens are shifted by `first`.
        self.numbers = {} if own is None or self.unknown is None else {own: self.unknown}
        self.originals = {number: own for own, number in self.numbers.items()}
        added = self.tokenizer.get_added_tokens_decoder().items()
        self.special = {first + number for number, token in added if token.special}

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return self._tokens(self.encoding(text))

    def encode_sized(self, text: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a text and the number of characters of each.

        Characters without a token, such as spaces, count for the next token.
        """
        encoding, sizes, end = self.encoding(text), list[int](), 0
        for _, stop in encoding.offsets:
            sizes.append(max(0, stop - end))  # the tokens of parts of a character have the same end
            end = max(end, stop)
        return self._tokens(encoding), sizes

    def encoding(self, text: str) -> "Encoding":
        """Return the encoding of a text by the package: tokens and their positions."""
        return self.tokenizer.encode(text.lower() if self.lowercase else text, add_special_tokens=False)

    def _tokens(self, encoding: "Encoding") -> list[int]:
        first, numbers = self.first, self.numbers
        return [numbers.get(number, first + number) for number in encoding.ids]

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens, without tokens below `first` and, if `literal`, without special tokens.

        The unknown token is kept. Incomplete UTF-8 becomes replacement characters.
        """
        shown = (token for token in tokens if token in self.originals or not self._is_special(token))
        own = [self.originals.get(token, token - self.first) for token in shown]
        text: str = self.tokenizer.decode(own, skip_special_tokens=False)
        return text

    def _is_special(self, token: int) -> bool:
        return token < self.first or (self.literal and token in self.special)


def _unknown_id(model: dict[str, Any], number: Any) -> int | None:
    """Return the unknown token of a tokenizer; None if it has none."""
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    return None if model.get("unk_token") is None else number(model["unk_token"])


def check_installed(key: str) -> None:
    """Raise ConfigError if the package tokenizers is not installed.

    Args:
        key: Key and value that need the package, such as ``data.tokens=bpe``.
    """
    if find_spec("tokenizers") is None:
        reason = "tokenizers, which splits words into subwords, is not installed"
        raise ConfigError(f"{key}: not supported because {reason}. Run pip install 'dltrain[text]'.")


def tokenizer_files(names: str | list[str] | None) -> list[str]:
    """Return the files for sources and targets: the same file twice for one name, and an empty list for None.

    Raises:
        ConfigError: A list has one file, or more than two.
    """
    files = [names, names] if isinstance(names, str) else list(names or [])
    if len(files) not in (0, 2):
        expected = "one file, or a list of two: for sources and for targets"
        raise ConfigError(format_error("data.tokenizer", expected, f"[{', '.join(files)}]"))
    return files


def lines_of(text: str, size: int = 100_000) -> Iterator[str]:
    """Yield a text in pieces, each up to the first line break after ``size`` characters or the end of the text."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + size) + 1 or len(text)
        yield text[start:end]
        start = end

"""Tokenizers with a mask token or an end-of-document token."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dltrain.data.tokens import Tokens
from dltrain.datasets.text_tokenizers import Encoded, Tokenizer

MASK = "<mask>"


class SpecialToken:
    """Tokenizer with a special token, which replaces its name in user-provided text.

    Args:
        tokenizer: The tokenizer.
        role: Name of the token in `Tokens`: ``mask`` or ``end``.
        name: Text of the token.
        number: Index of the token if the tokenizer has it; None to add it as the last token.
        generated: Whether language models generate it.
    """

    def __init__(
        self, tokenizer: Tokenizer, role: str, name: str, number: int | None = None, generated: bool = False
    ) -> None:
        self.tokenizer, self.role, self.name, self.generated = tokenizer, role, name, generated
        self.number = tokenizer.size if number is None else number
        self.size = tokenizer.size + (number is None)

    @property
    def spec(self) -> Tokens:
        """The vocabulary as `Tokens`."""
        known = self.tokenizer.spec
        others = (token for token in known.special if token != self.number)
        special = (*others, *[self.number][self.generated :])
        role: dict[str, Any] = {self.role: self.number}
        return replace(known, size=self.size, special=special, encode=self.encode, decode=self.decode, **role)

    def read(self, path: Path) -> str | bytes:
        """Return the content of a file."""
        return self.tokenizer.read(path)

    def encode_content(self, content: str | bytes) -> Encoded:
        """Return the tokens of the content of a file, in which the name of an added token is ordinary text."""
        return self.tokenizer.encode_content(content)

    def encode_input(self, content: str | bytes) -> Encoded:
        """Return the tokens of a user's content; the special token counts as 0 characters unless it is `generated`."""
        parts = content.split(self.name) if isinstance(content, str) else content.split(self.name.encode())
        return join(
            (encode_input(self.tokenizer, part) for part in parts), self.number, len(self.name) * self.generated
        )

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        first, *others = (self.tokenizer.encode(part) for part in text.split(self.name))
        return [*first, *(token for part in others for token in (self.number, *part))]

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens."""
        groups = groupby(tokens, key=lambda token: token == self.number)
        return "".join(
            self.name * len(list(group)) if own else self.tokenizer.decode(list(group)) for own, group in groups
        )


def encode_input(tokenizer: Tokenizer, content: str | bytes) -> Encoded:
    """Return the tokens of a user's content, which may contain special tokens."""
    return tokenizer.encode_input(content) if isinstance(tokenizer, SpecialToken) else tokenizer.encode_content(content)


def join(parts: Iterable[Encoded], token: int, size: int) -> Encoded:
    """Join encoded texts with a token of ``size`` characters between them."""
    parts = list(parts)
    between = torch.tensor([token], dtype=torch.int32)
    tokens = _join([part.tokens.int() for part in parts], between)
    sizes = [part.sizes for part in parts if part.sizes is not None]
    measured = None if len(sizes) < len(parts) else _join(sizes, torch.tensor([size], dtype=torch.int32))
    return Encoded(tokens, measured, _join([part.spelling for part in parts], torch.zeros(1, dtype=torch.int32)))


def _join(parts: list[Tensor], between: Tensor) -> Tensor:
    return torch.cat([each for part in parts for each in (between, part)][1:])

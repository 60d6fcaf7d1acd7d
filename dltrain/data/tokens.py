"""Vocabulary of text data, a fact of the data set."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Tokens:
    """Vocabulary of a text: its size, its special tokens, and the conversion from and to text.

    YAML refers to a part of it (``vocabulary: ${spec.tokens.size}``) or to the whole.

    Args:
        size: Number of different tokens, special ones included.
        pad: Token that pads short sequences.
        begin: Token that starts a text.
        end: Token that ends a text.
        mask: Token that replaces a hidden token.
        unknown: Token of words that are not in the vocabulary.
        blank: Token of a step that writes nothing, in connectionist temporal classification (CTC).
        sentinels: Tokens for hidden parts of a text, in the order in which they are used; () for none.
        special: All tokens that do not stand for text, such as those above; they are not generated.
        unit: What a token is, for the keys of predictions; None for a piece of text, which is measured in characters.
        encode: Converts text to a list of tokens, without special tokens.
        decode: Converts a list of tokens to text.
    """

    size: int
    pad: int | None = None
    begin: int | None = None
    end: int | None = None
    mask: int | None = None
    unknown: int | None = None
    blank: int | None = None
    sentinels: tuple[int, ...] = ()
    special: tuple[int, ...] = ()
    unit: str | None = None
    encode: Callable[[str], list[int]] | None = None
    decode: Callable[[list[int]], str] | None = None

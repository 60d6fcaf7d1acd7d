"""Vocabulary of a data set of tokens, part of its `Spec`."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Tokens:
    """Vocabulary of texts or music: its size, its special tokens, and the conversion from and to text.

    YAML refers to one of the fields (``vocabulary: ${spec.tokens.size}``) or to the whole object.

    Args:
        size: Number of different tokens, including special tokens; the largest index plus 1.
        pad: Token that pads short sequences.
        begin: Token that starts a text.
        end: Token that ends a text.
        mask: Token that replaces a masked token.
        unknown: Token for words that are not in the vocabulary.
        blank: Token for a step without output in connectionist temporal classification (CTC).
        sentinels: Tokens that replace masked spans of a text, in the order in which they are used; () for none.
        special: Tokens that language models do not generate, such as padding, mask and unknown tokens.
        unit: Name of a token in the keys of predictions, such as ``event`` in ``nats_per_event``; None for text, whose
            likelihood is given per character.
        encode: Function that converts text to a list of tokens, without begin and end tokens.
        decode: Function that converts a list of tokens to text.
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

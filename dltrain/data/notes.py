"""Notes of a piano roll, part of the `Spec` of a data set."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Notes:
    """Notes that a frame of a piano roll may contain: their number, and the conversion between frames and text.

    In YAML, ``${spec.notes.size}`` refers to the field ``size``.

    Args:
        size: Number of different notes.
        encode: Converts text to frames, each a list of note indices from 0.
        decode: Converts the note indices of a frame to text.
        lowest: MIDI pitch of note 0.
    """

    size: int
    encode: Callable[[str], list[list[int]]] | None = None
    decode: Callable[[list[int]], str] | None = None
    lowest: int = 0

"""The training, validation and test parts of a text file, and the documents of each."""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, pairwise, takewhile
from operator import itemgetter
from pathlib import Path
from typing import Any

from dltrain.data.splits import held_out_size
from dltrain.datasets.long_file import LongFile, join_lines
from dltrain.errors import ConfigError, format_error

NAMES = ("training", "validation", "test")
Content = Any  # str, or bytes for a file that is read as bytes


class TextParts:
    """Training, validation and test parts, which follow one another in a text.

    With a separator, documents are not divided between parts.

    Args:
        path: The file, for messages.
        chunks: Function that returns the content of the file, in one or more pieces.
        size: Number of characters or bytes of the content.
        validation, test: Fractions of the text to hold out.
        separator: Text between two documents; None if the file is one document. It may also follow the last document.
        empty: Empty content: ``""``, or ``b""`` for bytes.
        file: The file, or None if its content is in memory. Without a separator, a text file is yielded in pieces
            that end at a line break or at the end of a part; a file that is read as bytes is yielded in chunks.
    """

    def __init__(
        self,
        path: Path,
        chunks: Callable[[], Iterable[Content]],
        size: int,
        validation: float,
        test: float,
        separator: str | None = None,
        empty: Content = "",
        file: LongFile | None = None,
    ) -> None:
        self.path, self.chunks, self.separator, self.empty = path, chunks, separator, empty
        self.file = file
        held_out = [held_out_size(size, share) for share in (validation, test)]
        self.sizes = size - sum(held_out), *held_out
        self.cuts = self.sizes[0], size - self.sizes[2]

    def characters(self) -> str:
        """Return the distinct characters of the text, without separators between documents."""
        if self.file is not None and self.separator is None:
            return self.file.scan.characters
        return "".join({character for _, piece in self for character in set(piece)})

    def pieces(self, number: int = 0) -> Iterator[Content]:
        """Yield the training part or the whole text: its documents, or pieces if there is no separator.

        Args:
            number: 0 for the training part, 2 for the whole text.
        """
        return (piece for _, piece in takewhile(lambda each: each[0] <= number, self))

    def __iter__(self) -> Iterator[tuple[int, Content]]:
        """Yield each piece of the text, preceded by the number of its part, 0 to 2."""
        first, second = self.cuts
        if self.separator is not None:
            for start, document in self._documents(self.separator):
                yield (start >= first) + (start >= second), document
        elif self.file is not None and not self.file.raw:
            for number, pieces in groupby(self._pieces(), key=itemgetter(0)):
                yield from ((number, piece) for piece in join_lines(piece for _, piece in pieces))
        else:
            yield from self._pieces()

    def _pieces(self) -> Iterator[tuple[int, Content]]:
        """Yield the pieces of a text without a separator: its chunks, divided between parts."""
        first, second = self.cuts
        position = 0
        for chunk in self.chunks():
            for number, (start, end) in enumerate(pairwise((0, first, second, max(second, position + len(chunk))))):
                if piece := chunk[max(0, start - position) : max(0, end - position)]:
                    yield number, piece
            position += len(chunk)

    def _documents(self, separator: str) -> Iterator[tuple[int, Content]]:
        """Yield the position and the content of each document."""
        rest: Content = None
        start, line = 0, 1
        for chunk in self.chunks():
            border = separator if isinstance(chunk, str) else separator.encode()
            *documents, rest = (chunk if rest is None else rest + chunk).split(border)
            for document in documents:
                yield start, self._checked(document, line)
                start += len(document) + len(border)
                line += _count_lines(document) + _count_lines(border)
        if rest and rest.strip():
            yield start, rest

    def _checked(self, document: Content, line: int) -> Content:
        """Return a document; reject an empty one."""
        if not document.strip():
            got = f"an empty document in line {line}"
            hint = "Remove a separator next to it"
            raise ConfigError(format_error("data.path", f"text between separators in {self.path}", got, hint))
        return document


def _count_lines(content: Content) -> int:
    return content.count("\n" if isinstance(content, str) else b"\n")

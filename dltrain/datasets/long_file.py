"""Text files that are read in pieces, because they may not fit into memory."""

import codecs
import hashlib
import io
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from dltrain.datasets.text_content import not_utf8

CHUNK_BYTES = 2**20


class Scan(NamedTuple):
    """Hash, size and characters of a file.

    Args:
        sha256: Hash of the bytes.
        size: Number of characters; number of bytes if the file is read as bytes.
        characters: The distinct characters; empty if the file is read as bytes.
    """

    sha256: str
    size: int
    characters: str


class LongFile:
    """A file that is read in pieces: bytes, or text in UTF-8 with normalized line endings.

    Args:
        path: The file.
        raw: Whether to read bytes instead of text.
    """

    def __init__(self, path: Path, raw: bool) -> None:
        self.path, self.raw = path, raw

    @cached_property
    def scan(self) -> Scan:
        """Hash, size and characters of the file; the first access reads the whole file."""
        digest, size, characters = hashlib.sha256(), 0, set[str]()
        for content in self._read(digest):
            size += len(content)
            characters.update(() if self.raw else content)
        return Scan(digest.hexdigest(), size, "".join(characters))

    def chunks(self) -> Iterator[Any]:
        """Yield the content in pieces of at most 1 MiB.

        Raises:
            ConfigError: The file is not UTF-8.
        """
        return self._read(None)

    def _read(self, digest: Any) -> Iterator[Any]:
        utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
        with self.path.open("rb") as file:
            more = True
            while more:
                content: Any = file.read(CHUNK_BYTES)
                more = bool(content)
                if digest is not None:
                    digest.update(content)
                if not self.raw:
                    try:
                        content = decoder.decode(content, final=not more)
                    except UnicodeDecodeError as error:
                        raise not_utf8(self.path, error) from error
                if content:
                    yield content


def join_lines(pieces: Iterable[str], size: int = 100_000) -> Iterator[str]:
    """Split a text into the same pieces as `dltrain.datasets.subwords.lines_of`.

    Args:
        pieces: The text, in pieces of any size.
        size: Minimum number of characters of a piece, except the last one.
    """
    waiting = ""
    for piece in pieces:
        waiting, start = waiting + piece, 0
        while end := waiting.find("\n", start + size) + 1:
            yield waiting[start:end]
            start = end
        waiting = waiting[start:]
    if waiting:
        yield waiting

"""Read word vectors from a text file in the format of GloVe or word2vec."""

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dltrain.errors import ConfigError, format_error

KEY = "transfer.embeddings"
FORM = "a word and its numbers, separated by spaces, in each line"


class WordVectors(NamedTuple):
    """Vectors of words.

    Args:
        vectors: Word -> float32 (width,).
        width: Size of each vector.
        sha256: Hash of the file.
    """

    vectors: dict[str, Tensor]
    width: int
    sha256: str


def read_vectors(name: str, wanted: Collection[str]) -> WordVectors:
    """Read the vectors of the `wanted` words, line by line.

    A first line of two whole numbers is read as word2vec's header: the size of the vocabulary and the width.

    Raises:
        ConfigError: The file does not exist or is empty, or a line has too few numbers or a number that is not
            finite; the message then contains the line number.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(format_error(KEY, "an existing text file of word vectors", name))
    found, width, digest = dict[str, Tensor](), 0, hashlib.sha256()
    for number, line in _lines(path, digest):
        parts = line.rstrip().split(" ")
        if number == 1 and len(parts) == 2 and all(part.isdecimal() for part in parts):
            width = int(parts[1])
            continue
        width = width or len(parts) - 1
        word = " ".join(parts[:-width]) if width else ""
        if width and word not in wanted and len(parts) == width + 1:
            continue
        vector = _numbers(parts[-width:]) if width else None
        if not word or vector is None:
            expected = f"a word and {width} numbers in each line" if width else FORM
            raise ConfigError(format_error(KEY, expected, f"{line.rstrip()[:60]!r} in line {number} of {path}"))
        if word in wanted:
            found.setdefault(word, vector)
    if not width:
        raise ConfigError(format_error(KEY, FORM, f"an empty file at {path}"))
    return WordVectors(found, width, digest.hexdigest())


def _lines(path: Path, digest: "hashlib._Hash") -> Iterator[tuple[int, str]]:
    """Yield numbered lines, and add them to a hash."""
    with path.open("rb") as content:
        for number, line in enumerate(content, 1):
            digest.update(line)
            yield number, line.decode(errors="replace")


def _numbers(parts: list[str]) -> Tensor | None:
    """Return the parts as a vector, or None if one of them is not a finite number."""
    try:
        vector = torch.tensor([float(part) for part in parts])
    except ValueError:
        return None
    return vector if bool(vector.isfinite().all()) else None

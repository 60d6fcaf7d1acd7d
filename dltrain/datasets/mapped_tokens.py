"""Tokens of long texts: written once to a cache, and read from memory-mapped files."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dltrain.datasets.computed_files import computed
from dltrain.datasets.text_parts import TextParts
from dltrain.datasets.text_tokenizers import Counts, Encoded, Tokenizer, token_dtype
from dltrain.datasets.token_parts import check_documents, end_of_document
from dltrain.storage.safe_read import read_mapping

VERSION = 1  # version of the file format
ROOM = 2**16  # zeros after the tokens of a part, so that its last window can be a view
FACTS = "parts.json"


class Written(NamedTuple):
    """Counts of a part in the cache.

    Args:
        tokens, characters, unknown: See `Counts`.
        measured: Whether `Encoded.sizes` and `Encoded.spelling` are stored.
    """

    tokens: int
    characters: int | None
    unknown: int
    measured: bool


def map_parts(tokenizer: Tokenizer, parts: TextParts, key: dict[str, Any]) -> tuple[list[Encoded], list[Counts]]:
    """Return the tokens and the counts of each part; the tokens are in memory-mapped files, written if missing.

    `Encoded.sizes` and `Encoded.spelling` of the training tokens are stored only if nothing is held out.

    Args:
        key: Values that the tokens depend on, in addition to the separator, the sizes of the parts and the end token.
    """
    own = {**key, "version": VERSION, "separator": parts.separator, "sizes": parts.sizes, "end": tokenizer.spec.end}
    folder = computed("tokens", own, lambda new: _write(new, tokenizer, parts))
    written = [Written(*facts) for facts in read_mapping(folder / FACTS)["parts"]]
    encoded = [_open(folder, number, part, tokenizer.size) for number, part in enumerate(written)]
    return encoded, [Counts(part.tokens, part.characters, part.unknown) for part in written]


def _write(folder: Path, tokenizer: Tokenizer, parts: TextParts) -> None:
    """Write the tokens of each part, piece by piece, then the counts to `FACTS`."""
    writers = [_Writer(folder, number, number > 0 or not any(parts.sizes[1:]), tokenizer.size) for number in range(3)]
    end = end_of_document(tokenizer, parts)
    counts = [0, 0, 0]  # pieces of each part
    for number, piece in parts:
        if end is not None and not counts[number]:
            writers[number].add([end])
        counts[number] += 1
        pieces = tokenizer.encode_content(piece), end
        writers[number].add([each for each in pieces if each is not None])
    if parts.separator is not None:
        check_documents(parts, counts)
    (folder / FACTS).write_text(json.dumps({"parts": [writer.finish() for writer in writers]}))


class _Writer:
    """Writer of the tokens of one part."""

    def __init__(self, folder: Path, number: int, measured: bool, vocabulary: int) -> None:
        self.paths = _paths(folder, number)
        self.files = [path.open("wb") for path in (self.paths if measured else self.paths[:1])]
        self.dtype, self.is_text = token_dtype(vocabulary), True
        self.tokens = self.characters = self.unknown = 0

    def add(self, pieces: Iterable[Encoded]) -> None:
        """Append encoded pieces: a piece of text, a document and its end token, or an end token."""
        for piece in pieces:
            sizes = torch.zeros_like(piece.spelling) if piece.sizes is None else piece.sizes
            fields = piece.tokens.to(self.dtype), sizes.int(), piece.spelling.int()
            for file, values in zip(self.files, fields, strict=False):
                file.write(values.contiguous().numpy().data)
            self.is_text &= piece.sizes is not None
            self.tokens += len(piece.tokens)
            self.characters += int(sizes.sum())
            self.unknown += int(piece.spelling.count_nonzero())

    def finish(self) -> Written:
        """Close the files, and return the counts of the part."""
        self.files[0].write(torch.zeros(ROOM, dtype=self.dtype).numpy().data)
        for file in self.files:
            file.close()
        measured = self.is_text and len(self.files) > 1
        return Written(self.tokens, self.characters if self.is_text else None, self.unknown, measured)


def _open(folder: Path, number: int, part: Written, vocabulary: int) -> Encoded:
    """Return the tokens of a part; `Encoded.sizes` is None and `Encoded.spelling` empty if they are not stored."""
    paths = _paths(folder, number)
    tokens = _map(paths[0], part.tokens + ROOM, token_dtype(vocabulary))[: part.tokens]
    sizes, spelling = (_map(path, part.tokens * part.measured, torch.int32) for path in paths[1:])
    return Encoded(tokens, sizes if part.measured else None, spelling)


def _map(path: Path, size: int, dtype: torch.dtype) -> Tensor:
    """Return a tensor that maps the file into memory; changes are not written to the file."""
    return torch.from_file(str(path), shared=False, size=size, dtype=dtype) if size else torch.empty(0, dtype=dtype)


def _paths(folder: Path, number: int) -> list[Path]:
    return [folder / f"{field}-{number}.bin" for field in ("tokens", "sizes", "spelling")]

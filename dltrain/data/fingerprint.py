"""What data are, in a few characters: where two runs have equal fingerprints, they read the same."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from dltrain.data.spec import Source, Splits

WHOLE_BYTES = 256 * 2**20  # a tensor that is larger is sampled
BLOCK_BYTES = 2**20
SHOWN = 16  # of SHA-256's 64 characters


def fingerprint(splits: Splits) -> dict[str, str]:
    """The fingerprint of each split.

    It is that of names, shapes, types and bytes of the rows, before anything is prepared. Overlapping windows count
    once, by what they lie over. Of a tensor above 256 MiB evenly spaced blocks are read, the first and the last among
    them, 256 MiB in all; a change between two blocks is not seen. Of `Files` it is that of their names and, after a
    dash, that of their sizes.
    """
    parts = {"train": splits.train, "val": splits.val, "test": splits.test, "unlabelled": splits.unlabelled}
    return {name: _of_source(source) for name, source in parts.items() if source is not None}


def _of_source(source: Source) -> str:
    if isinstance(source.rows, Mapping):
        digest = hashlib.sha256()
        for name, value in source.rows.items():
            _add(digest, name, value)
        return digest.hexdigest()[:SHOWN]
    listed: Callable[[], Iterable[tuple[str, int]]] = getattr(source.rows, "files", list)
    names, sizes = hashlib.sha256(f"{len(source.rows)}".encode()), hashlib.sha256()
    for name, size in listed():
        names.update(f"\0{name}".encode(errors="surrogateescape"))
        sizes.update(f" {size}".encode())
    return f"{names.hexdigest()[:SHOWN]}-{sizes.hexdigest()[:SHOWN]}"


def _add(digest: Any, name: str, value: Tensor) -> None:
    digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
    span = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
    if value.numel() >= span > 0 and not value.is_contiguous():
        # A permutation, or rows that overlap: strides say which, and what lies below is read in its order, once.
        digest.update(str(value.stride()).encode())
        value = value.as_strided((span,), (1,))
    for block in _blocks(value.detach().cpu()):
        digest.update(block.contiguous().view(-1).view(torch.uint8).numpy())


def _blocks(value: Tensor) -> list[Tensor]:
    """All of a tensor, or evenly spaced blocks of its rows where that is too much."""
    whole = value.numel() * value.element_size()
    if whole <= WHOLE_BYTES:
        return [value]
    row_bytes = whole // len(value)
    rows = max(1, BLOCK_BYTES // row_bytes)
    count = max(2, WHOLE_BYTES // (rows * row_bytes))
    last = len(value) - rows
    return [value[start : start + rows] for start in (last * n // (count - 1) for n in range(count))]

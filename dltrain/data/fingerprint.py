"""Fingerprints of data: two runs with equal fingerprints read the same data."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from dltrain.data.spec import Source, Splits

WHOLE_BYTES = 256 * 2**20  # larger tensors are sampled
BLOCK_BYTES = 2**20
DIGITS = 16  # of the 64 hexadecimal digits of a SHA-256


def fingerprint(splits: Splits) -> dict[str, str]:
    """Return the fingerprint of each split.

    Tensors are hashed by name, shape, dtype and bytes, before anything is prepared; of overlapping windows the tensor
    below is hashed once. Tensors above 256 MiB are sampled in evenly spaced blocks of 256 MiB in total, the first and
    the last included, so a change between two blocks is missed. `Files` are hashed by file name and, after a dash, by
    file size.
    """
    parts = {"train": splits.train, "val": splits.val, "test": splits.test, "unlabelled": splits.unlabelled}
    return {name: _hash_source(source) for name, source in parts.items() if source is not None}


def _hash_source(source: Source) -> str:
    rows = source.rows if source.fingerprinted is None else source.fingerprinted
    if isinstance(rows, Mapping):
        digest = hashlib.sha256()
        for name, value in rows.items():
            _hash_tensor(digest, name, value)
        return digest.hexdigest()[:DIGITS]
    listed: Callable[[], Iterable[tuple[str, int]]] = getattr(rows, "files", list)
    names, sizes = hashlib.sha256(f"{len(rows)}".encode()), hashlib.sha256()
    for name, size in listed():
        names.update(f"\0{name}".encode(errors="surrogateescape"))
        sizes.update(f" {size}".encode())
    return f"{names.hexdigest()[:DIGITS]}-{sizes.hexdigest()[:DIGITS]}"


def _hash_tensor(digest: Any, name: str, value: Tensor) -> None:
    digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
    extent = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
    if value.numel() >= extent > 0 and not value.is_contiguous():
        # A transposed tensor or overlapping windows: hash the strides, then the underlying memory once.
        digest.update(str(value.stride()).encode())
        value = value.as_strided((extent,), (1,))
    for block in _blocks(value.detach().cpu()):
        digest.update(block.contiguous().view(-1).view(torch.uint8).numpy())


def _blocks(value: Tensor) -> list[Tensor]:
    """Return the whole tensor, or evenly spaced blocks of its rows if it is too large."""
    whole = value.numel() * value.element_size()
    if whole <= WHOLE_BYTES:
        return [value]
    row_bytes = whole // len(value)
    rows = max(1, BLOCK_BYTES // row_bytes)
    count = max(2, WHOLE_BYTES // (rows * row_bytes))
    last = len(value) - rows
    return [value[start : start + rows] for start in (last * n // (count - 1) for n in range(count))]

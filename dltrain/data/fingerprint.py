"""Fingerprints of data, to detect changed data when a run resumes or is repeated."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from dltrain.data.selection import Selection
from dltrain.data.spec import Field, Source, Splits

WHOLE_BYTES = 256 * 2**20  # larger tensors are sampled
BLOCK_BYTES = 2**20
COMPUTED = "computed "  # prefix of the fingerprints of computed data
DIGITS = 16  # hexadecimal digits of a fingerprint; a SHA-256 hash has 64


def fingerprint(splits: Splits) -> dict[str, str]:
    """Return the fingerprint of each split.

    Tensors are hashed by name, shape, dtype and bytes, before `Source.prepare` is applied. For overlapping
    windows, the memory that they share is hashed once. Tensors above 256 MiB are sampled: evenly spaced blocks of
    about 256 MiB in total, including the first and the last, so a change between two blocks is missed. `Files` have two
    hashes joined by a dash: one of the number of examples and the file names, and one of the file sizes. For computed
    data, the settings are hashed instead of the values.
    """
    # "unlabelled" is the name in the environment.json of earlier runs.
    sources = {"train": splits.train, "val": splits.val, "test": splits.test, "unlabelled": splits.unlabeled}
    return {name: _hash_source(source) for name, source in sources.items() if source is not None}


def _hash_source(source: Source) -> str:
    rows = source.rows if source.fingerprinted is None else source.fingerprinted
    if isinstance(rows, str):
        return COMPUTED + hashlib.sha256(rows.encode()).hexdigest()[:DIGITS]
    if isinstance(rows, Mapping):
        digest = hashlib.sha256()
        for name, value in rows.items():
            for part, tensor in _tensors(name, value):
                _hash_tensor(digest, part, tensor)
        return digest.hexdigest()[:DIGITS]
    list_files: Callable[[], Iterable[tuple[str, int]]] = getattr(rows, "files", list)
    names, sizes = hashlib.sha256(f"{len(rows)}".encode()), hashlib.sha256()
    for name, size in list_files():
        names.update(f"\0{name}".encode(errors="surrogateescape"))
        sizes.update(f" {size}".encode())
    return f"{names.hexdigest()[:DIGITS]}-{sizes.hexdigest()[:DIGITS]}"


def _tensors(name: str, value: Field) -> list[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        return [(name, value)]
    if isinstance(value, Selection):
        return [(f"{name} values", value.values), (f"{name} rows", value.rows)]
    return [(f"{name} values", value.values), (f"{name} lengths", value.lengths)]


def _hash_tensor(digest: Any, name: str, value: Tensor) -> None:
    digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
    extent = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
    if value.numel() >= extent > 0 and not value.is_contiguous():
        # Transposed tensors and overlapping windows: hashing their memory avoids a contiguous copy.
        digest.update(str(value.stride()).encode())
        value = value.as_strided((extent,), (1,))
    for block in _blocks(value.detach().cpu()):
        digest.update(block.contiguous().view(-1).view(torch.uint8).numpy())


def _blocks(value: Tensor) -> list[Tensor]:
    """Return the tensor as one block, or evenly spaced blocks of its rows if it exceeds `WHOLE_BYTES`."""
    total_bytes = value.numel() * value.element_size()
    if total_bytes <= WHOLE_BYTES:
        return [value]
    row_bytes = total_bytes // len(value)
    rows = max(1, BLOCK_BYTES // row_bytes)
    count = max(2, WHOLE_BYTES // (rows * row_bytes))
    last = len(value) - rows
    return [value[start : start + rows] for start in (last * n // (count - 1) for n in range(count))]

"""Arrays of an .npz file: plain numbers that fit into memory; never objects, whose reading would run code."""

import lzma
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dltrain.errors import ConfigError, format_error

# What numpy and zipfile raise for files that are damaged, encrypted or packed as they cannot unpack.
UNREADABLE = (
    *(OSError, ValueError, EOFError, MemoryError, OverflowError, TypeError, KeyError, SyntaxError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError),
)


def read(key: str, path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Some arrays of a file.

    Args:
        key: Of the configuration, for messages.
        path: Of the file.
        names: Of the arrays.

    Raises:
        ConfigError: The file is damaged, lacks an array, holds objects, or is larger than the memory once unpacked.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {member.filename.removesuffix(".npy"): member.file_size for member in archive.infolist()}
        refuse(key, path, names, sizes)
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except UNREADABLE as error:
        raise ConfigError(
            format_error(key, f"whole arrays of numbers in {path}", " ".join(str(error).split()))
        ) from error


def refuse(key: str, path: Path, names: Sequence[str], sizes: dict[str, int]) -> None:
    """Refuse a file without the arrays, or with such as cannot be held.

    Args:
        key: Of the configuration, for messages.
        path: Of the file.
        names: Of the arrays.
        sizes: Of what is in the file, in bytes when it is unpacked.

    Raises:
        ConfigError: Saying what is missing, or how large they are.
    """
    if missing := [name for name in names if name not in sizes]:
        there = ", ".join(sizes)
        raise ConfigError(
            format_error(key, f"the arrays {', '.join(names)} in {path}", f"no {missing[0]} among {there}")
        )
    memory, size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), sum(sizes[name] for name in names)
    if size > memory:
        expected = f"arrays that fit into the {memory / 1e9:,.0f} GB of this machine in {path}"
        raise ConfigError(format_error(key, expected, f"{size / 1e9:,.0f} GB when they are unpacked"))

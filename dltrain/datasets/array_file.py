"""Arrays in .npz files. Pickled objects are rejected, because unpickling runs code."""

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

# Errors that numpy and zipfile raise for damaged files, encrypted files and unknown compression methods.
UNREADABLE = (
    *(OSError, ValueError, EOFError, MemoryError, OverflowError, TypeError, KeyError, SyntaxError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError),
)


def load_arrays(key: str, path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Return the arrays with these names from a file.

    Args:
        key: Configuration key for messages.
        path: The .npz file.
        names: Names of the arrays.

    Raises:
        ConfigError: The file cannot be read, lacks an array or holds objects, or the arrays do not fit into memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_members(key, path, names, member_sizes(archive))
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except UNREADABLE as error:
        raise ConfigError(
            format_error(key, f"undamaged arrays of numbers in {path}", " ".join(str(error).split()))
        ) from error


def member_sizes(archive: zipfile.ZipFile) -> dict[str, int]:
    """Return the uncompressed size in bytes of each array of an .npz file."""
    return {member.filename.removesuffix(".npy"): member.file_size for member in archive.infolist()}


def check_members(key: str, path: Path, names: Sequence[str], sizes: dict[str, int]) -> None:
    """Check that a file has the arrays and that they fit into memory.

    Args:
        key: Configuration key for messages.
        path: The .npz file.
        names: Names of the arrays.
        sizes: Uncompressed size in bytes of each array in the file.

    Raises:
        ConfigError: An array is missing, or the arrays are too large.
    """
    if missing := [name for name in names if name not in sizes]:
        got = f"no {missing[0]} among {', '.join(sizes)}" if sizes else "no arrays"
        raise ConfigError(format_error(key, f"the arrays {', '.join(names)} in {path}", got))
    memory, size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), sum(sizes[name] for name in names)
    if size > memory:
        expected = f"arrays in {path} that fit into this machine's {memory / 1e9:,.0f} GB of memory"
        raise ConfigError(format_error(key, expected, f"{size / 1e9:,.0f} GB uncompressed"))

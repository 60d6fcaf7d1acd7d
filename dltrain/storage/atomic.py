"""Atomic file writes: write a temporary file, then rename it into place."""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

PARALLEL_BYTES = 2**20  # from this size on, hashing runs in a thread while the content is written
TEMP_NAME = re.compile(r"\.(.+)\.\d+\.tmp", re.ASCII)  # a name that `temp_path` returns


def write_atomic(path: Path, content: bytes) -> None:
    """Replace `path` in one step: readers see the old or the new content.

    Not durable: after a power failure the file may have its old content or be incomplete.
    """
    commit(write_temp(temp_path(path), lambda file: file.write(content)), path, durable=False)


def write_durable(path: Path, content: bytes) -> None:
    """Replace `path` atomically and return once the new content survives a power failure."""
    commit(write_temp(temp_path(path), lambda file: file.write(content)), path)
    fsync(path.parent)


class PendingFile(NamedTuple):
    """A complete temporary file that is not yet in its final place."""

    temp: Path
    sha256: str
    size: int

    def discard(self) -> None:
        """Delete the temporary file."""
        with contextlib.suppress(OSError):
            self.temp.unlink()


def write_temp(temp: Path, write: Callable[[Any], Any]) -> PendingFile:
    """Call `write` with a temporary file and hash what it writes; delete the file on failure."""
    file = HashingFile()
    try:
        temp.unlink(missing_ok=True)
        with open(temp, "xb", buffering=0) as file.raw:  # mode "x" does not follow a symbolic link
            write(file)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temp.unlink()
        raise file.error or error from None
    finally:
        file.pool.shutdown()
    return PendingFile(temp, file.digest.hexdigest(), file.size)


def commit(pending: PendingFile, path: Path, durable: bool = True) -> None:
    """Rename a temporary file to `path`, by default after flushing its content to disk; delete it on failure.

    The new name is durable only after `fsync` of the folder.
    """
    try:
        if durable:
            fsync(pending.temp)
        os.replace(pending.temp, path)
    except BaseException:
        pending.discard()
        raise


class HashingFile:
    """A write-only file object that computes SHA-256, in a thread for large writes."""

    raw: IO[bytes]

    def __init__(self) -> None:
        self.digest, self.size = hashlib.sha256(), 0
        self.error: OSError | None = None  # the error of a failed write, which torch.save turns into a RuntimeError
        self.pool = ThreadPoolExecutor(1)  # starts its thread at the first large write

    def write(self, content: Any) -> int:
        """Write a bytes-like object and return its size in bytes."""
        view = memoryview(content).cast("B")
        self.size += view.nbytes
        hashing = None
        if view.nbytes < PARALLEL_BYTES:
            self.digest.update(view)
        else:
            hashing = self.pool.submit(self.digest.update, view)
        try:
            rest = view
            while rest.nbytes:
                rest = rest[self.raw.write(rest) :]
        except OSError as error:
            self.error = error
            raise
        finally:
            if hashing is not None:
                hashing.result()
        return view.nbytes

    def flush(self) -> None:
        """Do nothing, because writes are unbuffered. torch.save calls this method."""


def temp_path(path: Path) -> Path:
    """Return a temporary path for `path`, in the same folder and unique to this process."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def fsync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_link(link: Path, target: str) -> None:
    """Atomically point `link` at `target` in the same folder; copy `target` where symbolic links are not supported."""
    temp = temp_path(link)
    temp.unlink(missing_ok=True)
    try:
        temp.symlink_to(target)
    except OSError:
        shutil.copyfile(link.with_name(target), temp)
    os.replace(temp, link)

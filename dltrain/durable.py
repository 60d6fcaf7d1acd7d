"""Files that are whole whatever happens: written beside, made durable, then put in their place at once."""

import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

Item = TypeVar("Item")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one; after a power cut it may be the old one."""
    temporary = beside(path)
    temporary.write_bytes(content)
    os.replace(temporary, path)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file so that a crash at any moment leaves the old one or the new one, whole."""
    write_with(path, lambda file: file.write(content))


def write_with(path: Path, write: Callable[[Any], Any]) -> tuple[str, int]:
    """Let ``write`` fill a file; durable and in its place when this returns, or as it was before when this fails.

    Returns:
        SHA-256 and size of what was written.
    """
    temporary = beside(path)
    hashed = Hashed()
    try:
        with open(temporary, "wb") as hashed.file:
            write(hashed)
            hashed.file.flush()
            os.fsync(hashed.file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise hashed.error or error from None
    sync_folder(path.parent)
    return hashed.digest.hexdigest(), hashed.size


class Hashed:
    """A file that is only written to, and hashed on the way."""

    file: IO[bytes]

    def __init__(self) -> None:
        self.digest, self.size = hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        """Write and hash; what goes wrong is kept, since torch hides it behind an error of its own."""
        self.digest.update(content)
        self.size += memoryview(content).nbytes
        try:
            return self.file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Flush the file."""
        self.file.flush()


def beside(path: Path) -> Path:
    """Where a file grows until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sync_folder(path: Path) -> None:
    """Make names in a folder durable."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def link(path: Path, name: str) -> None:
    """Make ``path`` stand for ``name`` in the same folder, at once; a copy where the file system has no links."""
    temporary = beside(path)
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(name)
    except OSError:
        shutil.copyfile(path.with_name(name), temporary)
    os.replace(temporary, path)


class Writer(Generic[Item]):
    """Hands items to a function in a thread of its own, one after the other.

    At most one item waits: a newer one takes its place.

    Args:
        write: Called in the thread; what it raises comes out of the next `put` or `wait`.
    """

    def __init__(self, write: Callable[[Item], None]) -> None:
        self.write = write
        self.waiting: Item | None = None
        self.busy = False
        self.closed = False
        self.error: BaseException | None = None
        self.changed = threading.Condition()
        self.thread: threading.Thread | None = None

    def put(self, item: Item) -> None:
        """Have an item written; returns at once."""
        with self.changed:
            self._complain()
            self.waiting = item
            if self.thread is None:
                self.thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
                self.thread.start()
            self.changed.notify_all()

    def wait(self) -> None:
        """Return when nothing is left to write."""
        with self.changed:
            while self.waiting is not None or self.busy:
                self.changed.wait()
            self._complain()

    def close(self) -> None:
        """Write what waits, then end the thread."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        if self.thread is not None:
            self.thread.join()

    def _complain(self) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        while (item := self._next()) is not None:
            try:
                self.write(item)
            except BaseException as error:  # the main thread raises it
                self.error = error
            del item
            with self.changed:
                self.busy = False
                self.changed.notify_all()

    def _next(self) -> Item | None:
        with self.changed:
            while self.waiting is None and not self.closed:
                self.changed.wait()
            item, self.waiting = self.waiting, None
            self.busy = item is not None
            return item

"""Files that are whole whatever happens: written beside, made durable, then put in their place at once."""

import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
LARGE = 2**20  # bytes that are worth a thread


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one; after a power cut it may be the old one."""
    temporary = beside(path)
    temporary.unlink(missing_ok=True)
    try:
        with open(temporary, "xb") as file:  # never through a link that somebody has put there
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_durable(path: Path, content: bytes) -> None:
    """Write a file so that a crash at any moment leaves the old one or the new one, whole."""
    put(grow(beside(path), lambda file: file.write(content)), path)
    sync(path.parent)


class Grown(NamedTuple):
    """A file that is written to its end, beside the place where it belongs."""

    temporary: Path
    sha256: str
    size: int

    def discard(self) -> None:
        """Nobody wants it any more."""
        with contextlib.suppress(OSError):
            self.temporary.unlink()


def grow(temporary: Path, write: Callable[[Any], Any]) -> Grown:
    """Let ``write`` fill a file; nothing is left of it when this fails."""
    hashed = Hashed()
    try:
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb", buffering=0) as hashed.file:
            write(hashed)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise hashed.error or error from None
    finally:
        hashed.close()
    return Grown(temporary, hashed.digest.hexdigest(), hashed.size)


def put(grown: Grown, path: Path) -> None:
    """Make a file durable, then put it in its place; it is gone when this fails.

    Its name is durable once its folder is, see `sync`.
    """
    try:
        sync(grown.temporary)
        os.replace(grown.temporary, path)
    except BaseException:
        grown.discard()
        raise


class Hashed:
    """A file that is only written to, and hashed on the way: what is large, by a thread while it is being written."""

    file: IO[bytes]

    def __init__(self) -> None:
        self.digest, self.size = hashlib.sha256(), 0
        self.error: OSError | None = None
        self.pool: ThreadPoolExecutor | None = None

    def write(self, content: Any) -> int:
        """Write and hash; what goes wrong is kept, since torch hides it behind an error of its own."""
        view = memoryview(content).cast("B")
        self.size += view.nbytes
        if view.nbytes < LARGE:
            self.digest.update(view)
            self._write(view)
            return view.nbytes
        self.pool = self.pool or ThreadPoolExecutor(1)
        hashing = self.pool.submit(self.digest.update, view)
        try:
            self._write(view)
        finally:
            hashing.result()
        return view.nbytes

    def _write(self, view: memoryview) -> None:
        try:
            while view.nbytes:
                view = view[self.file.write(view) :]
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Let the thread go."""
        if self.pool is not None:
            self.pool.shutdown()


def beside(path: Path) -> Path:
    """Where a file grows until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        drop: Called with an item that a newer one has replaced.
    """

    def __init__(self, write: Callable[[Item], None], drop: Callable[[Item], None]) -> None:
        self.write, self.drop = write, drop
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
            if self.waiting is not None:
                self.drop(self.waiting)
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

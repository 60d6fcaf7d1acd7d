"""A thread that writes one item at a time and keeps at most one waiting."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class BackgroundWriter(Generic[Item]):
    """Call `write` on submitted items in a thread, in order; the next `submit` or `wait` raises its exceptions.

    At most one item waits: a newer one replaces it, and `drop` is called with the replaced one.
    """

    def __init__(self, write: Callable[[Item], None], drop: Callable[[Item], None]) -> None:
        self.write, self.drop = write, drop
        self.waiting: Item | None = None
        self.busy = False
        self.closed = False
        self.error: BaseException | None = None
        self.changed = threading.Condition()
        self.thread: threading.Thread | None = None

    def submit(self, item: Item) -> None:
        """Queue an item and return immediately."""
        with self.changed:
            self._raise_error()
            if self.waiting is not None:
                self.drop(self.waiting)
            self.waiting = item
            if self.thread is None:
                self.thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
                self.thread.start()
            self.changed.notify_all()

    def wait(self) -> None:
        """Block until every item is written."""
        with self.changed:
            while self.waiting is not None or self.busy:
                self.changed.wait()
            self._raise_error()

    def close(self) -> None:
        """Write the waiting item and end the thread; does not raise its errors."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        if self.thread is not None:
            self.thread.join()

    def _raise_error(self) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        while (item := self._next()) is not None:
            try:
                self.write(item)
            except BaseException as error:  # raised in the main thread
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

"""What comes from outside while a run is on its way: signals, and the end of its time."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

GRACE_S = 15  # a stop that has not been obeyed by then is forced: who sent the signal may kill us 30 s after it

ENDS: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143}
NAMES = {signal.Signals(number).name: code for number, code in ENDS.items()}
SAVES = signal.SIGUSR1


class Stopped(BaseException):
    """The run ends before its time. Not an `Exception`, so that nothing takes it for a failure.

    Args:
        reason: ``SIGINT``, ``SIGTERM``, ``SIGUSR1`` or ``max_minutes``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Stop:
    """Hears signals and says between two steps what they ask for.

    While it is armed, a signal only sets `reason` and the loop obeys when its step is done; otherwise, or when the loop
    does not obey in time (a worker that hangs), `Stopped` is raised where the program stands. The second signal leaves
    at once.

    Args:
        on_abort: Called before leaving at once, with the exit code.
    """

    def __init__(self, on_abort: Callable[[int], None] = lambda code: None) -> None:
        self.on_abort = on_abort
        self.reason: str | None = None
        self.save = False  # write a checkpoint and go on
        self.requeue = False  # under Slurm, SIGUSR1 ends the run too
        self.armed = False
        self.ending = False
        self.held = False  # what is being done must not be done by half

    @contextlib.contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Handle signals; afterwards everything is as it was. Only a main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        handlers = {**dict.fromkeys(ENDS, self._end), SAVES: self._save, signal.SIGALRM: self._force}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield self
        finally:
            signal.alarm(0)
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def cooperative(self) -> Iterator[None]:
        """While the loop asks for itself."""
        self.armed = True
        try:
            yield
        finally:
            self.armed = False

    @contextlib.contextmanager
    def defer_signals(self) -> Iterator[None]:
        """While something is done that must not be done by half; only a second signal cuts it short."""
        before, self.held = self.held, True
        try:
            yield
        finally:
            self.held = before

    @contextlib.contextmanager
    def time_limit(self, minutes: float | None) -> Iterator[None]:
        """Ask for a stop when the time is up."""
        if minutes is None:
            yield
            return
        timer = threading.Timer(minutes * 60, self.time_is_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def time_is_up(self) -> None:
        """The run has had the time it was given."""
        self.reason = self.reason or "max_minutes"

    def finish(self) -> None:
        """The run is writing down how it ended, which nothing but a second signal may cut short."""
        self.armed = self.ending = True
        signal.alarm(0)

    def disarm(self) -> None:
        """Between two runs of a sweep: a signal only sets `reason`, and of the last run nothing else stays."""
        self.armed = self.ending = True
        self.on_abort = lambda code: None
        self.save = self.requeue = False
        self.reason = self.reason if self.reason in NAMES else None

    def rearm(self) -> None:
        """The next run of a sweep begins."""
        self.armed = self.ending = False

    def _end(self, number: int, frame: FrameType | None) -> None:
        name, again = signal.Signals(number).name, self.reason in NAMES
        if again:
            self.on_abort(ENDS[number])
            os._exit(ENDS[number])
        self.reason = name
        if not self.armed:
            raise Stopped(name)
        if not self.ending:
            signal.alarm(GRACE_S)

    def _save(self, number: int, frame: FrameType | None) -> None:
        self.save = True
        if self.requeue:
            self.reason = self.reason or "SIGUSR1"

    def _force(self, number: int, frame: FrameType | None) -> None:
        if self.held:
            signal.alarm(1)
            return
        raise Stopped(self.reason or "SIGTERM")

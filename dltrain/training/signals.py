"""Signals and the time limit of a run: what they ask for, and when the loop obeys.

A platform may lack a signal: Windows has neither ``SIGUSR1`` nor ``SIGALRM``. What needs it is then switched off.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

GRACE_S = 15  # the loop's time to stop by itself; schedulers kill about 30 s after their signal

SIGNAL_EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143}
SAVE_SIGNAL = "SIGUSR1"


def _alarm(seconds: int) -> None:
    """Send ``SIGALRM`` after some seconds, 0 for never."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


class Stopped(BaseException):
    """The run is stopped early. Not an `Exception`, so that no handler of failures catches it.

    Args:
        reason: ``SIGINT``, ``SIGTERM``, ``SIGUSR1`` or ``max_minutes``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Stop:
    """Handler of signals that the loop asks between two steps.

    While it is armed, a signal only sets `reason`, and the loop stops after its step. Otherwise, or when the loop does
    not stop in time (a worker hangs), `Stopped` is raised wherever the program is. A second signal ends the process at
    once.

    Args:
        on_abort: Called before the process ends at once, with the exit code.
    """

    def __init__(self, on_abort: Callable[[int], None] = lambda code: None) -> None:
        self.on_abort = on_abort
        self.reason: str | None = None
        self.save = False  # write a checkpoint and continue
        self.requeue = False  # under Slurm, SIGUSR1 stops the run too
        self.armed = False
        self.ending = False
        self.held = False  # in a section that must not be interrupted

    @contextlib.contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Handle signals, and restore the previous handlers at the end. Without effect outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        handlers = {**dict.fromkeys(SIGNAL_EXIT_CODES, self._end), SAVE_SIGNAL: self._save, "SIGALRM": self._force}
        numbers = {getattr(signal, name): handler for name, handler in handlers.items() if hasattr(signal, name)}
        before = {number: signal.signal(number, handler) for number, handler in numbers.items()}
        try:
            yield self
        finally:
            _alarm(0)
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def cooperative(self) -> Iterator[None]:
        """Only set `reason` on a signal: the loop asks for it."""
        self.armed = True
        try:
            yield
        finally:
            self.armed = False

    @contextlib.contextmanager
    def defer_signals(self) -> Iterator[None]:
        """Let nothing but a second signal interrupt the block."""
        before, self.held = self.held, True
        try:
            yield
        finally:
            self.held = before

    @contextlib.contextmanager
    def time_limit(self, minutes: float | None) -> Iterator[None]:
        """Ask the loop to stop after some minutes; None for no limit."""
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
        """Ask the loop to stop because ``trainer.max_minutes`` have passed."""
        self.reason = self.reason or "max_minutes"

    def finish(self) -> None:
        """Let nothing but a second signal interrupt the end of the run, which writes its result."""
        self.armed = self.ending = True
        _alarm(0)

    def disarm(self) -> None:
        """Between two runs of a sweep, only set `reason` on a signal, and drop the state of the last run."""
        self.armed = self.ending = True
        self.on_abort = lambda code: None
        self.save = self.requeue = False
        self.reason = self.reason if self.reason in SIGNAL_EXIT_CODES else None

    def rearm(self) -> None:
        """Start the next run of a sweep."""
        self.armed = self.ending = False

    def _end(self, number: int, frame: FrameType | None) -> None:
        name, is_second = signal.Signals(number).name, self.reason in SIGNAL_EXIT_CODES
        if is_second:
            self.on_abort(SIGNAL_EXIT_CODES[name])
            os._exit(SIGNAL_EXIT_CODES[name])
        self.reason = name
        if not self.armed:
            raise Stopped(name)
        if not self.ending:
            _alarm(GRACE_S)

    def _save(self, number: int, frame: FrameType | None) -> None:
        self.save = True
        if self.requeue:
            self.reason = self.reason or SAVE_SIGNAL

    def _force(self, number: int, frame: FrameType | None) -> None:
        if self.held:
            _alarm(1)
            return
        raise Stopped(self.reason or "SIGTERM")

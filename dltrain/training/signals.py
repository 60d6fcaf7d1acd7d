"""Signals and the time limit of a run.

Features that need a signal are disabled on platforms without it: Windows has neither ``SIGUSR1`` nor ``SIGALRM``.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

GRACE_S = 15  # seconds until a stop is forced; schedulers commonly kill a process 30 s after the first signal

SIGNAL_EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143}
SAVE_SIGNAL = "SIGUSR1"


class Stopped(BaseException):
    """Early end of a run by a signal or by ``max_minutes``. ``except Exception`` does not catch it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Stop:
    """Signal handlers that request a stop or a checkpoint; the loop checks for requests between two steps.

    In cooperative mode, SIGINT or SIGTERM only sets `reason`, and the loop stops after its step. Otherwise, or if the
    loop does not stop in time (for example because a worker hangs), the handler raises `Stopped`. A second SIGINT or
    SIGTERM exits immediately.

    Args:
        on_abort: Called with the exit code before an immediate exit.
    """

    def __init__(self, on_abort: Callable[[int], None] = lambda code: None) -> None:
        self.on_abort = on_abort
        self.reason: str | None = None
        self.save = False  # write a checkpoint and continue
        self.requeue = False  # SIGUSR1 also stops the run, so that Slurm can requeue it
        self.is_cooperative = False
        self.ending = False  # the run is over: a stop is no longer forced
        self.deferred = False  # a forced stop has to wait

    @contextlib.contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Install the signal handlers and restore the earlier ones on exit; do nothing outside the main thread."""
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
        """Make signals set `reason`, which the caller checks, instead of raising `Stopped`."""
        self.is_cooperative = True
        try:
            yield
        finally:
            self.is_cooperative = False

    @contextlib.contextmanager
    def defer_signals(self) -> Iterator[None]:
        """Postpone a forced stop to the end of the context; in cooperative mode, only a second signal interrupts it."""
        before, self.deferred = self.deferred, True
        try:
            yield
        finally:
            self.deferred = before

    @contextlib.contextmanager
    def time_limit(self, minutes: float | None) -> Iterator[None]:
        """Request a stop after this many minutes; None for no limit."""
        if minutes is None:
            yield
            return
        timer = threading.Timer(minutes * 60, self._time_is_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _time_is_up(self) -> None:
        self.reason = self.reason or "max_minutes"

    def finish(self) -> None:
        """Protect a run that writes its results: from now on, only a second signal interrupts it."""
        self.is_cooperative = self.ending = True
        _alarm(0)

    def disarm(self) -> None:
        """Reset for the time between two runs of a sweep, in which signals only set `reason`."""
        self.is_cooperative = self.ending = True
        self.on_abort = lambda code: None
        self.save = self.requeue = False
        self.reason = self.reason if self.reason in SIGNAL_EXIT_CODES else None

    def rearm(self) -> None:
        """Let signals raise `Stopped` again, for the next run of a sweep."""
        self.is_cooperative = self.ending = False

    def _end(self, number: int, frame: FrameType | None) -> None:
        name, again = signal.Signals(number).name, self.reason in SIGNAL_EXIT_CODES
        if again:
            self.on_abort(SIGNAL_EXIT_CODES[name])
            os._exit(SIGNAL_EXIT_CODES[name])
        self.reason = name
        if not self.is_cooperative:
            raise Stopped(name)
        if not self.ending:
            _alarm(GRACE_S)

    def _save(self, number: int, frame: FrameType | None) -> None:
        self.save = True
        if self.requeue:
            self.reason = self.reason or SAVE_SIGNAL

    def _force(self, number: int, frame: FrameType | None) -> None:
        if self.deferred:
            _alarm(1)
            return
        raise Stopped(self.reason or "SIGTERM")


def _alarm(seconds: int) -> None:
    """Send ``SIGALRM`` after some seconds; 0 cancels it."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)

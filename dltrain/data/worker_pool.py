"""Worker processes that decode `Files`: who dies, who hangs and what cannot be read is named at once."""

import contextlib
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from pickle import UnpicklingError
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dltrain.data.bad_samples import BadSamples
from dltrain.data.spec import Files
from dltrain.data.worker import Plan, Reader, Rows, as_is, begin
from dltrain.errors import WorkerError

TIMEOUT_S = 300.0
SHARED = Path("/dev/shm")

CHECK_S = 5.0  # between two looks at the workers while they give nothing; their end is mostly heard of at once
PATIENCE_S = 1.0  # between the end of a worker and the moment when the system says so


class Loaded:
    """The batches of `Files`.

    Args:
        files: One split.
        batch_size: Examples per batch.
        device: Where the batches go.
        workers: Processes that decode; 0 decodes in this one.
        timeout: Seconds after which a worker that gives nothing counts as hanging.
        bad: What to do about examples that cannot be read.
    """

    def __init__(
        self, files: Files, batch_size: int, device: torch.device, workers: int, timeout: float, bad: BadSamples
    ) -> None:
        self.batch_size, self.device, self.bad = batch_size, device, bad
        self.timeout = timeout
        self.failed = False
        self.processes: list[BaseProcess] = []
        self.plan = Plan()
        self.reader = Reader(files, workers)
        self.loader: DataLoader[Any] = DataLoader(
            self.reader,  # type: ignore[arg-type]
            batch_sampler=self.plan,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            timeout=min(CHECK_S, timeout) if workers else 0,
            collate_fn=as_is,
            worker_init_fn=begin,
            # Spelled out so that nothing draws a base seed for the workers from the global generator.
            generator=torch.Generator(),
        )

    def read(self, order: Tensor, start: int) -> Iterator[tuple[Tensor, Rows, int]]:
        """Indices and rows of each batch from ``start`` on; both are empty where none of its examples can be read.

        Raises:
            ConfigError: An example cannot be read.
            WorkerError: A worker is gone or hangs.
        """
        iterator = self._begin([part.tolist() for part in order.split(self.batch_size)[start:]])
        while (batch := self._next(iterator)) is not None:
            indices, rows, mistakes = batch
            for mistake in mistakes:
                self.bad.add(mistake)
            moved = {name: value.to(self.device, non_blocking=True) for name, value in rows.items()}
            yield torch.tensor(indices), moved, 0

    def close(self) -> None:
        """End the workers, also one that hangs; none is left as a zombie."""
        # DataLoader has no public way to end its workers now.
        iterator: Any = self.loader._iterator
        if iterator is not None and (self.failed or self._dead()):
            _kill(iterator)
        elif iterator is not None:
            iterator._shutdown_workers()
        self.loader._iterator, self.processes, self.failed = None, [], False

    def _begin(self, batches: list[list[int]]) -> Iterator[Any]:
        """An epoch; the first one starts the workers, and so does one before which a worker has ended."""
        if self._dead():
            self.close()
        self.plan.batches.clear()
        while self.processes and self._next(self.loader._iterator) is not None:  # type: ignore[arg-type]
            pass  # an epoch that nobody wanted to the end: what had been asked for still comes
        self.plan.batches = batches
        if self.processes:
            with self._watched():
                return iter(self.loader)
        iterator: Any = iter(self.loader)
        if self.loader.num_workers:
            self.processes = iterator._workers
            # torch would raise the end of a worker wherever the main process stands then, in the middle of anything.
            torch._C._remove_worker_pids(id(iterator))
            iterator._worker_pids_set = False
        return iterator

    def _next(self, iterator: Iterator[Any]) -> Any:
        """The next batch as `Reader` gives it, or None."""
        if not self.processes:
            return next(iterator, None)
        limit = time.monotonic() + self.timeout
        while True:
            try:
                with self._watched():
                    return next(iterator, None)
            except TimeoutError:
                if time.monotonic() >= limit:
                    self.failed = True
                    raise WorkerError(self._hanging()) from None

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """While the workers are waited for: what befalls one of them is raised at once.

        Raises:
            WorkerError: One of them is gone.
            TimeoutError: They are there and have given nothing for a while.
        """
        watching = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGCHLD, self._child_ended) if watching else None
        try:
            self._refuse_dead()
            yield
        except (RuntimeError, OSError, EOFError, UnpicklingError) as error:
            waited = "DataLoader timed out" in str(error)
            found = self._explanation(error, 0 if waited else PATIENCE_S)
            if found is None and waited:
                raise TimeoutError from None
            if found is None:
                raise
            self.failed = True
            raise WorkerError(found) from None
        finally:
            if watching:
                signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)

    def _child_ended(self, number: int, frame: FrameType | None) -> None:
        self._refuse_dead()

    def _dead(self) -> list[BaseProcess]:
        return [process for process in self.processes if not process.is_alive()]

    def _refuse_dead(self) -> None:
        if dead := self._dead():
            raise WorkerError(_lost(dead[0]))

    def _explanation(self, error: Exception, patience: float) -> str | None:
        """What is behind an error while a batch was awaited; None if no worker is gone."""
        if "allocate shared memory" in str(error):
            return _too_little("a worker process")
        if isinstance(error, WorkerError):
            return str(error)
        limit = time.monotonic() + patience
        while not (dead := self._dead()) and time.monotonic() < limit:
            time.sleep(PATIENCE_S / 20)
        return _lost(dead[0]) if dead else None

    def _hanging(self) -> str:
        names = [f"worker process {pid} in the batch that begins with example {n}" for pid, n in self.reader.busy()]
        who = " and ".join(names) or "no worker process is reading, none has finished"
        return (
            f"data.worker_timeout: expected a batch within {self.timeout:g} seconds, got none from {who}. "
            "Are the files within reach? Where reading takes so long, raise data.worker_timeout."
        )


def _kill(iterator: Any) -> None:
    """End the workers of a DataLoader by force.

    torch waits 5 seconds for each that hangs, and for ever for a lock that a killed one held: it must not try.
    """
    iterator._shutdown = True
    for process in iterator._workers:
        process.kill()
    for process in iterator._workers:
        process.join(PATIENCE_S)
    if hasattr(iterator, "_pin_memory_thread_done_event"):
        iterator._pin_memory_thread_done_event.set()


def _lost(process: BaseProcess) -> str:
    """How a process ended, and what to do about it."""
    number = -(process.exitcode or 0)
    if number == getattr(signal, "SIGBUS", None):
        return _too_little(f"worker process {process.pid}")
    how = f"was killed by signal {number} ({signal.strsignal(number)})" if number > 0 else "ended by itself"
    return (
        f"data.workers: worker process {process.pid} {how}. If the memory of the system was full (its log says so), "
        "take fewer data.workers or a smaller data.batch_size; data.workers=0 needs no such process."
    )


def _too_little(who: str) -> str:
    """What to do where there is too little shared memory."""
    return (
        f"data.workers: {who} found too little shared memory{_shared()}. Give a container more with --shm-size=2g, "
        "take a smaller data.batch_size, or data.workers=0, which needs none."
    )


def _shared() -> str:
    """How much there is, where that can be asked."""
    if not SHARED.is_dir():
        return ""
    usage = shutil.disk_usage(SHARED)
    return f" ({SHARED}: {usage.free / 1e6:,.0f} MB of {usage.total / 1e6:,.0f} MB are free)"

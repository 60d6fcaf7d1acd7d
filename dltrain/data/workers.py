"""`Files`, decoded by worker processes a batch at a time; who dies, who hangs and what cannot be read is named."""

import contextlib
import multiprocessing
import os
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
from torch.utils.data import DataLoader, get_worker_info

from dltrain.data.bad import BadSamples
from dltrain.data.spec import Files
from dltrain.errors import ConfigError, WorkerError

Rows = dict[str, Tensor]

TIMEOUT_S = 300.0
SHARED = Path("/dev/shm")
IDLE = -1

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
        self.plan = _Plan()
        self.reader = _Reader(files, workers)
        self.loader: DataLoader = DataLoader(
            self.reader,  # type: ignore[arg-type]
            batch_sampler=self.plan,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            timeout=timeout if workers else 0,
            collate_fn=_as_is,
            worker_init_fn=_begin,
            # Spelled out so that nothing draws a base seed for the workers from the global generator.
            generator=torch.Generator(),
        )

    def read(self, order: Tensor, start: int) -> Iterator[tuple[Tensor, Rows, int]]:
        """Indices and rows of each batch from ``start`` on; both are empty where none of its examples can be read.

        Raises:
            ConfigError: An example cannot be read.
            WorkerError: A worker is gone or hangs.
        """
        self.plan.batches = [part.tolist() for part in order.split(self.batch_size)[start:]]
        iterator = self._begin()
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
        self.loader._iterator, self.processes = None, []

    def _begin(self) -> Iterator[Any]:
        """An epoch; the first one starts the workers, and so does one before which a worker has ended."""
        if self._dead():
            self.close()
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
        """The next batch as `_Reader` gives it, or None."""
        if not self.processes:
            return next(iterator, None)
        with self._watched():
            return next(iterator, None)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """While the workers are waited for: whatever befalls one of them is raised at once, as a `WorkerError`."""
        watching = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGCHLD, self._child_ended) if watching else None
        try:
            self._refuse_dead()
            yield
        except (RuntimeError, OSError, EOFError, UnpicklingError) as error:
            found = self._explanation(error)
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

    def _explanation(self, error: Exception) -> str | None:
        """What is behind an error while a batch was awaited; None if the workers have nothing to do with it."""
        if "DataLoader timed out" in str(error):
            return self._hanging()
        if "allocate shared memory" in str(error):
            return _too_little("a worker process")
        if isinstance(error, WorkerError):
            return str(error)
        limit = time.monotonic() + PATIENCE_S
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


class _Reader:
    """`Files` as DataLoader wants them: what cannot be read comes back as a mistake and not as an exception.

    Args:
        files: One split.
        workers: Processes that will have a copy.
    """

    def __init__(self, files: Files, workers: int) -> None:
        self.files = files
        # Of each worker: its process, and the first example of the batch that it is reading. All processes see it.
        self.now = multiprocessing.RawArray("q", [IDLE] * 2 * workers)

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, indices: list[int]) -> tuple[list[int], Rows, list[str]]:
        """The examples of a batch that can be read, their rows, and the mistakes of the others."""
        worker = get_worker_info()
        if worker is None:
            return self._read(indices)
        self.now[2 * worker.id : 2 * worker.id + 2] = [os.getpid(), indices[0]]
        kept, rows, mistakes = self._read(indices)
        self.now[2 * worker.id + 1] = IDLE
        for value in rows.values():
            value.share_memory_()  # here, where an error reaches the main process
        return kept, rows, mistakes

    def busy(self) -> list[tuple[int, int]]:
        """The workers that are reading: process, and first example of the batch."""
        pairs = zip(self.now[::2], self.now[1::2], strict=True)
        return [(pid, example) for pid, example in pairs if example != IDLE]

    def _read(self, indices: list[int]) -> tuple[list[int], Rows, list[str]]:
        try:
            return indices, self.files.__getitems__(indices), []
        except ConfigError:
            return self._one_by_one(indices)

    def _one_by_one(self, indices: list[int]) -> tuple[list[int], Rows, list[str]]:
        found: dict[int, Rows] = {}
        mistakes = []
        for index in indices:
            try:
                found[index] = self.files.__getitems__([index])
            except ConfigError as error:
                mistakes.append(str(error))
        parts = list(found.values())
        rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}
        return list(found), rows, mistakes


class _Plan:
    """The batch sampler: a DataLoader keeps its sampler for life, the order changes every epoch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


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


def _as_is(read: Any) -> Any:
    """A batch comes as a whole: there is nothing left to collate."""
    return read


def _begin(number: int) -> None:
    """Leave signals to the main process: a group of processes gets them all, and its step must still be finished."""
    for ignored in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(ignored, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """SIGTERM counts when it comes from the main process."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _lost(process: BaseProcess) -> str:
    """How a process ended, and what to do about it."""
    number = -(process.exitcode or 0)
    if number == signal.SIGBUS:
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

"""`Files`, decoded by worker processes a batch at a time; who dies, who hangs and what cannot be read is named."""

import contextlib
import multiprocessing
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
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

DIED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)")


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
        with self._explained():
            for indices, rows, mistakes in self.loader:
                for mistake in mistakes:
                    self.bad.add(mistake)
                moved = {name: value.to(self.device, non_blocking=True) for name, value in rows.items()}
                yield torch.tensor(indices), moved, 0

    def close(self) -> None:
        """End the workers, also one that hangs; none is left as a zombie."""
        # DataLoader has no public way to end its workers now; left to itself, it waits 5 seconds for each that hangs.
        iterator: Any = self.loader._iterator
        if iterator is None:
            return
        if self.failed or not all(worker.is_alive() for worker in iterator._workers):
            torch._C._remove_worker_pids(id(iterator))  # or torch would report those that are killed here
            iterator._worker_pids_set = False
            for worker in iterator._workers:
                worker.kill()
        iterator._shutdown_workers()
        self.loader._iterator = None

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            found = self._hanging() if "DataLoader timed out" in str(error) else lost(error)
            if found is None:
                raise
            self.failed = True
            raise WorkerError(found) from None

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


def lost(error: BaseException) -> str | None:
    """What torch says about a worker that is gone, and what to do; None for any other error.

    torch raises it wherever the main process stands, not only where a batch is awaited.
    """
    if isinstance(error, WorkerError) or not isinstance(error, RuntimeError):
        return str(error) if isinstance(error, WorkerError) else None
    # Where torch waits for a batch, "is killed by signal ..." is the cause of a mere "exited unexpectedly".
    text = f"{error.__cause__ or ''}\n{error}"
    died = DIED.search(text)
    if "allocate shared memory" in text or "Bus error" in text:
        who = f"worker process {died[1]}" if died else "a worker process"
        return (
            f"data.workers: {who} found too little shared memory{_shared()}. Give a container more with --shm-size=2g, "
            "take a smaller data.batch_size, or data.workers=0, which needs none."
        )
    if not died:
        return None
    how = died[2].split(". ")[0].rstrip(". ").replace("is killed", "was killed")
    return (
        f"data.workers: worker process {died[1]} {how}. If the memory of the system was full (its log says so), "
        "take fewer data.workers or a smaller data.batch_size; data.workers=0 needs no such process."
    )


def _shared() -> str:
    """How much there is, where that can be asked."""
    if not SHARED.is_dir():
        return ""
    usage = shutil.disk_usage(SHARED)
    return f" ({SHARED}: {usage.free / 1e6:,.0f} MB of {usage.total / 1e6:,.0f} MB are free)"

"""Code of the worker processes, which read batches of `Files`, report progress and exit with the parent process."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import get_worker_info

from dltrain.data.spec import Files
from dltrain.errors import ConfigError

Rows = dict[str, Tensor]
Request = tuple[int, int | None]  # index and key of an example

IDLE = -1
PARENT_CHECK_S = 2.0


class BatchReader:
    """`Files` as the dataset of a DataLoader; errors of unreadable examples are returned as messages.

    Args:
        files: One split.
        workers: Number of worker processes.
    """

    def __init__(self, files: Files, workers: int) -> None:
        self.files = files
        # Shared memory with two numbers per worker: its process ID and the first example of its current batch.
        self.progress = multiprocessing.RawArray("q", [IDLE] * 2 * workers)

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, requests: list[Request]) -> tuple[list[int], Rows, list[str]]:
        """Return the indices of the readable examples, their rows, and one message per unreadable example."""
        worker = get_worker_info()
        if worker is None:
            return self._read(requests)
        self.progress[2 * worker.id : 2 * worker.id + 2] = [os.getpid(), requests[0][0]]
        kept, rows, errors = self._read(requests)
        self.progress[2 * worker.id + 1] = IDLE
        for value in rows.values():
            value.share_memory_()  # here, because an error in torch's sending thread would not reach the main process
        return kept, rows, errors

    def busy(self) -> list[tuple[int, int]]:
        """Return (process ID, first example of its batch) for each worker that is reading."""
        pairs = zip(self.progress[::2], self.progress[1::2], strict=True)
        return [(pid, example) for pid, example in pairs if example != IDLE]

    def _read(self, requests: list[Request]) -> tuple[list[int], Rows, list[str]]:
        kept, examples, errors = list[int](), list[Any](), list[str]()
        for index, key in requests:
            try:
                examples.append(self.files.example(index, key))
                kept.append(index)
            except ConfigError as error:
                errors.append(str(error))
        return kept, self.files.stack(examples) if examples else {}, errors


class EpochSampler:
    """Batch sampler whose batches are replaced every epoch, because a DataLoader cannot change its sampler."""

    def __init__(self) -> None:
        self.batches: list[list[Request]] = []

    def __iter__(self) -> Iterator[list[Request]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def identity(batch: Any) -> Any:
    """Return a batch unchanged: `BatchReader` has already collated it."""
    return batch


def init_worker(number: int) -> None:
    """Ignore SIGINT and SIGUSR1, which the main process handles after its current step, and exit with the parent."""
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()


def _exit_with_parent(parent: int) -> None:
    """Exit when the parent sends SIGTERM or has exited, even if a killed worker still holds a lock."""
    while os.getppid() == parent:
        received = signal.sigtimedwait({signal.SIGTERM}, PARENT_CHECK_S)
        if received is not None and received.si_pid == parent:
            break
    os._exit(0)

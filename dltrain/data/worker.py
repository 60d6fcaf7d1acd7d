"""What a worker process does: reads batches of `Files`, says on what it is at work, and obeys its parent only."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from dltrain.data.spec import Files
from dltrain.errors import ConfigError

Rows = dict[str, Tensor]

IDLE = -1
LOOK_S = 2.0  # between two looks at whether the main process is there


class Reader:
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


class Plan:
    """The batch sampler: a DataLoader keeps its sampler for life, the order changes every epoch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def as_is(read: Any) -> Any:
    """A batch comes as a whole: there is nothing left to collate."""
    return read


def begin(number: int) -> None:
    """Leave signals to the main process: a group of processes gets them all, and its step must still be finished."""
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """End when the main process says so with SIGTERM, or is gone; a lock that a killed one held may not keep us."""
    while os.getppid() == parent:
        received = signal.sigtimedwait({signal.SIGTERM}, LOOK_S)
        if received is not None and received.si_pid == parent:
            break
    os._exit(0)

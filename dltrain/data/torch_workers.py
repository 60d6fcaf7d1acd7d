"""Adapter for private names of torch's DataLoader.

DataLoader has no public way to list its worker processes, to kill them, or to keep torch's SIGCHLD handler from
raising in unrelated code. Only this module uses its private names; tests/data/test_torch_workers.py fails with a clear
message when a version of torch renames one.
"""

from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader

KILL_WAIT_S = 1.0  # maximum wait for the exit of a killed worker


def take_over_workers(iterator: Iterator[Any]) -> list[BaseProcess]:
    """Return the workers of a running iterator, and keep torch's SIGCHLD handler from raising when one exits."""
    private: Any = iterator
    torch._C._remove_worker_pids(id(iterator))
    private._worker_pids_set = False
    return private._workers


def end_workers(loader: DataLoader[Any], kill: bool) -> None:
    """End the workers of a loader; the next iteration over the loader starts new ones.

    Args:
        loader: The loader, which may have started no workers.
        kill: Whether to kill the workers. An orderly shutdown waits 5 seconds for each hanging worker, and forever for
            a lock that a killed worker held.
    """
    iterator: Any = loader._iterator
    if iterator is not None and kill:
        _kill_workers(iterator)
    elif iterator is not None:
        iterator._shutdown_workers()
    loader._iterator = None


def _kill_workers(iterator: Any) -> None:
    iterator._shutdown = True
    for process in iterator._workers:
        process.kill()
    for process in iterator._workers:
        process.join(KILL_WAIT_S)
    if hasattr(iterator, "_pin_memory_thread_done_event"):
        iterator._pin_memory_thread_done_event.set()


def is_timeout(error: Exception) -> bool:
    """Return whether an error means that no batch arrived within the timeout of the loader."""
    return "DataLoader timed out" in str(error)


def is_shared_memory_full(error: Exception) -> bool:
    """Return whether an error means that a worker could not allocate shared memory for its batch."""
    return "allocate shared memory" in str(error)

"""Worker processes that decode `Files`, and errors that name a worker that died or hangs."""

import contextlib
import itertools
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
from dltrain.data.torch_workers import end_workers, is_shared_memory_full, is_timeout, take_over_workers
from dltrain.data.worker import BatchReader, EpochSampler, Request, Rows, identity, init_worker
from dltrain.errors import WorkerError
from dltrain.keyed_random import mix

TIMEOUT_S = 300.0
SHARED_MEMORY = Path("/dev/shm")

CHECK_S = 5.0  # interval between checks of the workers while no batch arrives; SIGCHLD usually reports an exit earlier
EXIT_WAIT_S = 1.0  # maximum wait for the exit of a worker after an error that the exit may have caused


class WorkerLoader:
    """Batches of `Files`, decoded by worker processes.

    Args:
        files: One split.
        device: Device of the batches.
        workers: Number of worker processes; 0 decodes in this process.
        timeout: Seconds without a batch after which workers count as hanging.
        bad: Policy for unreadable examples.
    """

    def __init__(self, files: Files, device: torch.device, workers: int, timeout: float, bad: BadSamples) -> None:
        self.device, self.bad = device, bad
        self.timeout = timeout
        self.failed = False
        self.iterator: Iterator[Any] = iter(())
        self.processes: list[BaseProcess] = []
        self.sampler = EpochSampler()
        self.reader = BatchReader(files, workers)
        self.loader: DataLoader[Any] = DataLoader(
            self.reader,  # type: ignore[arg-type]
            batch_sampler=self.sampler,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            timeout=min(CHECK_S, timeout) if workers else 0,
            collate_fn=identity,
            worker_init_fn=init_worker,
            # The base seed of the workers is drawn from this generator instead of the global one.
            generator=torch.Generator(),
        )

    def chunks(self, plan: list[Tensor], start: int, key: int | None) -> Iterator[tuple[int, Tensor, Rows, list[int]]]:
        """Yield (batch number, indices, rows, [batch size]) for each batch from number ``start`` on.

        Indices and rows are empty if no example of the batch can be read.

        Args:
            key: Key of the random numbers for decoding in this epoch; None outside training.

        Raises:
            ConfigError: An example cannot be read and must not be skipped.
            WorkerError: A worker died or hangs, or shared memory is full.
        """
        self._start_epoch([_requests(part, key) for part in plan[start:]])
        for number in itertools.count(start):
            if (batch := self._next()) is None:
                return
            indices, rows, errors = batch
            for error in errors:
                self.bad.add(error)
            moved = {name: value.to(self.device, non_blocking=True) for name, value in rows.items()}
            yield number, torch.tensor(indices), moved, [len(indices)]

    def close(self) -> None:
        """End the workers, including hanging ones, and leave no zombie."""
        end_workers(self.loader, kill=self.failed or bool(self._dead()))
        self.processes, self.failed = [], False

    def _start_epoch(self, batches: list[list[Request]]) -> None:
        """Begin an epoch; start the workers if none are running or if one has died since the last epoch."""
        if self._dead():
            self.close()
        self.sampler.batches.clear()
        while self.processes and self._next() is not None:
            pass  # if the last epoch ended early, drain the batches that workers prefetched
        self.sampler.batches = batches
        if self.processes:
            with self._watched():
                self.iterator = iter(self.loader)
            return
        self.iterator = iter(self.loader)
        if self.loader.num_workers:
            self.processes = take_over_workers(self.iterator)

    def _next(self) -> Any:
        """Return the next batch of `BatchReader`, or None at the end of the epoch."""
        if not self.processes:
            return next(self.iterator, None)
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                with self._watched():
                    return next(self.iterator, None)
            except TimeoutError:
                if time.monotonic() >= deadline:
                    self.failed = True
                    raise WorkerError(self._hanging()) from None

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Raise as soon as a worker dies while the body of the with statement waits for the workers.

        Raises:
            WorkerError: A worker died, or shared memory is full.
            TimeoutError: All workers are alive, but no batch arrived within the timeout of the loader.
        """
        watching = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGCHLD, self._on_child_exit) if watching else None
        try:
            self._raise_if_dead()
            yield
        except (RuntimeError, OSError, EOFError, UnpicklingError) as error:
            timed_out = is_timeout(error)
            cause = self._find_cause(error, 0 if timed_out else EXIT_WAIT_S)
            if cause is None and timed_out:
                raise TimeoutError from None
            if cause is None:
                raise
            self.failed = True
            raise WorkerError(cause) from None
        finally:
            if watching:
                signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)

    def _on_child_exit(self, number: int, frame: FrameType | None) -> None:
        self._raise_if_dead()

    def _dead(self) -> list[BaseProcess]:
        return [process for process in self.processes if not process.is_alive()]

    def _raise_if_dead(self) -> None:
        if dead := self._dead():
            raise WorkerError(_exit_message(dead[0]))

    def _find_cause(self, error: Exception, wait_s: float) -> str | None:
        """Return the message for an error raised while waiting; None unless shared memory was full or a worker died."""
        if is_shared_memory_full(error):
            return _shared_memory_message("a worker process")
        if isinstance(error, WorkerError):
            return str(error)
        deadline = time.monotonic() + wait_s
        while not (dead := self._dead()) and time.monotonic() < deadline:
            time.sleep(EXIT_WAIT_S / 20)
        return _exit_message(dead[0]) if dead else None

    def _hanging(self) -> str:
        busy = [f"worker process {p} is reading the batch that begins with example {n}" for p, n in self.reader.busy()]
        who = " and ".join(busy) or "all worker processes are idle"
        return (
            f"data.worker_timeout: no batch arrived within {self.timeout:g} seconds; {who}. "
            "Check that the files can be reached, or raise data.worker_timeout if reading takes that long."
        )


@contextlib.contextmanager
def leave_cores(workers: int) -> Iterator[None]:
    """Reduce the number of torch threads by one per worker, to at least one: even idle threads of torch use a core."""
    before = torch.get_num_threads()
    if not workers or before == 1:
        yield
        return
    torch.set_num_threads(max(1, before - workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _requests(indices: Tensor, key: int | None) -> list[Request]:
    keys = [None] * len(indices) if key is None else mix(indices + key).tolist()
    return list(zip(indices.tolist(), keys, strict=True))


def _exit_message(process: BaseProcess) -> str:
    number = -(process.exitcode or 0)
    if number == getattr(signal, "SIGBUS", None):
        return _shared_memory_message(f"worker process {process.pid}")
    how = f"was killed by signal {number} ({signal.strsignal(number)})" if number > 0 else "exited unexpectedly"
    return (
        f"data.workers: worker process {process.pid} {how}. If the system ran out of memory (see its log), reduce "
        "data.workers or data.batch_size. data.workers=0 decodes without worker processes."
    )


def _shared_memory_message(who: str) -> str:
    free = ""
    if SHARED_MEMORY.is_dir():
        usage = shutil.disk_usage(SHARED_MEMORY)
        free = f" ({SHARED_MEMORY}: {usage.free / 1e6:,.0f} MB of {usage.total / 1e6:,.0f} MB are free)"
    return (
        f"data.workers: {who} found too little shared memory{free}. Start the container with --shm-size=2g, reduce "
        "data.batch_size, or set data.workers=0, which needs no shared memory."
    )

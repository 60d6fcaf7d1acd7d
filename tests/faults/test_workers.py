"""Data workers that are killed, hang, lack shared memory, or receive signals to their process group.

Rows refer to the table of faults in tests/faults/README.md.

| row | tests |
| --- | --- |
| 33 | test_a_killed_worker_is_reported_and_the_run_resumes_to_identical_results |
| 33 | test_an_idle_worker_that_is_killed_is_replaced, test_no_worker_outlives_a_killed_run |
| 35 | test_a_hanging_worker_is_reported_and_killed |
| 36 | test_too_little_shared_memory_is_reported_with_remedies, test_a_bus_error_in_a_worker_is_reported_with_remedies |
| 6, 7 | test_a_signal_to_the_process_group_stops_the_run_after_its_step |
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from children import Child, Gate
from pictures import command, paint
from same import assert_intact, assert_same, status

from dltrain.data.loader import Batches
from dltrain.datasets.image_folder import ImageFolder
from dltrain.storage.checkpoints import Checkpoints

Run = Callable[..., Child]


def workers(child: Child) -> list[int]:
    """Return the child process IDs of a command in the order of their start; the first two load training data."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parts = stat.read_text().rsplit(")", 1)[1].split()
            if int(parts[1]) == child.pid:
                found.append((int(parts[19]), int(stat.parent.name)))  # start time, process ID
    return [pid for _, pid in sorted(found)]


def have_ended(pids: list[int], seconds: float) -> bool:
    """Return whether the processes end within `seconds`. A zombie counts as running."""
    limit = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > limit:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def run_until(start: Run, gate: Gate, tmp_path: Path) -> Callable[..., tuple[Child, list[int]]]:
    """Return a function that trains until a gate is reached, and returns the child and its workers' process IDs."""

    def begin(moment: str, *more: str) -> tuple[Child, list[int]]:
        paint(tmp_path / "pictures")
        gate.close(moment)
        arguments = command(tmp_path / "pictures", "data.workers=2", f"hydra.run.dir={tmp_path / 'run'}", *more)
        child = start(*arguments, environment=gate.environment)
        gate.wait_until_reached(child, moment)
        found = workers(child)
        assert len(found) == 6  # two for each split
        return child, found

    return begin


@pytest.fixture
def reference(dltrain: Run, tmp_path: Path) -> Callable[[], Path]:
    """Return a function that trains the same run without interruption or workers and returns its folder."""

    def run() -> Path:
        arguments = command(tmp_path / "pictures", "data.workers=0", f"hydra.run.dir={tmp_path / 'whole'}")
        assert dltrain(*arguments).code == 0
        return tmp_path / "whole"

    return run


def test_a_killed_worker_is_reported_and_the_run_resumes_to_identical_results(
    run_until: Callable[..., tuple[Child, list[int]]],
    reference: Callable[[], Path],
    dltrain: Run,
    gate: Gate,
    tmp_path: Path,
) -> None:
    child, pids = run_until("train-13")
    os.kill(pids[0], signal.SIGKILL)
    gate.open("train-13")
    assert child.wait().code == 1
    assert f"worker process {pids[0]} was killed by signal 9 (Killed)" in child.stderr
    assert "data.workers=0" in child.stderr and "Traceback" not in child.stderr
    assert have_ended(pids, 30)
    run = tmp_path / "run"
    assert_intact(run)
    assert status(run)["state"] == "failed"
    # The run still uses batches that the worker had delivered, and saves a checkpoint every second step.
    assert Checkpoints(run).load("last.pt")["loop"]["step"] in (12, 14)
    resumed = dltrain("resume", str(run), "data.workers=0", "allow_targets=[gated]")
    assert resumed.code == 0, resumed.stderr
    assert_same(run, reference())


def test_an_idle_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    splits = ImageFolder(str(paint(tmp_path)), image_size=8).load()
    batches = Batches(splits.train, 4, training=True, workers=2)
    list(batches.epoch(0))
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    found = list(batches.epoch(1))
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()
    reference = Batches(splits.train, 4, training=True).epoch(1)
    assert all(torch.equal(one["inputs"], other["inputs"]) for one, other in zip(found, reference, strict=True))


@pytest.mark.faults
def test_no_worker_outlives_a_killed_run(run_until: Callable[..., tuple[Child, list[int]]]) -> None:
    child, pids = run_until("train-13")
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert have_ended(pids, 30)


@pytest.mark.faults
def test_a_hanging_worker_is_reported_and_killed(
    run_until: Callable[..., tuple[Child, list[int]]], gate: Gate, tmp_path: Path
) -> None:
    child, pids = run_until("train-13", "data.worker_timeout=2")
    for picture in (tmp_path / "pictures").rglob("*.png"):  # opening a pipe without a writer blocks
        picture.unlink()
        os.mkfifo(picture)
    gate.open("train-13")
    assert child.wait().code == 1
    named = [
        pid for pid in pids if f"worker process {pid} is reading the batch that begins with example" in child.stderr
    ]
    assert named and "within 2 seconds" in child.stderr and "Traceback" not in child.stderr
    assert have_ended(pids, 30)
    assert status(tmp_path / "run")["state"] == "failed"
    assert_intact(tmp_path / "run")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.faults)]
)
@pytest.mark.faults
def test_a_signal_to_the_process_group_stops_the_run_after_its_step(
    number: signal.Signals,
    code: int,
    run_until: Callable[..., tuple[Child, list[int]]],
    reference: Callable[[], Path],
    dltrain: Run,
    gate: Gate,
    tmp_path: Path,
) -> None:
    child, pids = run_until("train-13")
    os.killpg(child.pid, number)
    time.sleep(0.2)
    gate.open("train-13")
    assert child.wait().code == code, child.stderr
    assert have_ended(pids, 30)
    run = tmp_path / "run"
    assert Checkpoints(run).load("last.pt")["loop"]["step"] == 13 and "Traceback" not in child.stderr
    assert dltrain("resume", str(run), "allow_targets=[gated]").code == 0
    assert_same(run, reference())


def test_a_bus_error_in_a_worker_is_reported_with_remedies(
    run_until: Callable[..., tuple[Child, list[int]]], gate: Gate, tmp_path: Path
) -> None:
    child, pids = run_until("train-13")
    os.kill(pids[0], signal.SIGBUS)
    gate.open("train-13")
    assert child.wait().code == 1
    assert f"worker process {pids[0]} found too little shared memory" in child.stderr
    assert "--shm-size" in child.stderr and "data.workers=0" in child.stderr and "Traceback" not in child.stderr


@pytest.mark.faults
def test_too_little_shared_memory_is_reported_with_remedies(tmp_path: Path) -> None:
    narrow = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    if subprocess.run([*narrow, mount], capture_output=True, check=False).returncode:
        pytest.skip("this system does not allow mounting a file system in a namespace")
    arguments = command(paint(tmp_path / "pictures"), "data.workers=2", "data.image_size=128", "data.batch_size=8")
    arguments = [word for word in arguments if "gated" not in word]
    call = [*narrow, f'{mount} && exec "$@"', "sh", sys.executable, "-m", "dltrain", *arguments]
    found = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert found.returncode == 1, found.stderr
    assert "found too little shared memory" in found.stderr and "--shm-size" in found.stderr
    assert "data.workers=0" in found.stderr and "dltrain: data.workers" in found.stderr

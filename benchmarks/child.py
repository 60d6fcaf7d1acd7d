"""Train one workload with one system in this process and write the measurements.

    python child.py SYSTEM WORKLOAD DATA_FOLDER STEPS STARTED RESULT.json

STARTED is the time (seconds since 1970) at which the process was started.
"""

import itertools
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import peers
import systems
from systems import Task

SYSTEMS: dict[str, Callable[[Task], None]] = {
    "dltrain": systems.dltrain,
    "bare": systems.bare,
    "lightning": peers.lightning,
    "hf": peers.hf,
    "fastai": peers.fastai,
    "keras": peers.keras,
    "dltrain-bf16": partial(systems.dltrain, precision="bf16"),
    "bare-bf16": partial(systems.bare, precision="bf16"),
}
BLOCK = 50  # steps of a timed block; each block includes one step that logs
GROWTH = (500, 10_100)  # an early and a late step, at the same position in an epoch of the tiny MLP


def main(system: str, name: str, folder: str, steps: str, started: str, result: str) -> None:
    clocks = time.time() - time.perf_counter()
    memory: dict[int, float] = {}

    def watch(step: int) -> None:
        if step in GROWTH:
            memory[step] = resident_mb()

    with tempfile.TemporaryDirectory() as scratch:
        task = Task(name, Path(folder), Path(scratch), int(steps), watch if int(steps) > max(GROWTH) else None)
        SYSTEMS[system](task)
    stamps = task.stamps[: task.steps]
    if len(stamps) < task.steps:
        raise SystemExit(f"{system}: expected {task.steps} steps, got {len(stamps)}")
    warm = max(1, min(task.workload.warmup, len(stamps) // 4))
    seconds = (stamps[-1] - stamps[warm - 1]) / (len(stamps) - warm)
    measured = {
        "ms_per_step": 1000 * seconds,
        "samples_per_s": task.workload.batch_size / seconds,
        "seconds_to_first_step": clocks + stamps[0] - float(started),
        "peak_mb": peak_mb(),
        **task.seen,
    }
    if memory:
        measured["growth"] = {step: {"us": around(stamps, step), "rss_mb": memory[step]} for step in memory}
    Path(result).write_text(json.dumps(measured))


def around(stamps: list[float], step: int) -> float:
    """Return microseconds per step near `step`: the lower quartile of 20 blocks."""
    edges = stamps[step - 10 * BLOCK : step + 10 * BLOCK + 1 : BLOCK]
    blocks = sorted(1e6 * (b - a) / BLOCK for a, b in itertools.pairwise(edges))
    return blocks[len(blocks) // 4]


def peak_mb() -> float:
    """Return the peak memory in MiB; VmHWM is preferred because ru_maxrss includes the parent's memory at the fork."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def resident_mb() -> float:
    """Return the current memory of this process in MiB, or the peak memory if /proc is missing."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_mb()
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmRSS" in line) / 2**10


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Information about a run for tables of runs, read from small files without importing torch or loading checkpoints."""

import contextlib
import os
import shlex
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from dltrain.runs import provenance
from dltrain.storage import run_dir, run_files
from dltrain.storage.safe_read import get_mapping, is_number, parse_mapping, read_mapping, read_text

MAIN_GROUPS = ("model", "data", "task")  # groups that have a column in tables of runs
TAIL_BYTES = 4096  # longer than a line of metrics.jsonl
MANIFEST = f"{run_files.CHECKPOINTS}/{run_files.MANIFEST}"
LOST = "lost"  # state of a run that is recorded as running, but not locked by any process

RunInfo = dict[str, Any]


def run_info(path: Path) -> RunInfo:
    """Return information about a run; values that the run folder does not contain are None.

    Keys: folder, model, data, task, metric and value (the run's main metric, as TensorBoard names it), better (``min``
    or ``max``), state, error, step, age (seconds since `last_active`), updated (`last_active` as text), time
    (duration in seconds), choices (option of each config group), typed (arguments of the command, without the options
    of `MAIN_GROUPS`).
    """
    status, result = run_dir.read_status(path), read_mapping(path / run_files.RESULT)
    environment = provenance.load_environment(path)
    entries = [entry for entry in read_mapping(path / MANIFEST).values() if isinstance(entry, dict)]
    state, choices = status.get("state"), get_mapping(environment, "choices")
    if state == "running" and not run_dir.is_locked(path):  # a killed process could not record its state
        state = LOST
    updated = last_active(path)
    took = _elapsed_seconds(status, entries, time.time() if state == "running" else updated)
    steps = [status.get("step"), *(entry.get("step") for entry in entries)]
    steps += [_last_step(path / run_files.METRICS)] if state in ("running", LOST) else []
    return {
        "folder": str(path),
        **{group: choices.get(group) for group in MAIN_GROUPS},
        **_headline_metric(result, entries, get_mapping(environment, "metric")),
        "state": state,
        "error": status.get("error"),
        "step": _largest_number(steps),
        "age": max(0.0, time.time() - updated),
        "updated": run_dir.iso_time(updated),
        "time": _largest_number([result.get("seconds")]) or took,
        "choices": choices,
        "typed": _typed_overrides(path),
    }


def last_active(path: Path) -> float:
    """Return when a run last wrote its status, metrics or checkpoints, in seconds since 1970.

    The status alone is not enough, because a killed process does not update it.
    """
    times = [0.0]
    for name in (run_files.STATUS, run_files.METRICS, MANIFEST):
        with contextlib.suppress(OSError):
            times.append((path / name).stat().st_mtime)
    return max(times)


def _largest_number(values: Iterable[Any]) -> Any:
    """Return the largest of the finite numbers among `values`, or None."""
    return max(filter(is_number, values), default=None)


def _headline_metric(result: dict[str, Any], entries: list[dict[str, Any]], known: dict[str, Any]) -> RunInfo:
    """Return the main metric of a run: on the test split or, if not yet known, its best validation value."""
    name = str(result.get("metric") or known.get("name"))
    value, split = _largest_number([get_mapping(result, "test").get(name)]), "test"
    if value is None:
        best = [entry.get("metric") for entry in entries if entry.get("best")]
        value, split = _largest_number(best[-1:]), "val"
    return {"metric": None if value is None else f"{name}/{split}", "value": value, "better": known.get("better")}


def _elapsed_seconds(status: dict[str, Any], entries: list[dict[str, Any]], until: float) -> float | None:
    """Return the seconds that a run without a result took.

    This is the time from the start of the latest session to `until`, or the total stored with a checkpoint if that is
    larger; None if the start is unknown.
    """
    try:
        here = until - datetime.fromisoformat(status["started"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    return _largest_number([here, *(entry.get("seconds") for entry in entries)])


def _last_step(path: Path) -> Any:
    """Return the step of the last complete line of ``metrics.jsonl``, or None."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
        return parse_mapping(lines[-1].decode()).get("step") if lines else None
    except (OSError, ValueError):
        return None


def _typed_overrides(path: Path) -> str | None:
    """Return the arguments of a run's command, without options of `MAIN_GROUPS`; None if the command cannot be read."""
    try:
        words = shlex.split(read_text(path / run_files.COMMAND))[1:]
    except (OSError, ValueError):
        return None
    columns = tuple(f"{group}=" for group in MAIN_GROUPS)
    return " ".join(word for word in words if not word.startswith(columns))

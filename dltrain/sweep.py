"""A sweep: every combination of the values given, one after the other in one process, and a table at the end."""

import csv
import io
import json
import shlex
import statistics
import time
import traceback
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dltrain import compose, folder
from dltrain.compose import Job
from dltrain.console import Console, duration
from dltrain.durable import write_whole
from dltrain.errors import ConfigError, problem


@dataclass
class Row:
    """One job of a sweep, as the summary tells it."""

    job: int
    choices: dict[str, str]
    state: str
    metric: str = ""
    value: float | None = None
    test: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    folder: str = ""
    error: str | None = None


def sweep(jobs: list[Job], console: Console) -> int:
    """Run all jobs; one that fails does not touch the next.

    Returns:
        0, 1 if any failed, or 130 if Ctrl-C ended it.
    """
    swept = swept_keys(jobs)
    home = sweep_folder(jobs[0])
    console.say(f"sweep of {len(jobs)} job{'s' * (len(jobs) > 1)} over {', '.join(swept) or 'nothing'} in {home}")
    rows: list[Row] = []
    for number, job in enumerate(jobs):
        chosen = {key: value for key, value in pairs(job).items() if key in swept}
        console.say(f"job {number + 1} of {len(jobs)}: {' '.join(f'{k}={v}' for k, v in chosen.items())}")
        rows.append(run_job(number, chosen, job, home, console))
        write(home, rows, swept)
        if rows[-1].state == "interrupted":
            break
    report(console, rows, swept, home)
    states = {row.state for row in rows}
    return 130 if "interrupted" in states else int(states != {"finished"})


def run_job(number: int, chosen: dict[str, str], job: Job, home: Path, console: Console) -> Row:
    """One job; whatever happens becomes a row."""
    begun = time.perf_counter()
    row = Row(number, chosen, "failed")
    try:
        fill(row, job, console, begun, home / job_name(number, chosen))
    except ConfigError as error:
        console.error(list(error.problems))
        row.error = "; ".join(error.problems)
    except KeyboardInterrupt:
        row.state, row.error = "interrupted", "interrupted from the keyboard"
    except Exception as error:
        console.error(traceback.format_exc().splitlines())
        row.error = f"{type(error).__name__}: {error}"
    row.seconds = time.perf_counter() - begun
    return row


def fill(row: Row, job: Job, console: Console, begun: float, path: Path) -> None:
    """Train, and write into the row how it went."""
    from dltrain.run import train

    outcome = train(job, console, begun, str(path))
    result = outcome.result
    row.state, row.error, row.folder = outcome.state, outcome.error, str(outcome.folder)
    row.metric, row.test = result.get("metric", ""), result.get("test", {})
    row.value = row.test.get(row.metric)


def sweep_folder(job: Job) -> Path:
    """A fresh folder for the sweep, or the one that ``hydra.sweep.dir`` names.

    Raises:
        ConfigError: When it holds a sweep already, or cannot be written.
    """
    root = compose.default_root()
    path = Path(job.sweep_dir).expanduser() if job.sweep_dir else None
    folder.check_writable(path or root, "hydra.sweep.dir")
    if path is None:
        return folder.fresh(root / "sweep")
    if (path / "summary.json").exists():
        raise ConfigError(problem("hydra.sweep.dir", "a folder that holds no sweep yet", path, "It has summary.json."))
    path.mkdir(parents=True, exist_ok=True)
    return path


def pairs(job: Job) -> dict[str, str]:
    """What a job's command sets: key -> value."""
    return dict(text.lstrip("+").split("=", 1) for text in job.overrides if "=" in text)


def swept_keys(jobs: list[Job]) -> list[str]:
    """The keys whose values differ between jobs, in the order they were typed."""
    first = pairs(jobs[0])
    return [key for key in first if len({pairs(job)[key] for job in jobs}) > 1]


def job_name(number: int, chosen: dict[str, str]) -> str:
    """A short folder name that tells jobs apart in TensorBoard: ``0_model=lstm,lr=0.01``."""
    text = ",".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in chosen.items())
    safe = "".join(c if c.isalnum() or c in "=,.-_" else "_" for c in text)[:80]
    return f"{number}_{safe}" if safe else str(number)


def report(console: Console, rows: list[Row], swept: list[str], home: Path) -> None:
    """The table of all jobs, and what seeds add up to."""
    metric = f"{next((row.metric for row in rows if row.metric), 'metric')} (test)"
    table = [
        [str(row.job), *row.choices.values(), show(row.value), row.state, duration(row.seconds), Path(row.folder).name]
        for row in rows
    ]
    console.table("sweep", ["job", *swept, metric, "state", "time", "folder"], table, results=True)
    groups = over_seeds(rows, swept)
    if groups:
        others = [key for key in swept if key != "seed"]
        lines = [[*g["choices"].values(), show(g["mean"]), show(g["deviation"]), str(g["seeds"])] for g in groups]
        console.table("over seeds", [*others, metric, "deviation", "seeds"], lines, results=True)
    for row in rows:
        if row.error:
            console.error([f"job {row.job} {row.state}: {row.error}"])
    console.say(f"summary      {home / 'summary.csv'}")
    console.say(f"tensorboard --logdir {shlex.quote(str(home))}")


def over_seeds(rows: list[Row], swept: list[str]) -> list[dict[str, Any]]:
    """Mean and deviation of the metric over seeds, for jobs that differ in nothing else; empty without several seeds.

    The deviation is that of a sample, and unknown of a single one.
    """
    if "seed" not in swept:
        return []
    found: dict[tuple[tuple[str, str], ...], list[float]] = defaultdict(list)
    for row in rows:
        key = tuple((k, v) for k, v in row.choices.items() if k != "seed")
        if row.value is not None:
            found[key].append(row.value)
    return [
        {
            "choices": dict(key),
            "mean": statistics.fmean(values),
            "deviation": statistics.stdev(values) if len(values) > 1 else None,
            "seeds": len(values),
        }
        for key, values in found.items()
    ]


def write(home: Path, rows: list[Row], swept: list[str]) -> None:
    """``summary.csv`` and ``summary.json``, rewritten after every job so that nothing is lost."""
    metrics = dict.fromkeys(name for row in rows for name in row.test)
    heads = ["job", *swept, "state", *[f"{name}/test" for name in metrics], "seconds", "folder", "error"]
    text = io.StringIO()
    table = csv.DictWriter(text, heads, extrasaction="ignore")
    table.writeheader()
    for row in rows:
        tested = {f"{name}/test": value for name, value in row.test.items()}
        table.writerow({**vars(row), **row.choices, **tested, "seconds": f"{row.seconds:.3f}"})
    write_whole(home / "summary.csv", text.getvalue().encode())
    content = {"jobs": [vars(row) for row in rows], "over_seeds": over_seeds(rows, swept)}
    write_whole(home / "summary.json", json.dumps(content, indent=2).encode())


def show(value: float | None) -> str:
    """Four significant digits."""
    return "" if value is None else f"{value:.4g}"

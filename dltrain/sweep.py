"""A sweep: every combination of the values given, one after the other in one process, and a table at the end."""

import csv
import io
import json
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dltrain import compose, folder
from dltrain.compose import Job
from dltrain.console import Console, duration
from dltrain.errors import ConfigError


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


def sweep(overrides: list[str], config_dirs: tuple[str, ...], console: Console) -> int:
    """Run all jobs; one that fails does not touch the next. Returns 0, or 1 if any failed.

    Raises:
        ConfigError: When any job's keys, options or values are wrong; none has run then.
    """
    jobs = compose.expand(overrides, config_dirs)
    swept = swept_keys(jobs)
    home = sweep_folder(jobs[0])
    console.say(f"sweep of {len(jobs)} jobs over {', '.join(swept) or 'nothing'} in {home}")
    rows = []
    for number, job in enumerate(jobs):
        chosen = {key: value for key, value in pairs(job).items() if key in swept}
        console.say(f"job {number + 1} of {len(jobs)}: {' '.join(f'{k}={v}' for k, v in chosen.items())}")
        rows.append(run_job(number, chosen, job, home, console))
        write(home, rows, swept)
    report(console, rows, swept, home)
    return 1 if any(row.state != "finished" for row in rows) else 0


def run_job(number: int, chosen: dict[str, str], job: Job, home: Path, console: Console) -> Row:
    """One job; whatever happens becomes a row."""
    from dltrain.run import train

    begun = time.perf_counter()
    row = Row(number, chosen, "failed")
    try:
        outcome = train(job, console, begun, str(home / job_name(number, chosen)))
    except ConfigError as error:
        console.error(list(error.problems))
        row.error = "; ".join(error.problems)
    else:
        result = outcome.result
        row.state, row.error, row.folder = outcome.state, outcome.error, str(outcome.folder)
        row.metric, row.test = result.get("metric", ""), result.get("test", {})
        row.value = row.test.get(row.metric)
    row.seconds = time.perf_counter() - begun
    return row


def sweep_folder(job: Job) -> Path:
    """A fresh folder for the sweep, or the one that ``hydra.sweep.dir`` names."""
    root = compose.default_root()
    folder.check_writable(Path(job.sweep_dir) if job.sweep_dir else root)
    if job.sweep_dir is None:
        return folder.fresh(root / "sweep")
    path = Path(job.sweep_dir).expanduser()
    if (path / "summary.json").exists():
        raise ConfigError(f"hydra.sweep.dir: expected a folder that holds no sweep yet, got {path}")
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
    metric = next((row.metric for row in rows if row.metric), "metric")
    table = [
        [
            str(row.job),
            *[row.choices[k] for k in swept],
            show(row.value),
            row.state,
            duration(row.seconds),
            Path(row.folder).name,
        ]
        for row in rows
    ]
    console.table("sweep", ["job", *swept, f"{metric} (test)", "state", "time", "folder"], table)
    groups = over_seeds(rows, swept)
    if groups:
        others = [key for key in swept if key != "seed"]
        lines = [
            [*[g["choices"][k] for k in others], show(g["mean"]), show(g["deviation"]), str(g["seeds"])] for g in groups
        ]
        console.table("over seeds", [*others, f"{metric} (test)", "deviation", "seeds"], lines)
    for row in rows:
        if row.error:
            console.error([f"job {row.job} {row.state}: {row.error}"])
    console.say(f"summary      {home / 'summary.csv'}")
    console.say(f"tensorboard --logdir {home}")


def over_seeds(rows: list[Row], swept: list[str]) -> list[dict[str, Any]]:
    """Mean and deviation of the metric over seeds, for jobs that differ in nothing else; empty without several seeds."""
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
            "deviation": statistics.stdev(values) if len(values) > 1 else 0.0,
            "seeds": len(values),
        }
        for key, values in found.items()
    ]


def write(home: Path, rows: list[Row], swept: list[str]) -> None:
    """``summary.csv`` and ``summary.json``, rewritten after every job so that nothing is lost."""
    metrics = list(dict.fromkeys(name for row in rows for name in row.test))
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["job", *swept, "state", *[f"{name}/test" for name in metrics], "seconds", "folder", "error"])
    for row in rows:
        values = [row.test.get(name, "") for name in metrics]
        table.writerow(
            [
                row.job,
                *[row.choices[k] for k in swept],
                row.state,
                *values,
                f"{row.seconds:.3f}",
                row.folder,
                row.error or "",
            ]
        )
    folder.write_whole(home / "summary.csv", text.getvalue().encode())
    content = {"jobs": [vars(row) for row in rows], "over_seeds": over_seeds(rows, swept)}
    folder.write_whole(home / "summary.json", json.dumps(content, indent=2).encode())


def show(value: float | None) -> str:
    """Four significant digits."""
    return "" if value is None else f"{value:.4g}"

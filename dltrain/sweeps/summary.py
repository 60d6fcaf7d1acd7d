"""Results of a sweep, one row per job, in ``summary.csv``, ``summary.json`` and as a table."""

import csv
import io
import json
import shlex
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dltrain import redaction
from dltrain.loggers.console import Console
from dltrain.loggers.formatting import format_duration, format_number
from dltrain.runs import provenance
from dltrain.storage import run_dir, run_files, safe_read
from dltrain.storage.atomic import write_atomic

# Jobs in these states are not run again if their result can be read, because it would be the same.
FINAL_STATES = ("finished", "diverged", "out_of_memory")


@dataclass
class JobResult:
    """One job of a sweep, as a row of the summary."""

    job: int
    choices: dict[str, str]
    state: str
    metric: str = ""
    better: str = ""  # min or max
    validation: float | None = None  # the best value of the metric on the validation split
    value: float | None = None  # the metric on the test split
    test: dict[str, float | None] = field(default_factory=dict)
    seconds: float = 0.0
    folder: str = ""
    error: str | None = None

    def add_metrics(self, result: dict[str, Any]) -> None:
        """Read the metrics from the content of ``result.json``, where NaN and Inf are null."""
        self.metric = str(result.get("metric", ""))
        found = safe_read.get_mapping(result, "test").items()
        self.test = {name: value if safe_read.is_number(value) else None for name, value in found}
        self.value = self.test.get(self.metric)
        best = safe_read.get_mapping(result, "best").get(self.metric)
        self.validation = best if safe_read.is_number(best) else None
        environment = provenance.load_environment(Path(self.folder))
        self.better = str(safe_read.get_mapping(environment, "metric").get("better", ""))


def load_result(number: int, chosen: dict[str, str], path: Path) -> JobResult | None:
    """Return the result of a job from an earlier command, or None if the job has to run."""
    status = run_dir.read_status(path)
    if status.get("state") not in FINAL_STATES:
        return None
    error = status.get("error")
    row = JobResult(number, chosen, status["state"], folder=str(path), error=None if error is None else str(error))
    result = safe_read.read_mapping(path / run_files.RESULT)
    if row.state == "finished":  # other states may have an earlier result.json
        row.add_metrics(result)
    earlier = safe_read.read_mapping(path.parent / run_files.SUMMARY_JSON).get("jobs")
    known = [job for job in earlier if isinstance(job, dict)] if isinstance(earlier, list) else []
    took: list[Any] = [*(job.get("seconds") for job in known if job.get("job") == number), result.get("seconds")]
    row.seconds = next((seconds for seconds in took if safe_read.is_number(seconds)), 0.0)
    return row if result or row.state != "finished" else None


def best_job(rows: list[JobResult]) -> int | None:
    """Return the number of the first job with the best validation metric, or None if no job has a validation metric."""
    values = {row.job: row.validation for row in rows if row.validation is not None}
    if not values:
        return None
    choose = max if all(row.better == "max" for row in rows if row.job in values) else min
    return choose(values, key=lambda job: values[job])


def write_summary(home: Path, rows: list[JobResult], swept: list[str]) -> None:
    """Write ``summary.csv`` and ``summary.json``; called after every job, so that no result is lost."""
    metrics = dict.fromkeys(name for row in rows for name in row.test)
    chosen_by, best = f"{_metric(rows)}/val", best_job(rows)
    tests = [f"{name}/test" for name in metrics]
    heads = ["job", *swept, chosen_by, "best", "state", *tests, "seconds", "folder", "error"]
    text = io.StringIO()
    table = csv.DictWriter(text, heads, extrasaction="ignore")
    table.writeheader()
    for row in rows:
        tested = {f"{name}/test": value for name, value in row.test.items()}
        facts = {chosen_by: row.validation, "best": "best" * (row.job == best), "seconds": f"{row.seconds:.3f}"}
        table.writerow(redaction.mask({**vars(row), **row.choices, **tested, **facts}))
    write_atomic(home / run_files.SUMMARY_CSV, text.getvalue().encode(errors="backslashreplace"))
    jobs = [vars(row) for row in rows]
    content = redaction.mask({"best": best, "jobs": jobs, "over_seeds": _seed_statistics(rows, swept)})
    write_atomic(home / run_files.SUMMARY_JSON, json.dumps(content, indent=2).encode())


def print_summary(console: Console, rows: list[JobResult], swept: list[str], home: Path) -> None:
    """Print the table of all jobs, the statistics over seeds, the best job on validation, and all errors."""
    metric, best = _metric(rows), best_job(rows)
    table = []
    for row in rows:
        numbers = map(format_number, (row.validation, row.value))
        state = f"{row.state}, best" if row.job == best else row.state
        ending = (*numbers, state, format_duration(row.seconds), Path(row.folder).name)
        table.append([str(row.job), *row.choices.values(), *ending])
    heads = [f"{metric} (val)", f"{metric} (test)"]
    console.table("sweep", ["job", *swept, *heads, "state", "time", "folder"], table, results=True)
    if groups := _seed_statistics(rows, swept):
        others = [key for key in swept if key != "seed"]
        numbers_of = ("validation", "mean", "deviation")
        lines = [[*g["choices"].values(), *(format_number(g[n]) for n in numbers_of), str(g["seeds"])] for g in groups]
        console.table("over seeds", [*others, *heads, "deviation", "seeds"], lines, results=True)
    for row in rows:
        if row.job == best:
            console.info(f"best {metric} on validation: job {best}. Repeat it: dltrain rerun {shlex.quote(row.folder)}")
    for row in rows:
        if row.error:
            console.error([f"job {row.job} {row.state}: {row.error}"])
    console.info(f"summary      {home / run_files.SUMMARY_CSV}")
    console.info(f"tensorboard --logdir {shlex.quote(str(home))}")


def _metric(rows: list[JobResult]) -> str:
    return next((row.metric for row in rows if row.metric), "metric")


def _seed_statistics(rows: list[JobResult], swept: list[str]) -> list[dict[str, Any]]:
    """Return statistics of the metric for each group of jobs that differ only in seed.

    These are the means on the validation and test splits, and the sample standard deviation on the test split, which
    is None for a single seed. Groups without a test metric are left out. The list is empty unless seeds were swept.
    """
    if "seed" not in swept:
        return []
    found: dict[tuple[tuple[str, str], ...], list[float]] = defaultdict(list)
    validated: dict[tuple[tuple[str, str], ...], list[float]] = defaultdict(list)
    for row in rows:
        key = tuple((k, v) for k, v in row.choices.items() if k != "seed")
        if row.value is not None:
            found[key].append(row.value)
        if row.validation is not None:
            validated[key].append(row.validation)
    return [
        {
            "choices": dict(key),
            "validation": statistics.fmean(validated[key]) if validated[key] else None,
            "mean": statistics.fmean(values),
            "deviation": statistics.stdev(values) if len(values) > 1 else None,
            "seeds": len(values),
        }
        for key, values in found.items()
    ]

"""``dltrain runs``: a table of runs, whatever has become of them."""

import argparse
import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dltrain.cli.main import Command, Parser
from dltrain.config import compose
from dltrain.errors import ConfigError, format_error, suggest
from dltrain.loggers.console import Console
from dltrain.loggers.formatting import format_count, format_duration
from dltrain.runs import job
from dltrain.runs.index import MAIN_GROUPS, RunInfo, run_info
from dltrain.storage import run_files

USAGE = """\
dltrain runs [FOLDER] [--sort KEY] [--json]

A table of the runs below FOLDER, those of sweeps too; without one, of where runs go by default. The figure is that of
the test once a run has ended, before that the best of the validation so far. A run is lost when it says that it is
running and no process is at work in it: it was killed, and dltrain resume FOLDER goes on with it.

  --sort KEY   model data task metric state step age time folder typed: by age, the newest first, if not given; metric
               puts the best first
  --json       one JSON array of objects, with all that is known

  dltrain runs
  dltrain runs outputs/sweep --sort metric
"""

COLUMNS = (*MAIN_GROUPS, "metric", "value", "state", "step", "age", "time", "folder", "typed")
TYPED = 48  # characters of what was typed that the table shows


def main(command: Command, started: float) -> int:
    """Read the folders, sort, print."""
    if {"--help", "-h"} & set(command.rest):
        print(USAGE)
        return 0
    asked = read(command)
    root = Path(asked.folder).expanduser() if asked.folder else compose.default_root()
    if asked.folder and not root.is_dir():
        there = [str(path) for path in root.parent.glob("*/")]
        raise ConfigError(format_error("runs", "a folder of runs", asked.folder, suggest(str(root), there)))
    found = [root] if (root / run_files.JOB).is_file() else job.list_runs(root)
    rows = sorted(map(run_info, found), key=ORDERS[asked.sort])
    if asked.json:
        print(json.dumps(rows, indent=2))
    elif rows:
        Console().table("", COLUMNS, [cells(row) for row in rows], results=True)
    else:
        Console().info(f"no runs below {root}")
    return 0


def read(command: Command) -> argparse.Namespace:
    """The verb's flags.

    Raises:
        ConfigError: When they make no sense.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--sort", default="age")
    parser.add_argument("--json", action="store_true")
    asked, others = parser.parse_known_args(command.words)
    parser.refuse([word for word in others if word.startswith("-")])
    if asked.sort not in ORDERS:
        expected = f"one of {' '.join(ORDERS)}"
        raise ConfigError(format_error("--sort", expected, asked.sort, suggest(asked.sort, ORDERS)))
    if len(others) > 1 or command.overrides:
        raise ConfigError(format_error("runs", "dltrain runs [FOLDER]", " ".join(others)))
    asked.folder = others[0] if others else None
    return asked


def cells(row: RunInfo) -> list[str]:
    """A row as the table shows it."""
    shown = {key: "" if row[key] is None else str(row[key]) for key in COLUMNS}
    shown["value"] = "" if row["value"] is None else f"{row['value']:.4g}"
    shown["step"] = "" if row["step"] is None else format_count(row["step"])
    shown["time"] = "" if row["time"] is None else format_duration(row["time"])
    shown["age"] = format_duration(row["age"])
    here, path = Path.cwd(), Path(row["folder"])
    shown["folder"] = str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
    shown["typed"] = textwrap.shorten(shown["typed"], TYPED, placeholder=" ...")
    return [shown[key] for key in COLUMNS]


def by_metric(row: RunInfo) -> tuple[bool, str, float]:
    """Runs of one metric together, the best first; those that have none last."""
    value = row["value"] or 0.0
    return row["value"] is None, row["metric"] or "", -value if row["better"] == "max" else value


def by_text(key: str) -> Callable[[RunInfo], tuple[str, float]]:
    """In the order of the alphabet, the newest first among equals."""
    return lambda row: (str(row[key] or ""), row["age"])


def largest(key: str) -> Callable[[RunInfo], float]:
    """The largest first."""
    return lambda row: -(row[key] or 0)


ORDERS: dict[str, Callable[[RunInfo], Any]] = {
    **{key: by_text(key) for key in MAIN_GROUPS},
    "metric": by_metric,
    "state": by_text("state"),
    "step": largest("step"),
    "age": lambda row: row["age"],
    "time": largest("time"),
    "folder": lambda row: row["folder"],
    "typed": by_text("typed"),
}

"""``dltrain runs``: a table of runs, in whatever state they are."""

import argparse
import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dltrain.config.compose import default_root
from dltrain.errors import ConfigError, format_error, suggest
from dltrain.loggers.console import Console
from dltrain.loggers.formatting import format_duration, format_number
from dltrain.runs.index import MAIN_GROUPS, RunInfo, run_info
from dltrain.runs.job import list_runs
from dltrain.storage.run_files import JOB

COLUMNS = (*MAIN_GROUPS, "metric", "value", "state", "step", "age", "time", "folder", "typed")
MAX_TYPED = 48  # characters of the overrides in the table


def main(arguments: argparse.Namespace, started: float) -> int:
    """Read the folders, sort, print."""
    if arguments.overrides:
        raise ConfigError(format_error("runs", "dltrain runs [FOLDER]", " ".join(arguments.overrides)))
    root = Path(arguments.names[0]).expanduser() if arguments.names else default_root()
    if arguments.names and not root.is_dir():
        siblings = [str(path) for path in root.parent.glob("*/")]
        raise ConfigError(format_error("runs", "a folder of runs", root, suggest(str(root), siblings)))
    found = [root] if (root / JOB).is_file() else list_runs(root)
    rows = sorted(map(run_info, found), key=ORDERS[arguments.sort])
    if arguments.json:
        print(json.dumps(rows, indent=2))
    elif rows:
        Console().table("", COLUMNS, [_cells(row) for row in rows], results=True)
    else:
        Console().info(f"no runs below {root}")
    return 0


def _cells(row: RunInfo) -> list[str]:
    shown = {key: "" if row[key] is None else str(row[key]) for key in COLUMNS}
    shown["value"] = format_number(row["value"])
    shown["step"] = "" if row["step"] is None else f"{row['step']:,}"
    shown["time"] = "" if row["time"] is None else format_duration(row["time"])
    shown["age"] = format_duration(row["age"])
    here, path = Path.cwd(), Path(row["folder"])
    shown["folder"] = str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
    shown["typed"] = textwrap.shorten(shown["typed"], MAX_TYPED, placeholder=" ...")
    return [shown[key] for key in COLUMNS]


def _by_metric(row: RunInfo) -> tuple[bool, str, float]:
    """Sort runs of one metric together, the best first; those without a metric last."""
    value = row["value"] or 0.0
    return row["value"] is None, row["metric"] or "", -value if row["better"] == "max" else value


def _by_text(key: str) -> Callable[[RunInfo], tuple[str, float]]:
    return lambda row: (str(row[key] or ""), row["age"])  # the newest first among equals


def _largest(key: str) -> Callable[[RunInfo], float]:
    return lambda row: -(row[key] or 0)


ORDERS: dict[str, Callable[[RunInfo], Any]] = {
    **{key: _by_text(key) for key in MAIN_GROUPS},
    "metric": _by_metric,
    "state": _by_text("state"),
    "step": _largest("step"),
    "age": lambda row: row["age"],
    "time": _largest("time"),
    "folder": lambda row: row["folder"],
    "typed": _by_text("typed"),
}

"""``dltrain runs``: print a table of finished and unfinished runs."""

import argparse
import json
import re
import textwrap
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
MAX_TYPED = 48  # maximum width of the column of overrides


def main(arguments: argparse.Namespace, started: float) -> int:
    """Print the runs below a folder as a table or as JSON."""
    if arguments.overrides:
        raise ConfigError(format_error("runs", "dltrain runs [FOLDER]", " ".join(arguments.overrides)))
    root = Path(arguments.names[0]).expanduser() if arguments.names else default_root()
    if arguments.names and not root.is_dir():
        siblings = [str(path) for path in root.parent.glob("*/")]
        raise ConfigError(format_error("runs", "a folder of runs", root, suggest(str(root), siblings)))
    found = [root] if (root / JOB).is_file() else list_runs(root)
    rows = sorted(map(run_info, found), key=lambda row: _sort_key(row, arguments.sort))
    if arguments.json:
        print(json.dumps(rows, indent=2))
    elif rows:
        Console().table("", COLUMNS, [_cells(row) for row in _distinct_first(rows)], results=True)
    else:
        Console().info(f"no runs below {root}")
    return 0


def _distinct_first(rows: list[RunInfo]) -> list[RunInfo]:
    """Return the rows with reordered overrides: those that differ between the runs of a folder come first.

    The overrides that all runs of the folder share follow. In both parts, ``--config-dir`` comes last.
    """
    typed = [re.findall(r"--config-dir \S+|\S+", row["typed"] or "") for row in rows]
    parents = [Path(row["folder"]).parent for row in rows]
    shared: dict[Path, set[str]] = {}
    for parent, words in zip(parents, typed, strict=True):
        shared[parent] = shared.get(parent, set(words)) & set(words)
    for parent, words in zip(parents, typed, strict=True):
        words.sort(key=lambda word: (word in shared[parent], word.startswith("--")))
    return [{**row, "typed": " ".join(words)} for row, words in zip(rows, typed, strict=True)]


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


def _sort_key(row: RunInfo, key: str) -> Any:
    """Return the sort key of a run: the best metric, the most steps, the longest time or the newest run comes first.

    Other columns are sorted alphabetically.
    """
    if key == "metric":  # runs with the same metric together, runs without a value last
        value = row["value"] or 0.0
        return row["value"] is None, row["metric"] or "", -value if row["better"] == "max" else value
    if key in ("step", "time"):
        return -(row[key] or 0)
    return row["age"] if key == "age" else (str(row[key] or ""), row["age"])

"""Names of the files in a run folder and in a sweep folder."""

import os
import shutil
from pathlib import Path

from dltrain.storage.atomic import TEMP_NAME

JOB = "job.yaml"  # the composed configuration, interpolations unresolved: all that a resume needs
CONFIG = "config.yaml"  # the resolved configuration
COMMAND = "command.txt"
ENVIRONMENT = "environment.json"
STATUS = "status.json"
RESULT = "result.json"
LOG = "train.log"
METRICS = "metrics.jsonl"
EVENTS = "events.out.tfevents"  # prefix of TensorBoard's event files
NAN_REPORT = "nan_report.json"
FRAMES, FILM = "frames", "film.gif"
CHECKPOINTS, MANIFEST = "checkpoints", "manifest.json"
LAST, BEST = "last.pt", "best.pt"  # links in the checkpoints folder
LOCK = ".lock"  # locked for the life of the process; the system releases it when the process dies

SWEEP = "sweep.json"
SUMMARY_JSON, SUMMARY_CSV = "summary.json", "summary.csv"

# Any of these marks a folder as a run.
MARKERS = (STATUS, CONFIG, METRICS, CHECKPOINTS)
# Everything a run writes, except TensorBoard's event files and the lock.
RUN_FILES = (*MARKERS, COMMAND, ENVIRONMENT, JOB, LOG, RESULT, NAN_REPORT, FILM, FRAMES)
SWEEP_FILES = (SWEEP, SUMMARY_JSON, SUMMARY_CSV)


def list_run_files(folder: Path) -> list[Path]:
    """Return the files and folders of a run that exist in `folder`, broken links included."""
    paths = [folder / name for name in RUN_FILES if os.path.lexists(folder / name)]
    return paths + sorted(folder.glob(f"{EVENTS}.*"))


def list_temp_files(folder: Path) -> list[Path]:
    """Return the temporary files that a killed run or sweep left in `folder`."""
    names = (*RUN_FILES, *SWEEP_FILES)
    return [path for path in folder.glob(".*.tmp") if (m := TEMP_NAME.fullmatch(path.name)) and m[1] in names]


def remove(path: Path) -> None:
    """Remove a file, a folder with its contents, or a link without its target."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

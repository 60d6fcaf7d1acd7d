"""Names of the files in a run folder and in a sweep folder."""

import os
from pathlib import Path

JOB = "job.yaml"  # the composed configuration with unresolved interpolations, from which a run is resumed
CONFIG = "config.yaml"  # the resolved configuration
COMMAND = "command.txt"
DATA = "data.txt"  # description of the data: how the files were read, vocabulary, splits
FITTED = "fitted.pt"  # state fitted to the training examples, such as a vocabulary
ENVIRONMENT = "environment.json"
TRANSFER = "transfer.json"  # which initial weights were loaded and which are random
STATUS = "status.json"
RESULT = "result.json"
LOG = "train.log"
METRICS = "metrics.jsonl"
EVENTS = "events.out.tfevents"  # prefix of TensorBoard's event files
NAN_REPORT = "nan_report.json"
FRAMES, FILM = "frames", "film.gif"
CHECKPOINTS, MANIFEST = "checkpoints", "manifest.json"
LAST, BEST = "last.pt", "best.pt"  # links in the checkpoints folder
LOCK = ".lock"  # locked while the run is active; the system releases the lock when the process dies

SWEEP = "sweep.json"
SUMMARY_JSON, SUMMARY_CSV = "summary.json", "summary.csv"

# A sweep does not start in a folder that contains any of these.
MARKERS = (STATUS, CONFIG, METRICS, CHECKPOINTS)
# Everything a run writes, except TensorBoard's event files and the lock.
RUN_FILES = (*MARKERS, COMMAND, DATA, FITTED, ENVIRONMENT, TRANSFER, JOB, LOG, RESULT, NAN_REPORT, FILM, FRAMES)
SWEEP_FILES = (SWEEP, SUMMARY_JSON, SUMMARY_CSV)


def list_run_files(folder: Path) -> list[Path]:
    """Return the files and folders of a run that exist in `folder`, including broken links."""
    paths = [folder / name for name in RUN_FILES if os.path.lexists(folder / name)]
    return paths + sorted(folder.glob(f"{EVENTS}.*"))

"""What lies in a run's folder: what a run writes there, and what is refused since somebody else has put it there."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from dltrain.errors import ConfigError, format_error

# Any of these says that a run lives here.
SIGNS = ("status.json", "config.yaml", "metrics.jsonl", "checkpoints")
# All that a run writes, besides TensorBoard's events.
WRITTEN = (
    *SIGNS,
    *("command.txt", "environment.json", "job.yaml", "train.log"),
    *("result.json", "nan_report.json", "film.gif", "frames"),
)
SUMMARIES = ("summary.json", "summary.csv")  # beside sweep.json, of a sweep
LOCK = ".lock"  # held for life; the system gives it free when its owner dies
LINKS = ("last.pt", "best.pt")  # in checkpoints, to files beside them
HALF = re.compile(r"\.(.+)\.\d+\.tmp", re.ASCII)
STRANGE = "It is neither a file nor a folder."


def written(path: Path) -> list[Path]:
    """What is there of all that a run writes."""
    names = [path / name for name in WRITTEN if os.path.lexists(path / name)]
    return names + sorted(path.glob("events.out.tfevents.*"))


def half_written(path: Path) -> list[Path]:
    """What a process that was killed has left, and nothing of anybody else's."""
    ours = (*WRITTEN, "sweep.json", *SUMMARIES)
    return [file for file in path.glob(".*.tmp") if (found := HALF.fullmatch(file.name)) and found[1] in ours]


def remove(file: Path) -> None:
    """Remove a file or a folder with all that is in it; of a link, only the link."""
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file, ignore_errors=True)
    else:
        file.unlink(missing_ok=True)


def refuse_taken(path: Path, locked: bool = False) -> None:
    """Refuse a folder in which a run lives, or anything that a run would overwrite.

    Args:
        path: The folder.
        locked: By this process: the lock is its own.

    Raises:
        ConfigError: Naming the file that says so.
    """
    found = [file.name for file in written(path)] + [LOCK] * (not locked and is_foreign_lock(path))
    if taken := next(iter(found), None):
        raise ConfigError(format_error("hydra.run.dir", "a folder that holds no run yet", path, f"It has {taken}."))


def is_foreign_lock(path: Path) -> bool:
    """Whether a folder has a file named like the lock that dltrain did not make: its own are empty."""
    lock = path / LOCK
    return os.path.lexists(lock) and (lock.is_symlink() or not lock.is_file() or lock.stat().st_size > 0)


def refuse_links(path: Path) -> None:
    """Refuse a run to go on with whose files lie elsewhere: what somebody sends must not lead writing there.

    Raises:
        ConfigError: Naming the link.
    """
    for entry in entries(path):
        if entry.is_symlink() and not is_own_link(Path(entry.path)):
            raise ConfigError(format_error("RUN", "files that lie in the run's folder", entry.path, "It is a link."))


def is_own_link(link: Path) -> bool:
    """Whether a link is one that dltrain makes, though a process was killed before it had put it in its place."""
    half = HALF.fullmatch(link.name)
    known = (half[1] if half else link.name) in LINKS and link.parent.name == "checkpoints"
    return known and os.sep not in os.readlink(link)


def refuse_strange(path: Path) -> None:
    """Refuse what is neither a file nor a folder, such as a pipe: who opens it waits for ever.

    Raises:
        ConfigError: Naming it.
    """
    for entry in entries(path):
        if is_strange(Path(entry.path)):
            raise ConfigError(format_error("RUN", "files and folders in the run's folder", entry.path, STRANGE))


def is_strange(path: Path) -> bool:
    """Whether something is there that is neither a file nor a folder."""
    return path.exists() and not (path.is_file() or path.is_dir())


def entries(path: Path) -> Iterator[os.DirEntry[str]]:
    """What lies in a run's folder and in the folders that a run makes there.

    Raises:
        ConfigError: When one of them cannot be read.
    """
    try:
        for folder in (path, path / "checkpoints", path / "frames"):
            if folder.is_dir():
                with os.scandir(folder) as found:
                    yield from sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        hint = f"{error.strerror or error}."
        raise ConfigError(format_error("RUN", "a folder that can be read", path, hint)) from None

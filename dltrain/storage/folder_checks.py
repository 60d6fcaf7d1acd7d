"""Checks of run folders: free for a new run, writable, and without links or special files when resumed.

A run folder may come from someone else, so its contents are not trusted.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dltrain.errors import ConfigError, format_error
from dltrain.storage.atomic import TEMP_NAME
from dltrain.storage.run_files import BEST, CHECKPOINTS, FRAMES, LAST, LOCK, list_run_files

SPECIAL_HINT = "It is neither a file nor a folder."


def check_available(path: str | None, root: Path) -> None:
    """Check that a new run can be created; leaves nothing behind.

    Args:
        path: Folder given by the user, or None.
        root: Where a run folder is created if `path` is None.

    Raises:
        ConfigError: If `path` already holds a run or cannot be written.
    """
    if path is not None:
        refuse_taken(Path(path).expanduser())
    check_writable(root if path is None else Path(path))


def check_writable(path: Path, key: str = "hydra.run.dir") -> None:
    """Check that the folder `path` can be created; leaves nothing behind.

    Args:
        path: Folder to be created.
        key: Configuration key that names it.

    Raises:
        ConfigError: If it cannot.
    """
    existing = path.expanduser().absolute()
    while not existing.exists():
        existing = existing.parent
    try:
        # Permission bits do not cover read-only file systems and the like, so create a folder.
        os.rmdir(tempfile.mkdtemp(prefix=".dltrain", dir=existing))
    except OSError as error:
        raise ConfigError(unwritable_error(path, error, key)) from None


def unwritable_error(path: Path, error: OSError, key: str = "hydra.run.dir") -> str:
    """Return the error message for a folder that cannot be written."""
    return format_error(key, "a folder that can be written", path, f"{error.strerror}.")


def refuse_taken(path: Path, locked: bool = False) -> None:
    """Refuse a folder that holds a run or any file that a run would overwrite.

    Args:
        path: Folder to check.
        locked: This process holds the lock, so the lock file is its own.

    Raises:
        ConfigError: Naming the first such file.
    """
    found = [file.name for file in list_run_files(path)] + [LOCK] * (not locked and has_foreign_lock(path))
    if found:
        raise ConfigError(format_error("hydra.run.dir", "a folder that holds no run yet", path, f"It has {found[0]}."))


def has_foreign_lock(path: Path) -> bool:
    """Return whether the lock file was not created by dltrain, whose lock files are empty."""
    lock = path / LOCK
    return os.path.lexists(lock) and (lock.is_symlink() or not lock.is_file() or lock.stat().st_size > 0)


def refuse_links(path: Path) -> None:
    """Refuse to resume a run that contains links: writing through them would change files elsewhere.

    Raises:
        ConfigError: Naming the first link.
    """
    for entry in scan(path):
        if entry.is_symlink() and not is_own_link(Path(entry.path)):
            raise ConfigError(format_error("RUN", "files that lie in the run's folder", entry.path, "It is a link."))


def is_own_link(link: Path) -> bool:
    """Return whether dltrain creates this link: last.pt or best.pt (or its temporary file), to a file next to it."""
    temp = TEMP_NAME.fullmatch(link.name)
    known = (temp[1] if temp else link.name) in (LAST, BEST) and link.parent.name == CHECKPOINTS
    return known and os.sep not in os.readlink(link)


def refuse_special(path: Path) -> None:
    """Refuse a run folder that contains pipes, devices or sockets: opening one can block forever.

    Raises:
        ConfigError: Naming the first one.
    """
    for entry in scan(path):
        if is_special(Path(entry.path)):
            raise ConfigError(format_error("RUN", "files and folders in the run's folder", entry.path, SPECIAL_HINT))


def is_special(path: Path) -> bool:
    """Return whether `path` exists and is neither a file nor a folder."""
    return path.exists() and not (path.is_file() or path.is_dir())


def scan(path: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of a run folder, its checkpoints and its frames, sorted by name.

    Raises:
        ConfigError: If one of the folders cannot be read.
    """
    try:
        for folder in (path, path / CHECKPOINTS, path / FRAMES):
            if folder.is_dir():
                with os.scandir(folder) as entries:
                    yield from sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        hint = f"{error.strerror or error}."
        raise ConfigError(format_error("RUN", "a folder that can be read", path, hint)) from None

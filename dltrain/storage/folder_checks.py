"""Checks of run folders before they are read or written.

A run folder may come from someone else, so its contents are not trusted.
"""

import os
import tempfile
from pathlib import Path

from dltrain.errors import ConfigError, format_error
from dltrain.storage.atomic import TEMP_NAME
from dltrain.storage.run_files import BEST, CHECKPOINTS, FRAMES, LAST, LOCK, list_run_files

SPECIAL_HINT = "It is neither a file nor a folder."


def check_available(path: str | None, root: Path) -> None:
    """Raise ConfigError if no run can be created in `path` (in `root` if `path` is None); leave no files behind."""
    if path is not None:
        reject_taken(Path(path).expanduser())
    check_writable(root if path is None else Path(path))


def check_writable(path: Path, key: str = "hydra.run.dir") -> None:
    """Raise ConfigError if the folder `path`, the value of `key`, cannot be created or written; leave no files."""
    existing = path.expanduser().absolute()
    try:
        while not existing.exists():
            existing = existing.parent
        # Permission bits do not cover read-only file systems, for example, so create a folder and remove it.
        os.rmdir(tempfile.mkdtemp(prefix=".dltrain", dir=existing))
    except OSError as error:
        raise ConfigError(unwritable_error(path, error, key)) from None


def unwritable_error(path: Path, error: OSError, key: str = "hydra.run.dir") -> str:
    """Return the error message for a folder that cannot be written."""
    return format_error(key, "a folder that can be written", path, f"{error.strerror}.")


def reject_taken(path: Path, locked: bool = False) -> None:
    """Raise ConfigError if a folder cannot be accessed, holds a run, or holds a file that a run would overwrite.

    Args:
        path: The folder.
        locked: Whether this process has locked the folder; the lock file is then not checked.
    """
    try:
        found = [file.name for file in list_run_files(path)] + [LOCK] * (not locked and has_foreign_lock(path))
    except OSError as error:
        raise ConfigError(unwritable_error(path, error)) from None
    if found:
        raise ConfigError(format_error("hydra.run.dir", "a folder that holds no run yet", path, f"It has {found[0]}."))


def has_foreign_lock(path: Path) -> bool:
    """Return whether the folder has a lock file that dltrain did not create; dltrain's lock files are empty."""
    lock = path / LOCK
    return os.path.lexists(lock) and (lock.is_symlink() or not lock.is_file() or lock.stat().st_size > 0)


def check_entries(path: Path, links: bool = True) -> None:
    """Raise ConfigError if a run folder cannot be read or contains pipes, devices, sockets or forbidden links.

    Opening a pipe, device or socket can block forever.

    Args:
        path: The run folder.
        links: Whether links other than last.pt and best.pt are allowed; writing through them would change files
            elsewhere.
    """
    try:
        folders = [folder for folder in (path, path / CHECKPOINTS, path / FRAMES) if folder.is_dir()]
        files = [file for folder in folders for file in sorted(folder.iterdir())]
    except OSError as error:
        hint = f"{error.strerror or error}."
        raise ConfigError(format_error("RUN", "a folder that can be read", path, hint)) from None
    for file in files:
        if not links and file.is_symlink() and not is_own_link(file):
            raise ConfigError(format_error("RUN", "a run folder without links except last.pt and best.pt", file))
        if is_special(file):
            raise ConfigError(format_error("RUN", "files and folders in the run folder", file, SPECIAL_HINT))


def is_own_link(link: Path) -> bool:
    """Return whether a link has the final or temporary name of last.pt or best.pt, and points into its own folder."""
    temp = TEMP_NAME.fullmatch(link.name)
    known = (temp[1] if temp else link.name) in (LAST, BEST) and link.parent.name == CHECKPOINTS
    return known and os.sep not in os.readlink(link)


def is_special(path: Path) -> bool:
    """Return whether `path` exists and is neither a file nor a folder."""
    return path.exists() and not (path.is_file() or path.is_dir())

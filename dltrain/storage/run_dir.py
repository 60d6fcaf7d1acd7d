"""A run folder: created exclusively, locked while in use, never overwritten."""

import contextlib
import json
import os
import platform
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dltrain import redaction
from dltrain.errors import ConfigError, format_error
from dltrain.storage import safe_read
from dltrain.storage.atomic import TEMP_NAME, write_atomic
from dltrain.storage.folder_checks import check_entries, reject_taken, unwritable_error
from dltrain.storage.run_files import LOCK, RUN_FILES, STATUS, SWEEP_FILES, list_run_files

LOCK_WAIT_S = 0.2  # time to wait for a lock, which `is_locked` in another process may hold briefly


class RunDir:
    """A locked run folder. Use `create` or `reopen`, and `close` it when the run ends.

    Args:
        path: An existing folder.
        created: Folders that were created for this run, innermost first; `discard` removes them.
        resume: Whether the folder holds the run to be resumed.
        key: Argument that names the folder, for messages.
    """

    def __init__(self, path: Path, created: list[Path], resume: bool = False, key: str = "hydra.run.dir") -> None:
        self.path, self.created = path, created
        self.lock, self.new_lock = FileLock(path / LOCK), not (path / LOCK).exists()
        self.started = time.time()
        if not resume:
            reject_taken(path)  # before the lock file is created
        try:
            self.lock.acquire(timeout=LOCK_WAIT_S, poll_interval=LOCK_WAIT_S / 10)
            if not resume:
                reject_taken(path, locked=True)
            for file in path.glob(".*.tmp"):  # left by a killed run or sweep
                temp = TEMP_NAME.fullmatch(file.name)
                if temp and temp[1] in (*RUN_FILES, *SWEEP_FILES):
                    file.unlink(missing_ok=True)
        except Timeout:
            owner = read_status(path)
            hint = f"It is in use by process {owner.get('pid', '?')} on {owner.get('host', '?')}."
            raise ConfigError(format_error(key, "a folder that no other run uses", path, hint)) from None
        except (ConfigError, OSError):
            self.close()
            raise

    def write(self, name: str, content: str) -> None:
        """Write a text file atomically; the caller must mask secrets."""
        write_atomic(self.path / name, content.encode())

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file atomically, with secrets masked."""
        self.write(name, json.dumps(redaction.mask(content), indent=2, allow_nan=False) + "\n")

    def write_status(self, state: str, exit_code: int | None = None, step: int = 0, error: str | None = None) -> None:
        """Write ``status.json``: state, exit code (None while the run is active), step, error, process and times."""
        process = {"pid": os.getpid(), "host": platform.node()}
        times = {"started": iso_time(self.started), "updated": iso_time(time.time())}
        outcome = {"state": state, "exit_code": exit_code, "step": step, "error": error}
        self.write_json(STATUS, {**outcome, **process, **times})

    def close(self) -> None:
        """Release the lock. The lock file stays: if it were removed, two processes could lock the folder."""
        self.lock.release()

    def discard(self) -> None:
        """Remove the files and folders of a run that never started; files that existed before stay."""
        self.close()
        if self.path in self.created:
            shutil.rmtree(self.path)
            with contextlib.suppress(OSError):  # stops at the first folder that is not empty
                for folder in self.created[1:]:
                    folder.rmdir()
            return
        for file in list_run_files(self.path):  # none of them existed when the folder was locked
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file, ignore_errors=True)
            else:
                file.unlink(missing_ok=True)
        if self.new_lock:
            (self.path / LOCK).unlink(missing_ok=True)


def create(path: str | None, root: Path, name: str) -> RunDir:
    """Create and lock a run folder: `path`, or a unique ``root/name/<time>-<4 hex digits>`` if `path` is None."""
    parent = root / safe_name(name) if path is None else Path(path).expanduser()
    created = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    try:
        if path is None:
            unique = make_unique(parent)
            return RunDir(unique, [unique, *created])
        parent.mkdir(parents=True, exist_ok=True)
        return RunDir(parent, created)
    except OSError as error:
        raise ConfigError(unwritable_error(parent, error)) from None


def reopen(path: Path) -> RunDir:
    """Open and lock the folder of a run to resume it; reject special files, and links except last.pt and best.pt."""
    check_entries(path, links=False)
    try:
        return RunDir(path, [], resume=True, key="RUN")
    except OSError as error:
        raise ConfigError(unwritable_error(path, error, "RUN")) from None


def make_unique(parent: Path) -> Path:
    """Create a folder named by the time and four random hex digits; try again if the name exists."""
    while True:
        path = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            if not parent.is_dir():
                raise


def safe_name(text: str) -> str:
    """Return text safe for a file name: special characters replaced, leading dots removed, at most 80 bytes."""
    safe = "".join(c if c.isalnum() or c in "=,.-_" else "_" for c in text).lstrip(".")
    return safe.encode()[:80].decode(errors="ignore")


def read_status(path: Path) -> dict[str, Any]:
    """Return the content of ``status.json``; empty if it cannot be read."""
    return safe_read.read_mapping(path / STATUS)


def is_locked(path: Path) -> bool:
    """Return whether a process has locked the run folder.

    If the lock cannot be tested, return whether the run's process may be alive.
    """
    if not (path / LOCK).is_file() or (path / LOCK).is_symlink():
        return False
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # the disk is full or read-only
        return _process_lives(read_status(path))
    lock.release()
    return False


def _process_lives(status: Mapping[str, Any]) -> bool:
    """Return whether the process that wrote a status may be alive; True if unknown, for example on another machine."""
    pid = status.get("pid")
    if status.get("host") != platform.node() or not isinstance(pid, int) or pid < 1:
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def iso_time(seconds: float) -> str:
    """Format seconds since the epoch as local time in ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))

"""The run folder: made exclusively, locked while in use, never overwritten."""

import contextlib
import json
import os
import platform
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dltrain import redaction
from dltrain.errors import ConfigError, format_error
from dltrain.storage import safe_read
from dltrain.storage.atomic import write_whole
from dltrain.storage.run_files import LOCK, half_written, refuse_links, refuse_strange, refuse_taken, remove, written

LOCK_WAIT_S = 0.2  # somebody may be looking whether it is held


class Folder:
    """One run's folder. Use `create` or `reopen`; close it when the run ends.

    Args:
        path: Where it lies; it exists.
        made: The folders that were made for it, the innermost first: nothing in them is anybody else's.
        taken: A run lives here, and goes on.

    Raises:
        ConfigError: When another process uses it, or a run has left its results there and is not to go on.
    """

    def __init__(self, path: Path, made: list[Path], taken: bool = False) -> None:
        self.path, self.made = path, made
        self.lock, self.new_lock = FileLock(path / LOCK), not (path / LOCK).exists()
        self.started = time.time()
        if not taken:
            refuse_taken(path)  # before anything is written there
        try:
            self.lock.acquire(timeout=LOCK_WAIT_S, poll_interval=LOCK_WAIT_S / 10)
            if not taken:
                refuse_taken(path, locked=True)
            for file in half_written(path):
                file.unlink(missing_ok=True)
        except Timeout:
            raise ConfigError(in_use(path)) from None
        except (ConfigError, OSError):
            self.close()
            raise

    def write(self, name: str, content: str) -> None:
        """Write a file whole: a reader sees the old one or the new one. Its secrets are masked already."""
        write_whole(self.path / name, content.encode())

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file whole."""
        self.write(name, json.dumps(redaction.masked(content), indent=2, allow_nan=False) + "\n")

    def status(self, state: str, exit_code: int | None = None, step: int = 0, error: str | None = None) -> None:
        """Say how the run stands: running, finished, interrupted, failed, diverged or out_of_memory."""
        self.write_json(
            "status.json",
            {
                "state": state,
                "exit_code": exit_code,
                "step": step,
                "error": error,
                "pid": os.getpid(),
                "host": platform.node(),
                "started": stamp(self.started),
                "updated": stamp(time.time()),
            },
        )

    def close(self) -> None:
        """Give the folder free. The lock's file stays: removing it would let two others in at once."""
        self.lock.release()

    def discard(self) -> None:
        """Leave nothing of a run that never began, and everything that was there before."""
        self.close()
        if self.path in self.made:
            shutil.rmtree(self.path)
            remove_empty(self.made[1:])
            return
        for file in written(self.path):  # nothing of this was there when the run took the folder
            remove(file)
        if self.new_lock:
            (self.path / LOCK).unlink(missing_ok=True)


def create(path: str | None, root: Path, name: str) -> Folder:
    """Make a run's folder: exactly ``path``, or a fresh ``root/name/<time>-<4 hex>``.

    Raises:
        ConfigError: When ``path`` holds a run already, or nothing can be written there.
    """
    parent = root / file_name(name) if path is None else Path(path).expanduser()
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    try:
        if path is None:
            found = fresh(parent)
            return Folder(found, [found, *made])
        parent.mkdir(parents=True, exist_ok=True)
        return Folder(parent, made)
    except OSError as error:
        raise ConfigError(unwritable(parent, error)) from None


def file_name(text: str) -> str:
    """Text as the name of one file or folder, whatever it holds; at most 80 bytes of it."""
    safe = "".join(c if c.isalnum() or c in "=,.-_" else "_" for c in text).lstrip(".")
    return safe.encode()[:80].decode(errors="ignore")


def reopen(path: Path) -> Folder:
    """The folder of a run that goes on.

    Raises:
        ConfigError: When another process uses it, naming it, nothing can be written there, or something in it is a
            link, or neither a file nor a folder.
    """
    refuse_links(path)
    refuse_strange(path)
    try:
        return Folder(path, [], taken=True)
    except OSError as error:
        raise ConfigError(unwritable(path, error, "RUN")) from None


def in_use(path: Path) -> str:
    """Say who uses a folder."""
    owner = status_of(path)
    who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"
    return format_error("hydra.run.dir", "a folder that no other run uses", path, f"It is in use by {who}.")


def status_of(path: Path) -> dict[str, Any]:
    """What a run's ``status.json`` says; empty where there is none that can be read."""
    return safe_read.content(path / "status.json")


def is_locked(path: Path) -> bool:
    """Whether a process is at work in a run's folder."""
    if not (path / LOCK).is_file() or (path / LOCK).is_symlink():
        return False
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    lock.release()
    return False


def remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, up to one in which somebody else has put something."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def fresh(parent: Path) -> Path:
    """A new folder named by the time; `mkdir` decides who owns it when several runs start in one second."""
    while True:
        path = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            if not parent.is_dir():
                raise


def check(path: str | None, root: Path) -> None:
    """Refuse a place where a run cannot go, before any work is done, and leave nothing there.

    Args:
        path: The folder a user named, or None.
        root: Where a fresh folder would be made.

    Raises:
        ConfigError: When ``path`` holds a run already, or nothing can be written there.
    """
    if path is not None:
        refuse_taken(Path(path).expanduser())
    check_writable(root if path is None else Path(path))


def check_writable(path: Path, key: str = "hydra.run.dir") -> None:
    """Refuse a place where no folder can be made, and leave nothing there.

    Args:
        path: The folder that is to be made.
        key: What names it.

    Raises:
        ConfigError: Naming both.
    """
    there = path.expanduser().absolute()
    while not there.exists():
        there = there.parent
    try:
        # Permissions do not tell everything: only trying does.
        os.rmdir(tempfile.mkdtemp(prefix=".dltrain", dir=there))
    except OSError as error:
        raise ConfigError(unwritable(path, error, key)) from None


def unwritable(path: Path, error: OSError, key: str = "hydra.run.dir") -> str:
    """Say that a folder cannot be made."""
    return format_error(key, "a folder that can be written", path, f"{error.strerror}.")


def stamp(seconds: float) -> str:
    """Local time in ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))

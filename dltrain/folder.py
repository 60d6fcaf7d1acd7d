"""The run folder: made exclusively, locked while in use, never overwritten."""

import contextlib
import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dltrain import masking
from dltrain.durable import write_whole
from dltrain.errors import ConfigError, problem

# Any of these says that a run lives here.
SIGNS = ("status.json", "config.yaml", "metrics.jsonl", "checkpoints")
# What else a run writes before its first step.
FILES = (*SIGNS[:-1], "command.txt", "environment.json", "job.yaml", "train.log")
LOCK = ".lock"  # held for life; the system gives it free when its owner dies
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
        self.lock = FileLock(path / LOCK)
        self.started = time.time()
        if not taken:
            refuse_taken(path)  # before anything is written there
        try:
            self.lock.acquire(timeout=LOCK_WAIT_S, poll_interval=LOCK_WAIT_S / 10)
            if not taken:
                refuse_taken(path)
            for file in path.glob(".*.tmp"):  # of a process that was killed
                file.unlink(missing_ok=True)
        except Timeout:
            raise ConfigError(in_use(path)) from None
        except ConfigError:
            self.close()
            raise

    def write(self, name: str, content: str) -> None:
        """Write a file whole: a reader sees the old one or the new one. Its secrets are masked already."""
        write_whole(self.path / name, content.encode())

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file whole."""
        self.write(name, json.dumps(masking.masked(content), indent=2, allow_nan=False) + "\n")

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
        (self.path / LOCK).unlink(missing_ok=True)
        if self.path in self.made:
            shutil.rmtree(self.path)
            remove_empty(self.made[1:])
            return
        for file in [self.path / name for name in FILES] + list(self.path.glob("events.out.tfevents.*")):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)


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
        ConfigError: When another process uses it, naming it, nothing can be written there, or a file in it is a link:
            what somebody sends must not lead writing elsewhere.
    """
    if links := [file for file in path.iterdir() if file.is_symlink()]:
        raise ConfigError(problem("RUN", "files that lie in the run's folder", links[0], "It is a link."))
    try:
        home = Folder(path, [], taken=True)
    except OSError as error:
        raise ConfigError(unwritable(path, error, "RUN")) from None
    for file in path.glob(".*.tmp"):  # a process that was killed left it half-written
        file.unlink(missing_ok=True)
    return home


def in_use(path: Path) -> str:
    """Say who uses a folder."""
    owner = status_of(path)
    who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"
    return problem("hydra.run.dir", "a folder that no other run uses", path, f"It is in use by {who}.")


def status_of(path: Path) -> dict[str, Any]:
    """What a run's ``status.json`` says; empty where there is none that can be read."""
    try:
        found = json.loads((path / "status.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_locked(path: Path) -> bool:
    """Whether a process is at work in a run's folder."""
    if not (path / LOCK).exists():
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


def refuse_taken(path: Path) -> None:
    """Refuse a folder in which a run lives.

    Raises:
        ConfigError: Naming the file that says so.
    """
    taken = next((name for name in SIGNS if (path / name).exists()), None)
    if taken:
        raise ConfigError(problem("hydra.run.dir", "a folder that holds no run yet", path, f"It has {taken}."))


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
    return problem(key, "a folder that can be written", path, f"{error.strerror}.")


def environment(device: str) -> dict[str, Any]:
    """What a result depends on besides the configuration: versions, device, commit."""
    packages = ("torch", "torchvision", "hydra-core", "omegaconf", "numpy", "dltrain")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in packages},
        "device": device,
        "cpus": os.cpu_count(),
        "commit": commit(),
        "argv": [masking.masked_word(word) for word in sys.argv[1:]],
        "folder": str(Path.cwd()),
    }


def version(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> dict[str, Any] | None:
    """The commit dltrain runs from, and whether files differ from it; None outside a checkout."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        call = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
        lines = subprocess.run(call, capture_output=True, text=True, timeout=5, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    oid = next((line.split()[-1] for line in lines if line.startswith("# branch.oid")), None)
    return {"id": oid, "dirty": any(not line.startswith("#") for line in lines)}


def stamp(seconds: float) -> str:
    """Local time in ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))

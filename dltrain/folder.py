"""The run folder: made exclusively, locked while in use, never overwritten."""

import json
import os
import platform
import secrets
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dltrain.errors import ConfigError, problem

STATES = ("running", "finished", "interrupted", "failed", "diverged", "out_of_memory")
# Any of these says that a run lives here.
SIGNS = ("status.json", "config.yaml", "metrics.jsonl", "checkpoints")


class Folder:
    """One run's folder. Use `create`; close it when the run ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = FileLock(path / ".lock")
        self.started = time.time()
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(problem("hydra.run.dir", "a folder that no other run uses", path)) from None

    def write(self, name: str, content: str) -> None:
        """Write a file whole: a reader sees the old one or the new one."""
        write_whole(self.path / name, content.encode())

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file whole."""
        self.write(name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def status(self, state: str, exit_code: int | None = None, step: int = 0, error: str | None = None) -> None:
        """Say how the run stands."""
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
        """Give the folder free."""
        self.lock.release()
        (self.path / ".lock").unlink(missing_ok=True)


def create(path: str | None, root: Path, name: str) -> Folder:
    """Make a run's folder: exactly ``path``, or a fresh ``root/name/<time>-<4 hex>``.

    Raises:
        ConfigError: When ``path`` holds a run already, or nothing can be written there.
    """
    try:
        if path is not None:
            return exact(Path(path).expanduser())
        return Folder(fresh(root / name))
    except OSError as error:
        raise ConfigError(unwritable(Path(path or root), error)) from None


def exact(path: Path) -> Folder:
    """The folder a user named; it may exist, but hold no run."""
    taken = [name for name in SIGNS if (path / name).exists()]
    if taken:
        raise ConfigError(
            problem("hydra.run.dir", "a folder that holds no run yet", path, f"It has {taken[0]}. Choose another.")
        )
    path.mkdir(parents=True, exist_ok=True)
    return Folder(path)


def fresh(parent: Path) -> Path:
    """A new folder named by the time; `mkdir` decides who owns it when several runs start in one second."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        path = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        try:
            path.mkdir()
            return path
        except FileExistsError:
            continue


def check_writable(path: Path) -> None:
    """Refuse a place that cannot be written before any work is done, and leave nothing there.

    Raises:
        ConfigError: Naming the folder that is in the way.
    """
    there = path.expanduser().absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(unwritable(path, None))


def unwritable(path: Path, error: OSError | None) -> str:
    """Say that a folder cannot be made."""
    reason = f"{error.strerror}." if error and error.strerror else ""
    return problem("hydra.run.dir", "a folder that can be written", path, reason)


def discard(folder: Folder) -> None:
    """Remove a folder in which nothing has run."""
    folder.close()
    for file in folder.path.glob("*"):
        file.unlink() if file.is_file() else None
    folder.path.rmdir()


def write_whole(path: Path, content: bytes) -> None:
    """Write beside the file, then put it in its place at once."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


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
        "argv": sys.argv[1:],
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

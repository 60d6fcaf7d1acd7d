"""Run `dltrain` in child processes that can be stopped, killed and limited in file size and disk space."""

import contextlib
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TIMEOUT_S = 300.0


@dataclass
class Child:
    """Child process. After its end, ``code`` is its exit code, or the negative number of the signal that killed it."""

    stdout_path: Path
    stderr_path: Path
    cwd: Path
    pid: int = 0
    status: int = 0
    began: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def code(self) -> int:
        return os.waitstatus_to_exitcode(self.status)

    @property
    def stdout(self) -> str:
        return self.stdout_path.read_text()

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text()

    def send(self, number: int) -> None:
        """Send a signal to this process only."""
        os.kill(self.pid, number)

    def kill(self) -> "Child":
        """Kill the process and its children, and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self.wait()

    def wait(self, timeout: float = TIMEOUT_S) -> "Child":
        """Wait for the end of the process; after `timeout` seconds, kill it and fail."""
        if not self.ended.wait(timeout):
            os.killpg(self.pid, signal.SIGKILL)
            self.ended.wait(10)
            pytest.fail(f"the process did not end within {timeout:.0f} s\n{self.stderr}")
        return self

    def wait_until(self, happened: Callable[[], Any], timeout: float = TIMEOUT_S, interval: float = 0.002) -> Any:
        """Wait until ``happened()`` is true and return its value; fail if the process ends, or after `timeout` s."""
        limit = time.monotonic() + timeout
        while not (found := happened()):
            if self.ended.is_set() and not (found := happened()):
                pytest.fail(f"the process ended with {self.code} before the condition was true\n{self.stderr}")
            if found:
                break
            if time.monotonic() > limit:
                self.kill()
                pytest.fail(f"the condition was not true within {timeout:.0f} s\n{self.stderr}")
            time.sleep(interval)
        return found


class ServerClient:
    """Client of the fork server in `server.py`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.numbers = folder, itertools.count()
        self.ready = threading.Event()
        self.starting: queue.SimpleQueue[Child] = queue.SimpleQueue()
        self.children: dict[int, Child] = {}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        for name in ("SLURM_JOB_ID", "DLTRAIN_DATA"):
            environment.pop(name, None)
        call = [sys.executable, str(HERE / "server.py")]
        self.process = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        assert self.ready.wait(TIMEOUT_S), "the server did not start"

    def read(self) -> None:
        """Process the messages of the server."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            if "ready" in event:
                self.ready.set()
            elif "began" in event:
                child = self.starting.get()
                child.pid = event["began"]
                self.children[child.pid] = child
                child.began.set()
            else:
                child = self.children.pop(event["ended"])
                child.status = event["status"]
                child.ended.set()

    def start(
        self,
        argv: list[str],
        cwd: Path,
        environment: dict[str, str] | None = None,
        limits: dict[str, int] | None = None,
        stderr: Path | None = None,
    ) -> Child:
        """Start a command.

        Args:
            argv: The arguments of ``dltrain``.
            cwd: The working directory.
            environment: Environment variables in addition to those of the server.
            limits: Resource limits, e.g. ``{"RLIMIT_FSIZE": 1_000_000}``, and paths at which to mount a file system
                of the given size in bytes. Without the permission to mount, the command ends with exit code 77.
            stderr: File for standard error instead of the one that ``Child.stderr`` reads.
        """
        number = next(self.numbers)
        child = Child(self.folder / f"{number}.out", self.folder / f"{number}.err", cwd)
        for path in (child.stdout_path, child.stderr_path):
            path.touch()
        request = {
            "argv": argv,
            "cwd": str(cwd),
            "environment": environment or {},
            "limits": limits or {},
            "path": [str(HERE)],
            "stdout": str(child.stdout_path),
            "stderr": str(stderr or child.stderr_path),
        }
        self.starting.put(child)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        assert child.began.wait(TIMEOUT_S)
        return child

    def close(self) -> None:
        """End the server and all its children."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


class Gate:
    """Folder whose files make the processes that use `gated.py` wait at chosen moments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.environment = {"GATE": str(folder)}

    def close(self, moment: str) -> None:
        """Make the process wait at a moment, e.g. ``train-7`` or ``evaluate-2``."""
        (self.folder / moment).touch()

    def delay(self, seconds: float) -> None:
        """Make the process wait `seconds` at every moment, closed or not."""
        (self.folder / "delay").write_text(str(seconds))

    def wait_until_reached(self, child: Child, moment: str) -> None:
        """Wait until the process has reached a moment and waits there."""
        child.wait_until((self.folder / f"{moment}.reached").exists)

    def open(self, moment: str) -> None:
        """Let the process continue."""
        (self.folder / f"{moment}.reached").unlink()

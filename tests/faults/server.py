"""A process that has imported torch and dltrain, and forks a child for each command: no import is paid for twice.

The parent writes one JSON object per line, the server answers with the child's number at its start and with its wait
status at its end. When the parent is gone, so are the server and all its children.
"""

import atexit
import contextlib
import gc
import json
import os
import random
import select
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

# Whatever a command of the tests imports; what would start a thread must not be here.
MODULES = (
    *("sweeps.sweep", "runs.launch", "runs.report", "runs.job", "storage.run_dir", "loggers.tracker", "cli.train"),
    *("cli.resume", "models.feedforward", "models.recurrent", "models.convolutional", "models.gpt", "datasets.digits"),
    *("datasets.time_series", "datasets.text", "datasets.image_folder", "datasets.cifar10", "optim.schedules"),
    *("tasks.classification", "tasks.forecasting", "tasks.language_modeling"),
)


def main() -> int:
    """Serve until standard input ends; in a child, the exit code of its command."""
    prepare()
    requests, answers = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "w", buffering=1)
    devnull = os.open(os.devnull, os.O_RDWR)
    os.dup2(devnull, 0)
    os.dup2(devnull, 1)
    wakened, waker = os.pipe()
    for end in (wakened, waker):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    children: set[int] = set()
    print(json.dumps({"ready": os.getpid()}), file=answers)
    while True:
        ready, _, _ = select.select([requests, wakened], [], [])
        if wakened in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wakened, 4096)
        for pid, status in reaped(children):
            print(json.dumps({"ended": pid, "status": status}), file=answers)
        if requests in ready:
            line = requests.readline()
            if not line:
                return end_all(children)
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                for file in (requests, answers):
                    file.close()
                for end in (wakened, waker):
                    os.close(end)
                leave(child(request))
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)  # the child does so, too: whoever is first
            children.add(pid)
            print(json.dumps({"began": pid}), file=answers)


def prepare() -> None:
    """Import everything, and leave no thread behind: a fork copies only the one that calls it."""
    import importlib

    for name in MODULES:
        importlib.import_module(f"dltrain.{name}")
    importlib.import_module("numpy.random")
    compose = importlib.import_module("dltrain.config.compose")
    compose.compose(["model=mlp", "data=digits"])  # Hydra looks for its plugins once
    gc.collect()
    gc.freeze()
    tasks = Path("/proc/self/task")
    if tasks.is_dir():
        assert len(list(tasks.iterdir())) == 1, "a thread runs in the server: its children would miss it"


def reaped(children: set[int]) -> list[tuple[int, int]]:
    """The children that have ended, with their wait status."""
    found = []
    for pid in list(children):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            children.remove(pid)
            found.append((pid, status))
    return found


def end_all(children: set[int]) -> int:
    """Kill what is left."""
    for pid in children:
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
    return 0


def child(request: dict[str, Any]) -> int:
    """Become the process of one command and run it."""
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.update(request["environment"])
    redirect(1, request["stdout"])
    redirect(2, request["stderr"])
    sys.argv = ["dltrain", *request["argv"]]
    sys.path[:0] = request["path"]
    random.seed()  # every process of its own begins with numbers of its own
    for kind, limit in request["limits"].items():
        if kind.startswith("/"):
            mount(kind, limit)
        else:
            import resource

            resource.setrlimit(getattr(resource, kind), (limit, limit))
    return command(request["argv"])


def leave(code: int) -> NoReturn:
    """End like any Python program, but for taking apart what was imported, which is a second for nothing."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def mount(path: str, size: int) -> None:
    """Put a small file system at a path, which this process and its children alone see."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, private = 0x00020000, 1 << 18 | 1 << 14  # CLONE_NEWNS; MS_PRIVATE | MS_REC
    calls = (
        lambda: libc.unshare(new_namespace),
        lambda: libc.mount(None, b"/", None, private, None),
        lambda: libc.mount(b"tmpfs", path.encode(), b"tmpfs", 0, f"size={size}".encode()),
    )
    if any(call() for call in calls):
        leave(77)


def redirect(number: int, path: str) -> None:
    """Let a standard stream go to a file; what Python has made of it stays as it is."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, number)
    os.close(file)


def command(argv: list[str]) -> int:
    """`dltrain ARGV`, as its entry point calls it."""
    import time

    from dltrain.cli import main as cli

    cli.STARTED = time.perf_counter()
    return cli.main(argv)


if __name__ == "__main__":
    sys.exit(main())

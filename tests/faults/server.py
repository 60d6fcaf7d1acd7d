"""A server that has imported torch and dltrain, and forks a child for each command to save the time of imports.

The parent writes one JSON object per line; the server replies with the process ID when a child starts and with its wait
status when it ends. When the parent ends, the server kills all children and ends.
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
import weakref
from pathlib import Path
from typing import Any, NoReturn

# The modules that the tests' commands import. They must not start a thread.
MODULES = (
    *("sweeps.sweep", "runs.launch", "runs.report", "runs.job", "storage.run_dir", "loggers.tracker", "cli.train"),
    *("cli.resume", "models.feedforward", "models.recurrent", "models.convolutional", "models.gpt", "datasets.digits"),
    *("datasets.time_series", "datasets.text", "datasets.image_folder", "datasets.cifar10", "optim.schedules"),
    *("tasks.classification", "tasks.forecasting", "tasks.language_modeling", "tasks.segmentation"),
    *("models.resnet_small", "models.unet", "datasets.image_masks", "datasets.mnist", "cli.main", "plots.grids"),
    *("tasks.adversarial", "tasks.ctc", "tasks.detection", "tasks.layerwise", "tasks.polyphony"),
    *("tasks.reconstruction", "tasks.translation", "tasks.variational", "loggers.film"),
)
# Library modules that a run imports on first use.
OF_LIBRARIES = ("numpy.random", "PIL.PngImagePlugin", "PIL.GifImagePlugin", "PIL.JpegImagePlugin")
OF_LIBRARIES += ("tensorboard.plugins.hparams.api_pb2", "tensorboard.plugins.hparams.metadata")
OF_LIBRARIES += ("tensorboard.plugins.hparams.plugin_data_pb2", "torch.utils.serialization.config")
OF_LIBRARIES += ("torch.nested._internal.nested_tensor", "torch.fx.experimental._constant_symnode")


def main() -> int:
    """Serve requests until standard input ends."""
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
        for pid, status in reap(children):
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
                exit_process(child(request))
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)  # the child does this too, because either process may be first
            children.add(pid)
            print(json.dumps({"began": pid}), file=answers)


def prepare() -> None:
    """Prepare the state that the children inherit.

    Forks do not copy threads, so this function asserts that no other thread runs.
    """
    import importlib

    for name in MODULES:
        importlib.import_module(f"dltrain.{name}")
    for name in OF_LIBRARIES:
        importlib.import_module(name)
    fill_caches()
    draw_first_picture()
    skip_teardown_of_imports()
    gc.collect()
    gc.freeze()
    gc.get_freeze_count = lambda: 1  # counting the frozen objects takes a seventh of the time of a short run
    tasks = Path("/proc/self/task")
    if tasks.is_dir():
        assert len(list(tasks.iterdir())) == 1, "the server runs another thread, which forked children would lack"


def fill_caches() -> None:
    """Compose configurations and describe the environment once, so that the children inherit the cached results."""
    import recipes

    from dltrain.config import compose
    from dltrain.runs import provenance

    options = [["model=mlp", f"data={data}", "device=cpu"] for data in ("digits", "image_folder")]
    for command in (*(recipes.recipe(kind, Path("data")) for kind in recipes.CORE), *options):
        compose.compose(command)
    compose.defaults()
    compose.options("augment", ())
    provenance.describe_platform("cpu")
    provenance.processor_name()
    provenance.code_fingerprint(())


def skip_teardown_of_imports() -> None:
    """Disable the finalizers at exit: they would write to memory that a child shares with the server."""
    for finalizer in weakref.finalize._registry:  # type: ignore[attr-defined]
        finalizer.atexit = False


def draw_first_picture() -> None:
    """Draw a chart, so that matplotlib is imported and has read its fonts."""
    import torch

    from dltrain.plots import charts

    charts.confusion(torch.eye(2), ["a", "b"])


def reap(children: set[int]) -> list[tuple[int, int]]:
    """Return the children that have ended, with their wait status."""
    found = []
    for pid in list(children):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            children.remove(pid)
            found.append((pid, status))
    return found


def end_all(children: set[int]) -> int:
    """Kill the remaining children, and return the exit code of the server."""
    for pid in children:
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
    return 0


def child(request: dict[str, Any]) -> int:
    """Set up this process for one command, run the command and return its exit code."""
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
    random.seed()  # a forked child would repeat the random numbers of its siblings
    for kind, limit in request["limits"].items():
        if kind.startswith("/"):
            mount(kind, limit)
        else:
            import resource

            resource.setrlimit(getattr(resource, kind), (limit, limit))
    return command(request["argv"])


def exit_process(code: int) -> NoReturn:
    """Exit like any Python program, but without the slow teardown of modules."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def mount(path: str, size: int) -> None:
    """Mount a small file system that only this process and its children see."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, private = 0x00020000, 1 << 18 | 1 << 14  # CLONE_NEWNS; MS_PRIVATE | MS_REC
    calls = (
        lambda: libc.unshare(new_namespace),
        lambda: libc.mount(None, b"/", None, private, None),
        lambda: libc.mount(b"tmpfs", path.encode(), b"tmpfs", 0, f"size={size}".encode()),
    )
    if any(call() for call in calls):
        exit_process(77)


def redirect(number: int, path: str) -> None:
    """Redirect a standard stream to a file at the level of file descriptors."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, number)
    os.close(file)


def command(argv: list[str]) -> int:
    """Run `dltrain` as its entry point does."""
    import time

    from dltrain.cli import main as cli

    cli.STARTED = time.perf_counter()
    return cli.main(argv)


if __name__ == "__main__":
    sys.exit(main())

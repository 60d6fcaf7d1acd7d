"""``dltrain GROUP=OPTION KEY=VALUE``: train, evaluate and keep a run; with ``-m`` a sweep."""

import os

from dltrain import compose, folder
from dltrain.cli import Command
from dltrain.compose import Job
from dltrain.console import Console


def main(command: Command, started: float) -> int:
    """Compose, say what will run, then import torch and run it."""
    console = Console()
    if command.multirun:
        jobs = compose.expand(command.overrides, command.config_dirs)
        ready(*jobs)
        from dltrain.sweep import sweep

        return sweep(jobs, console)
    job = compose.compose(command.overrides, command.config_dirs)
    folder.check(job.run_dir, compose.default_root())
    console.say(job.title())
    ready(job)
    from dltrain.run import train

    return train(job, console, started).exit_code


def ready(*jobs: Job) -> None:
    """What must be in the environment before torch is imported."""
    if any(job.config.device.deterministic for job in jobs):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

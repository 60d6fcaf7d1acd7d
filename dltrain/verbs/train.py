"""``dltrain GROUP=OPTION KEY=VALUE``: train, evaluate and keep a run; with ``-m`` a sweep."""

import os

from dltrain.cli import Command
from dltrain.compose import Job, compose
from dltrain.console import Console


def main(command: Command, started: float) -> int:
    """Compose, say what will run, then import torch and run it."""
    console = Console()
    if command.multirun:
        from dltrain.sweep import sweep

        return sweep(command.overrides, command.config_dirs, console)
    job = compose(command.overrides, command.config_dirs)
    console.say(job.title())
    ready(job)
    from dltrain.run import train

    return train(job, console, started).exit_code


def ready(job: Job) -> None:
    """What must be in the environment before torch is imported."""
    if job.config.device.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

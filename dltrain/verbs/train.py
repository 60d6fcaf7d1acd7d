"""``dltrain GROUP=OPTION KEY=VALUE``: train, evaluate and keep a run; with ``-m`` a sweep."""

import os
from pathlib import Path

from dltrain import compose, folder, stored
from dltrain.cli import Command
from dltrain.compose import Job
from dltrain.console import Console
from dltrain.errors import ConfigError, problem


def main(command: Command, started: float) -> int:
    """Compose, say what will run, then import torch and run it."""
    console = Console()
    if command.multirun:
        jobs = compose.expand(command.overrides, command.config_dirs)
        ready(*jobs)
        from dltrain.sweep import sweep

        return sweep(jobs, console, command.overrides)
    job = compose.compose(command.overrides, command.config_dirs)
    if job.config.trainer.resume == "auto" and (path := earlier(job)) is not None:
        from dltrain.verbs.resume import go_on

        before = compose.plain(stored.load(path, job.allow).config)
        return go_on(job, path, stored.differences(before, compose.plain(job.config)), console, started)
    folder.check(job.run_dir, compose.default_root())
    console.say(job.title())
    ready(job)
    from dltrain.run import train

    return train(job, console, started).exit_code


def earlier(job: Job) -> Path | None:
    """The run that the same command has begun before, or None.

    Raises:
        ConfigError: When the command does not say where that would be.
    """
    if job.run_dir is None:
        raise ConfigError(problem("trainer.resume", "hydra.run.dir=FOLDER with auto, the same each time", "none"))
    path = Path(job.run_dir).expanduser()
    return path if (path / stored.JOB).is_file() else None


def ready(*jobs: Job) -> None:
    """What must be in the environment before torch is imported."""
    if any(job.config.device.deterministic for job in jobs):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

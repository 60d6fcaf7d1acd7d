"""``dltrain GROUP=OPTION KEY=VALUE``: train, evaluate and keep a run; with ``-m`` a sweep."""

from pathlib import Path

from dltrain.cli.main import Command
from dltrain.cli.resume import go_on
from dltrain.config import compose
from dltrain.config.compose import Job
from dltrain.config.revise import config_differences
from dltrain.errors import ConfigError, format_error
from dltrain.loggers.console import Console
from dltrain.runs import job as stored
from dltrain.storage import folder_checks, run_files


def main(command: Command, started: float) -> int:
    """Compose, say what will run, then import torch and run it."""
    console = Console()
    if command.multirun:
        jobs = compose.expand(command.overrides, command.config_dirs)
        for job in jobs:
            job.ready()
        from dltrain.sweeps.sweep import run_sweep

        return run_sweep(jobs, console, command.overrides)
    job = compose.compose(command.overrides, command.config_dirs)
    if job.resolved["trainer"]["resume"] == "auto" and (path := earlier(job)) is not None:
        changed = config_differences(stored.load_job(path, job.allow).config, job.config)
        return go_on(job, path, changed, console, started)
    folder_checks.check_available(job.run_dir, compose.default_root())
    console.info(job.title())
    job.ready()
    from dltrain.runs.launch import train

    return train(job, console, started).exit_code


def earlier(job: Job) -> Path | None:
    """The run that the same command has begun before, or None.

    Raises:
        ConfigError: When the command does not say where that would be.
    """
    if job.run_dir is None:
        raise ConfigError(format_error("trainer.resume", "hydra.run.dir=FOLDER with auto, the same each time", "none"))
    path = Path(job.run_dir).expanduser()
    return path if (path / run_files.JOB).is_file() else None

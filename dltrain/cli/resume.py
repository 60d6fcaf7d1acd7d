"""``dltrain resume RUN``: continue a run from its newest intact checkpoint."""

import argparse
from pathlib import Path

from dltrain.config.compose import Job
from dltrain.config.revise import Changes
from dltrain.loggers.console import Console
from dltrain.runs.job import is_finished, open_run, stopped_early
from dltrain.runs.overridable import check_resume, extends_training


def main(arguments: argparse.Namespace, started: float) -> int:
    """Read the run folder and continue the run."""
    path, job, changes = open_run(arguments.names[0], arguments.overrides)
    return resume_run(job, path, changes, Console(), started, arguments.change_schedule)


def resume_run(
    job: Job, path: Path, changes: Changes, console: Console, started: float, change_schedule: bool = False
) -> int:
    """Continue a run and return the exit code.

    A finished run is continued only if `changes` extend its training and it did not stop early.
    """
    check_resume(changes, str(path), job.resolved["device"]["precision"])
    if is_finished(path) and stopped_early(path):
        new = f"dltrain rerun {path} regularization.early_stopping_patience=N"
        console.info(f"{path}: this run is finished because it stopped early. To train longer, start a new run: {new}")
        return 0
    if is_finished(path) and not extends_training(changes):
        limits = "trainer.epochs, trainer.max_steps or trainer.max_minutes"
        console.info(f"{path}: this run is finished. To train longer, raise {limits}")
        return 0
    console.info(f"{job.title()} (resumed)")
    job.set_environment()
    from dltrain.runs.launch import resume

    return resume(job, path, console, started, None, changes, change_schedule).exit_code

"""Start or resume a run: build its components, lock its folder, and train in it."""

import contextlib
from pathlib import Path

from dltrain.config import compose
from dltrain.config.compose import Job
from dltrain.config.revise import Changes
from dltrain.loggers.console import Console
from dltrain.runs import provenance
from dltrain.runs.dry_run import prepare_run
from dltrain.runs.report import describe_environment
from dltrain.runs.restore import check_not_shorter, check_schedule, newest_checkpoint
from dltrain.runs.session import Outcome, Session
from dltrain.storage import folder_checks, run_dir
from dltrain.storage.checkpoint_format import reject_mismatch
from dltrain.training.meters import Timer
from dltrain.training.signals import Stop


def train(
    job: Job,
    console: Console,
    started: float,
    path: str | None = None,
    stop: Stop | None = None,
    origin: provenance.Origin | None = None,
) -> Outcome:
    """Start a new run: train and evaluate its model.

    Args:
        started: Start of the command, by `time.perf_counter`.
        path: Folder of the run within a sweep; None uses `Job.run_dir`.
        stop: Signal handler; a sweep passes one for all jobs, so that no signal is lost between them.
        origin: Run that this run repeats; the differences from it are printed first.

    Raises:
        ConfigError: The run cannot start; no run folder is left.
        Stopped: A signal arrived before training started.
    """
    standalone = path is None
    path = path or job.run_dir
    root = compose.default_root()
    folder_checks.check_available(path, root)
    stop = stop or Stop()
    with stop.listening(), prepare_run(job) as (components, batches):
        if origin is not None:
            origin.print_differences(console, describe_environment(job, components))
        home = run_dir.create(path, root, f"{job.choices['model']}-{job.choices['data']}")
        with contextlib.closing(home):
            return Session(job, components, batches, console, home, Timer(started), stop, standalone).run()


def resume(
    job: Job,
    path: Path,
    console: Console,
    started: float,
    stop: Stop | None = None,
    changes: Changes | None = None,
    change_schedule: bool = False,
) -> Outcome:
    """Resume a run from its newest intact checkpoint, or from the beginning if it has no checkpoint.

    Args:
        job: The job stored in the run folder, with overrides applied.
        started: Start of the command, by `time.perf_counter`.
        stop: Signal handler of the sweep that the run is part of; None for a single run.
        changes: Keys that were overridden, with their values before and after.
        change_schedule: Whether a new number of training steps may change the learning rate.

    Raises:
        ConfigError: The folder is in use, or its content or an override is invalid.
        CheckpointError: All checkpoints are damaged, or the newest intact one does not fit this run.
        Stopped: A signal arrived before training started.
    """
    standalone, stop = stop is None, stop or Stop()
    with stop.listening(), contextlib.closing(run_dir.reopen(path)) as home:
        saved, notes = newest_checkpoint(path)
        with prepare_run(job, notes, path, path if saved else None) as (components, batches):
            if saved:
                reject_mismatch(saved.name, saved.content["model"], components.model.state_dict())
                check_not_shorter(saved, components, batches)
                note = check_schedule(saved, components, batches, changes or {}, change_schedule)
                components.notes = (*components.notes, *([note] if note else []))
            return Session(
                job, components, batches, console, home, Timer(started), stop, standalone, saved, is_new=False
            ).run()

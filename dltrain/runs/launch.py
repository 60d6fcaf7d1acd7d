"""A run begins, or goes on: configuration -> everything it is made of -> its folder -> a session in it."""

import contextlib
from pathlib import Path

from dltrain.config import compose
from dltrain.config.compose import Job
from dltrain.data.loader import Batches
from dltrain.errors import ConfigError, format_error
from dltrain.loggers.console import Console
from dltrain.runs import provenance
from dltrain.runs.assemble import Components
from dltrain.runs.dry_run import prepare_run
from dltrain.runs.report import describe_environment
from dltrain.runs.session import Outcome, Session, newest_checkpoint
from dltrain.storage import run_dir
from dltrain.storage.checkpoint_format import refuse_misfit
from dltrain.training.meters import Timer
from dltrain.training.signals import Stop
from dltrain.training.stages import Stages


def train(
    job: Job,
    console: Console,
    started: float,
    path: str | None = None,
    stop: Stop | None = None,
    origin: provenance.Origin | None = None,
) -> Outcome:
    """Build, train, evaluate and keep one run.

    Args:
        job: What to run.
        console: Where to say so.
        started: When the command began, as `time.perf_counter` has it.
        path: The run's folder within a sweep, whose table is the command's result; None takes what the job says.
        stop: Hears signals, for a sweep that must not miss any between its jobs.
        origin: The run that this one repeats; what differs from it is said first.

    Raises:
        ConfigError: When something that was asked for makes no sense; nothing is left on disk then.
        Stopped: When a signal came before there was anything to keep.
    """
    standalone = path is None
    path = path or job.run_dir
    root = compose.default_root()
    run_dir.check(path, root)
    stop = stop or Stop()
    with stop.listening(), prepare_run(job) as (components, batches):
        if origin is not None:
            origin.print_differences(console, describe_environment(job, components))
        home = run_dir.create(path, root, f"{job.choices['model']}-{job.choices['data']}")
        with contextlib.closing(home):
            return Session(job, components, batches, console, home, Timer(started), stop, standalone).run()


def resume(
    job: Job, path: Path, console: Console, started: float, standalone: bool = True, stop: Stop | None = None
) -> Outcome:
    """Go on with a run where its newest good checkpoint stands, or begin anew where it has none.

    Args:
        job: What the run's folder says, with what may be changed.
        path: The run's folder.
        console: Where to say so.
        started: When the command began, as `time.perf_counter` has it.
        alone: The run is not part of a sweep.
        stop: Hears signals, for a sweep that must not miss any between its jobs.

    Raises:
        ConfigError: When the folder is in use, or something in it makes no sense; it is left as it was.
        CheckpointError: When it has checkpoints and none of them is whole; likewise.
        Stopped: When a signal came before anything was done.
    """
    stop = stop or Stop()
    with stop.listening(), contextlib.closing(run_dir.reopen(path)) as home:
        saved, notes = newest_checkpoint(path)
        with prepare_run(job, notes, path) as (components, batches):
            if saved:
                refuse_misfit(saved[0], saved[1]["model"], components.model.state_dict())
                check_not_shorter(saved[1]["loop"]["step"], components, batches)
            return Session(
                job, components, batches, console, home, Timer(started), stop, standalone, saved, is_new=False
            ).run()


def check_not_shorter(done: int, components: Components, batches: dict[str, Batches]) -> None:
    """Refuse to make a run shorter than it is.

    Raises:
        ConfigError: Saying how long it would be.
    """
    steps = Stages(components.task.stages(components.model), batches, components.trainer).steps
    if steps < done:
        hint = "trainer.epochs or trainer.max_steps makes it shorter than it is. dltrain rerun begins a shorter one."
        raise ConfigError(format_error("trainer", f"at least the {done:,} steps that are done", f"{steps:,}", hint))

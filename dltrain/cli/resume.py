"""``dltrain resume RUN``: go on with a run where its newest good checkpoint stands, to the same bytes."""

from pathlib import Path
from typing import Any

from dltrain.cli.main import Command, one_run
from dltrain.config.compose import Job
from dltrain.config.revise import revise_job
from dltrain.loggers.console import Console
from dltrain.runs import job as stored
from dltrain.runs import overridable

USAGE = """\
dltrain resume RUN [KEY=VALUE ...]

Goes on with a run that was interrupted, killed or given too little time: in the same folder, with the same curves,
to the same bytes as if it had never stopped. RUN is a run's folder, or latest.

What cannot change the mathematics may be changed: trainer.epochs and trainer.max_steps (train longer), what else of
trainer. concerns logs, checkpoints and time, data.workers, data.root, data.path, data.on_bad_sample, device=.
A damaged checkpoint is passed over for the newest one that is whole; exit code 5 if none is.

  dltrain resume latest
  dltrain resume outputs/lstm-timeseries/20261122-170146-f8f5 trainer.epochs=40
"""


def main(command: Command, started: float) -> int:
    """Read the folder, check what is asked, go on."""
    if {"--help", "-h"} & set(command.rest):
        print(USAGE)
        return 0
    path, typed, allow = one_run(command)
    job, changed = revise_job(stored.load_job(path, allow), typed)
    return go_on(job, path, changed, Console(), started)


def go_on(job: Job, path: Path, changed: dict[str, tuple[Any, Any]], console: Console, started: float) -> int:
    """Go on with a run, unless it is finished and nothing gives it more to do.

    Args:
        job: What its folder says, with what was changed.
        path: Its folder.
        changed: Key -> before and after.
        console: Where to say so.
        started: When the command began, as `time.perf_counter` has it.

    Raises:
        ConfigError: When what was changed would make it another run.
    """
    overridable.check_resume(changed, str(path), job.resolved["device"]["precision"])
    if stored.is_finished(path) and not any(map(is_longer, changed.items())):
        console.info(f"{path}: this run is finished. trainer.epochs=N trains on.")
        return 0
    console.info(f"{job.title()} (resumed)")
    job.ready()
    from dltrain.runs.launch import resume

    return resume(job, path, console, started).exit_code


def is_longer(change: tuple[str, tuple[Any, Any]]) -> bool:
    """Whether a key that has changed gives a run more to do; null is no limit."""
    key, (before, after) = change
    if key not in ("trainer.epochs", "trainer.max_steps", "trainer.max_minutes"):
        return False
    return after is None or (before is not None and after > before)

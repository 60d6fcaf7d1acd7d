"""One session of a run that has its folder: trains, and whatever happens says how it ended."""

import contextlib
import functools
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dltrain import redaction
from dltrain.config.compose import Job
from dltrain.data.loader import Batches
from dltrain.errors import CheckpointError, ConfigError, OutputError, WorkerError
from dltrain.loggers.console import Console
from dltrain.loggers.formatting import format_count
from dltrain.loggers.tracker import EVENTS, METRICS, Tracker
from dltrain.optim.ema import Average
from dltrain.plots import draw
from dltrain.runs import failures, provenance, slurm
from dltrain.runs import job as stored
from dltrain.runs.assemble import Parts, make_optimizer
from dltrain.runs.dry_run import built
from dltrain.runs.report import Report, command, environment, finite
from dltrain.storage import run_dir
from dltrain.storage.checkpoint_format import STATE_ERRORS
from dltrain.storage.checkpoints import Checkpoints
from dltrain.storage.run_files import BEST
from dltrain.training import nan_trace
from dltrain.training.device import is_out_of_memory
from dltrain.training.loop import Diverged, Loop
from dltrain.training.run_logger import Journal
from dltrain.training.signals import NAMES, SAVES, Stop, Stopped
from dltrain.training.state import Clock

EXIT = {"finished": 0, "failed": 1, "diverged": 3, "out_of_memory": 4}

# A checkpoint by its file, and what it holds.
Saved = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    state: str
    exit_code: int
    folder: Path
    result: dict[str, Any]
    error: str | None = None


class Session:
    """A run that has its folder: trains, and whatever happens says how it ended.

    Args:
        job: What to run.
        parts: What it is made of.
        batches: Split -> its batches.
        console: Where to say so.
        home: The run's folder.
        clock: Measures.
        stop: Hears signals.
        alone: The run is not part of a sweep.
        saved: Where to go on, or None.
        fresh: Nothing of the run was there before.
    """

    def __init__(
        self,
        job: Job,
        parts: Parts,
        batches: dict[str, Batches],
        console: Console,
        home: run_dir.RunDir,
        clock: Clock,
        stop: Stop,
        alone: bool,
        saved: Saved | None = None,
        fresh: bool = True,
    ) -> None:
        self.job, self.parts, self.batches, self.console, self.home = job, parts, batches, console, home
        self.clock, self.stop, self.saved, self.fresh = clock, stop, saved, fresh
        self.report = Report(job, parts, batches, console, home.path, alone)
        trainer = parts.config["trainer"]
        self.checkpoints = Checkpoints(home.path, trainer["keep_last"], trainer["keep_best"], self.sync)
        self.stop.leave, self.stop.requeue = self.abort, trainer["requeue"] and slurm.is_here()
        self.begun = saved[1]["loop"]["step"] if saved else 0  # steps that earlier sessions have taken
        self.tracker: Tracker | None = None
        self.loop: Loop | None = None

    @property
    def step(self) -> int:
        """Optimizer steps so far."""
        return self.loop.state.step if self.loop is not None else self.begun

    def go(self) -> Outcome:
        """Train, evaluate, report; every end leaves a status and an exit code."""
        result: dict[str, Any] = {}
        try:
            result, state, error = self.work(), "finished", None
        except (ConfigError, CheckpointError) as reason:
            if self.step == self.begun:
                self.discard()
                if not self.fresh:
                    self.home.write_status("failed", reason.code, self.step, str(reason))
                raise
            state, error = "failed", str(reason)
        except Stopped as reason:
            if self.fresh and self.loop is None:  # nothing was done, nothing stays
                self.discard()
                raise
            state, error = "interrupted", reason.reason
        except KeyboardInterrupt:  # where no handler could be set: in a thread of a user's own program
            state, error = "interrupted", "SIGINT"
        except Diverged as reason:
            state, error = "diverged", self.diagnosed(reason)
        except (WorkerError, OutputError) as reason:
            state, error = "failed", str(reason)
        except OSError as reason:
            state, error = "failed", failures.could_not_write(reason, self.home.path, self.checkpoints)
        except Exception as reason:
            if is_out_of_memory(reason):
                state, error = "out_of_memory", failures.out_of_memory(reason, self.parts)
            else:
                state, error = "failed", f"{type(reason).__name__}: {reason}"
                self.console.error(traceback.format_exc().splitlines())
        return self.end(state, result, error)

    def work(self) -> dict[str, Any]:
        """All of it, from the files of a new run to its result."""
        home, saved = self.home, self.saved
        self.save_metadata()
        home.write_status("running", step=self.begun)
        self.console.open_log(home.path / "train.log")
        self.checkpoints.open()
        self.warn_missing_logs()
        tracker = self.tracker = Tracker(home.path, self.first_step_to_write())
        loop = self.make_loop(self.parts, self.batches, tracker)
        self.report.announce(loop.steps)
        if saved is None:
            self.report.explain(tracker)
        else:
            self.restore(loop, *saved)
        self.loop = loop
        with self.stop.within(self.minutes_left()):
            return self.train_and_test(loop, tracker)

    def warn_missing_logs(self) -> None:
        """Say which curves of earlier sessions are gone; a checkpoint does not hold them."""
        lost = [name for name in (METRICS, EVENTS) if not any(self.home.path.glob(f"{name}*"))]
        if self.begun and lost:
            self.console.warning(f"{' and '.join(lost)}: not there, what was logged up to step {self.begun} is lost")

    def save_metadata(self) -> None:
        """What the run is, before it starts or goes on: longer than it was first asked to, perhaps."""
        home, config = self.home, OmegaConf.to_yaml(OmegaConf.create(redaction.masked(self.parts.config)))
        home.write(stored.JOB, stored.dump(self.job))  # first: from here on the run can be resumed
        home.write("config.yaml", config)
        home.write("command.txt", command(self.job) + "\n")
        if self.saved is None:
            home.write_json(provenance.ENVIRONMENT, environment(self.job, self.parts))

    def restore(self, loop: Loop, name: str, state: dict[str, Any]) -> None:
        """Take up a checkpoint.

        Raises:
            CheckpointError: When it is not one of such a run; its file is whole, so somebody has made it so.
        """
        try:
            loop.load_state_dict(state, self.checkpoints.read_manifest().get(name, {}))
        except STATE_ERRORS as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise CheckpointError(f"{name}: refused, this run cannot go on with it. {reason}") from error
        best = self.checkpoints.path / self.checkpoints.resolve(BEST)
        if loop.state.best is not None and (damage := self.checkpoints.find_damage(best)):
            self.console.warning(f"{best}: passed over, {damage}; the best is now that of what follows")
            loop.forget_best()
        state.clear()  # it is in place: do not hold it twice
        self.console.info(f"goes on at step {format_count(loop.state.step)} with {name}")

    def train_and_test(self, loop: Loop, tracker: Tracker) -> dict[str, Any]:
        """The loop, then the best weights on the test split; writes and shows the result."""
        loop.run()
        evaluation = loop.measure(self.batches["test"])
        shown, filters = loop.shown_of(evaluation), draw.first_filters(loop.judged)
        result = self.report.result(loop, self.clock, evaluation)
        self.stop.finish()  # what follows is quick; a half of it would be written again by a session to come
        if not tracker.ends_with(loop.state.step, "test"):
            loop.journal.show(loop.state.step, "test", shown)
            if filters is not None:
                tracker.image("filters", filters, loop.state.step)
            tracker.scalars(loop.state.step, loop.epoch, "test", evaluation.metrics)
        self.home.write_json("result.json", result)
        self.report.show(result)
        return result

    def first_step_to_write(self) -> int | None:
        """What an interrupted session wrote from this step on is written again; None where there was none."""
        if self.saved is not None:
            return self.begun + 1
        return 0 if (self.home.path / METRICS).exists() else None

    def minutes_left(self) -> float | None:
        """Minutes until training has to stop, from now; this command's start-up counts."""
        limit = self.parts.plan.max_minutes
        return None if limit is None else max(0.0, limit - (time.perf_counter() - self.clock.started) / 60)

    def opened(self) -> Tracker:
        """The tracker, which is there once anything is trained."""
        assert self.tracker is not None
        return self.tracker

    def sync(self) -> None:
        """What a checkpoint goes with must be on the disk before it."""
        if self.tracker is not None:
            self.tracker.sync()

    def discard(self) -> None:
        """Leave nothing of a run that never began; what an earlier session left stays."""
        self.console.close_log()
        self.checkpoints.close()
        if self.tracker is not None:
            self.tracker.close()
        if self.fresh:
            self.home.discard()

    def abort(self, code: int) -> None:
        """A second signal came: nothing half-written may stay."""
        self.checkpoints.remove_temp()
        self.home.write_status("interrupted", code, self.step, "left at once")

    def end(self, state: str, result: dict[str, Any], error: str | None) -> Outcome:
        """Write down how the run ended, as far as the disk lets us."""
        self.stop.finish()
        if (late := self.close(state, result)) and state in ("finished", "interrupted"):
            state, error = "failed", late
        code = NAMES.get(str(error), 143) if state == "interrupted" else EXIT[state]
        with contextlib.suppress(OSError):
            self.home.write_status(state, code, self.step, error)
        if error:
            self.console.error([f"{state}: {error}", *failures.ways_on(state, self.home.path, self.checkpoints)])
        if state == "interrupted" and error == SAVES.name and self.stop.requeue:
            self.console.info(slurm.requeue())
        self.console.close_log()
        return Outcome(state, code, self.home.path, result, error)

    def close(self, state: str, result: dict[str, Any]) -> str | None:
        """Finish every file of the run; what went wrong with it, or None."""
        problem = None
        try:
            self.checkpoints.wait()
            if self.tracker is not None:
                self.tracker.film()
            if self.tracker is not None and state != "interrupted":
                final = {f"{k}/test": v for k, v in result.get("test", {}).items() if v is not None}
                self.tracker.hparams(self.report.choices(), final, succeeded=state == "finished")
        except OSError as reason:
            problem = failures.could_not_write(reason, self.home.path, self.checkpoints)
        self.checkpoints.close()
        if self.tracker is not None:
            with contextlib.suppress(OSError):
                self.tracker.close()
        return problem

    def diagnosed(self, reason: Diverged) -> str:
        """Where it began to diverge; written to ``nan_report.json``, too."""
        noticed = self.step
        try:
            self.checkpoints.wait()
            saved = newest(self.home.path)[0]
            self.console.info(f"{reason}; repeating from step {saved[1]['loop']['step'] if saved else 0} to see where")
            with built(self.job) as (parts, batches):
                loop = self.make_loop(parts, batches, self.opened())
                if saved:
                    loop.load_state_dict(saved[1], {})
                report = nan_trace.find(loop, noticed)
        except Exception as error:  # whatever goes wrong here must not hide what went wrong there
            return f"{reason}. Looking for the step failed: {type(error).__name__}: {error}"
        except Stopped:
            return f"{reason}. Looking for the step was interrupted"
        if report is None:
            return f"{reason}. Repeated, all steps were finite: this run does not repeat itself"
        with contextlib.suppress(OSError):
            self.home.write_json("nan_report.json", finite(report))
        return nan_trace.sentence(report)

    def make_loop(self, parts: Parts, batches: dict[str, Batches], tracker: Tracker) -> Loop:
        """The loop with everything it turns."""
        decay = parts.config["regularization"]["average"]
        return Loop(
            parts.task,
            parts.model,
            batches,
            functools.partial(make_optimizer, self.job, parts),
            Average(parts.model, decay) if decay else None,
            parts.plan,
            parts.device,
            Journal(tracker, self.console, self.clock, parts.device.device),
            self.checkpoints,
            self.stop,
        )


def newest(path: Path) -> tuple[Saved | None, list[str]]:
    """The newest good checkpoint of a run if it has one, and what there is to say about it.

    Raises:
        CheckpointError: When there are some and none of them is whole.
    """
    if not any(path.glob("checkpoints/step-*.pt")):
        return None, ["no checkpoint was written yet: it starts from the beginning"]
    name, state, refused = Checkpoints(path).load_newest()
    back = [f"went back to {path / 'checkpoints' / name}"] if refused else []
    return (name, state), [*refused, *back]

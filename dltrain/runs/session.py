"""One session of a run that has its folder: trains, and whatever happens says how it ended."""

import contextlib
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dltrain import redaction
from dltrain.config.compose import Job
from dltrain.config.plain import to_yaml
from dltrain.data.loader import Batches
from dltrain.errors import CheckpointError, ConfigError, OutputError, WorkerError
from dltrain.loggers.console import Console, count
from dltrain.loggers.tracker import EVENTS, METRICS, Tracker
from dltrain.optim.ema import EMA
from dltrain.plots import draw
from dltrain.runs import failures, provenance, slurm
from dltrain.runs import job as stored
from dltrain.runs.assemble import Components
from dltrain.runs.dry_run import prepare_run
from dltrain.runs.report import Report, command_line, describe_environment, finite_or_none
from dltrain.storage import run_dir
from dltrain.storage.checkpoint_format import MISFIT
from dltrain.storage.checkpoints import BEST, Checkpoints
from dltrain.training import nan_trace
from dltrain.training.device import is_out_of_memory
from dltrain.training.loop import Diverged, Loop
from dltrain.training.meters import Timer
from dltrain.training.run_logger import RunLogger
from dltrain.training.signals import SAVE_SIGNAL, SIGNAL_EXIT_CODES, Stop, Stopped

EXIT_CODES = {"finished": 0, "failed": 1, "diverged": 3, "out_of_memory": 4}

# A checkpoint by its file, and what it holds.
SavedState = tuple[str, dict[str, Any]]


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
        components: What it is made of.
        batches: Split -> its batches.
        console: Where to say so.
        home: The run's folder.
        timer: Measures.
        stop: Hears signals.
        alone: The run is not part of a sweep.
        saved: Where to go on, or None.
        fresh: Nothing of the run was there before.
    """

    def __init__(
        self,
        job: Job,
        components: Components,
        batches: dict[str, Batches],
        console: Console,
        home: run_dir.Folder,
        timer: Timer,
        stop: Stop,
        standalone: bool,
        saved: SavedState | None = None,
        is_new: bool = True,
    ) -> None:
        self.job, self.components, self.batches, self.console, self.home = job, components, batches, console, home
        self.timer, self.stop, self.saved, self.is_new = timer, stop, saved, is_new
        self.report = Report(job, components, batches, console, home.path, standalone)
        trainer = components.config["trainer"]
        self.checkpoints = Checkpoints(home.path, trainer["keep_last"], trainer["keep_best"], self.sync)
        self.stop.on_abort, self.stop.requeue = self.leave, trainer["requeue"] and slurm.in_job()
        self.start_step = saved[1]["loop"]["step"] if saved else 0  # steps that earlier sessions have taken
        self.tracker: Tracker | None = None
        self.loop: Loop | None = None

    @property
    def step(self) -> int:
        """Optimizer steps so far."""
        return self.loop.state.step if self.loop is not None else self.start_step

    def run(self) -> Outcome:
        """Train, evaluate, report; every end leaves a status and an exit code."""
        result: dict[str, Any] = {}
        try:
            result, state, error = self.execute(), "finished", None
        except (ConfigError, CheckpointError) as reason:
            if self.step == self.start_step:
                self.discard_session()
                if not self.is_new:
                    self.home.status("failed", reason.code, self.step, str(reason))
                raise
            state, error = "failed", str(reason)
        except Stopped as reason:
            if self.is_new and self.loop is None:  # nothing was done, nothing stays
                self.discard_session()
                raise
            state, error = "interrupted", reason.reason
        except KeyboardInterrupt:  # where no handler could be set: in a thread of a user's own program
            state, error = "interrupted", "SIGINT"
        except Diverged as reason:
            state, error = "diverged", self.trace_divergence(reason)
        except (WorkerError, OutputError) as reason:
            state, error = "failed", str(reason)
        except OSError as reason:
            state, error = "failed", failures.describe_write_error(reason, self.home.path, self.checkpoints)
        except Exception as reason:
            if is_out_of_memory(reason):
                state, error = "out_of_memory", failures.describe_out_of_memory(reason, self.components)
            else:
                state, error = "failed", f"{type(reason).__name__}: {reason}"
                self.console.error(traceback.format_exc().splitlines())
        return self.end(state, result, error)

    def execute(self) -> dict[str, Any]:
        """All of it, from the files of a new run to its result."""
        home, saved = self.home, self.saved
        self.save_metadata()
        home.status("running", step=self.start_step)
        self.console.attach(home.path / "train.log")
        self.checkpoints.open()
        self.warn_missing_logs()
        tracker = self.tracker = Tracker(home.path, self.first_step_to_write())
        loop = self.build_loop(self.components, self.batches, tracker)
        self.report.print_start(loop.steps)
        if saved is None:
            self.report.log_config(tracker)
        else:
            self.restore(loop, *saved)
        self.loop = loop
        with self.stop.time_limit(self.remaining_minutes()):
            return self.train_and_test(loop, tracker)

    def warn_missing_logs(self) -> None:
        """Say which curves of earlier sessions are gone; a checkpoint does not hold them."""
        lost = [name for name in (METRICS, EVENTS) if not any(self.home.path.glob(f"{name}*"))]
        if self.start_step and lost:
            self.console.warn(f"{' and '.join(lost)}: not there, what was logged up to step {self.start_step} is lost")

    def save_metadata(self) -> None:
        """What the run is, before it starts or goes on: longer than it was first asked to, perhaps."""
        home, config = self.home, to_yaml(redaction.masked(self.components.config))
        home.write(stored.JOB, stored.dump_job(self.job))  # first: from here on the run can be resumed
        home.write("config.yaml", config)
        home.write("command.txt", command_line(self.job) + "\n")
        if self.saved is None:
            home.write_json(provenance.ENVIRONMENT, describe_environment(self.job, self.components))

    def restore(self, loop: Loop, name: str, state: dict[str, Any]) -> None:
        """Take up a checkpoint.

        Raises:
            CheckpointError: When it is not one of such a run; its file is whole, so somebody has made it so.
        """
        try:
            loop.load_state_dict(state, self.checkpoints.manifest().get(name, {}))
        except MISFIT as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise CheckpointError(f"{name}: refused, this run cannot go on with it. {reason}") from error
        best = self.checkpoints.path / self.checkpoints.named(BEST)
        if loop.state.best is not None and (damage := self.checkpoints.damage(best)):
            self.console.warn(f"{best}: passed over, {damage}; the best is now that of what follows")
            loop.reset_best()
        state.clear()  # it is in place: do not hold it twice
        self.console.say(f"goes on at step {count(loop.state.step)} with {name}")

    def train_and_test(self, loop: Loop, tracker: Tracker) -> dict[str, Any]:
        """The loop, then the best weights on the test split; writes and shows the result."""
        loop.run()
        evaluation = loop.evaluate(self.batches["test"])
        shown, filters = loop.show(evaluation), draw.first_filters(loop.eval_model)
        result = self.report.result(loop, self.timer, evaluation)
        self.stop.finish()  # what follows is quick; a half of it would be written again by a session to come
        if not tracker.ends_with(loop.state.step, "test"):
            loop.logger.show(loop.state.step, "test", shown)
            if filters is not None:
                tracker.image("filters", filters, loop.state.step)
            tracker.scalars(loop.state.step, loop.epoch, "test", evaluation.metrics)
        self.home.write_json("result.json", result)
        self.report.show(result)
        return result

    def first_step_to_write(self) -> int | None:
        """What an interrupted session wrote from this step on is written again; None where there was none."""
        if self.saved is not None:
            return self.start_step + 1
        return 0 if (self.home.path / METRICS).exists() else None

    def remaining_minutes(self) -> float | None:
        """Minutes until training has to stop, from now; this command's start-up counts."""
        limit = self.components.trainer.max_minutes
        return None if limit is None else max(0.0, limit - (time.perf_counter() - self.timer.started) / 60)

    def opened(self) -> Tracker:
        """The tracker, which is there once anything is trained."""
        assert self.tracker is not None
        return self.tracker

    def sync(self) -> None:
        """What a checkpoint goes with must be on the disk before it."""
        if self.tracker is not None:
            self.tracker.sync()

    def discard_session(self) -> None:
        """Leave nothing of a run that never began; what an earlier session left stays."""
        self.console.detach()
        self.checkpoints.close()
        if self.tracker is not None:
            self.tracker.close()
        if self.is_new:
            self.home.discard()

    def leave(self, code: int) -> None:
        """A second signal came: nothing half-written may stay."""
        self.checkpoints.abandon()
        self.home.status("interrupted", code, self.step, "left at once")

    def end(self, state: str, result: dict[str, Any], error: str | None) -> Outcome:
        """Write down how the run ended, as far as the disk lets us."""
        self.stop.finish()
        if (late := self.close(state, result)) and state in ("finished", "interrupted"):
            state, error = "failed", late
        code = SIGNAL_EXIT_CODES.get(str(error), 143) if state == "interrupted" else EXIT_CODES[state]
        with contextlib.suppress(OSError):
            self.home.status(state, code, self.step, error)
        if error:
            self.console.error([f"{state}: {error}", *failures.next_steps(state, self.home.path, self.checkpoints)])
        if state == "interrupted" and error == SAVE_SIGNAL and self.stop.requeue:
            self.console.say(slurm.requeue())
        self.console.detach()
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
            problem = failures.describe_write_error(reason, self.home.path, self.checkpoints)
        self.checkpoints.close()
        if self.tracker is not None:
            with contextlib.suppress(OSError):
                self.tracker.close()
        return problem

    def trace_divergence(self, reason: Diverged) -> str:
        """Where it began to diverge; written to ``nan_report.json``, too."""
        noticed = self.step
        try:
            self.checkpoints.wait()
            saved = newest_checkpoint(self.home.path)[0]
            self.console.say(f"{reason}; repeating from step {saved[1]['loop']['step'] if saved else 0} to see where")
            with prepare_run(self.job) as (components, batches):
                loop = self.build_loop(components, batches, self.opened())
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
            self.home.write_json("nan_report.json", finite_or_none(report))
        return nan_trace.sentence(report)

    def build_loop(self, components: Components, batches: dict[str, Batches], tracker: Tracker) -> Loop:
        """The loop with everything it turns."""
        decay = components.config["regularization"]["ema_decay"]
        return Loop(
            components.task,
            components.model,
            batches,
            components.build_optimizer,
            EMA(components.model, decay) if decay else None,
            components.trainer,
            components.device,
            RunLogger(tracker, self.console, self.timer, components.device.device),
            self.checkpoints,
            self.stop,
        )


def newest_checkpoint(path: Path) -> tuple[SavedState | None, list[str]]:
    """The newest good checkpoint of a run if it has one, and what there is to say about it.

    Raises:
        CheckpointError: When there are some and none of them is whole.
    """
    if not any(path.glob("checkpoints/step-*.pt")):
        return None, ["no checkpoint was written yet: it starts from the beginning"]
    name, state, refused = Checkpoints(path).newest()
    back = [f"went back to {path / 'checkpoints' / name}"] if refused else []
    return (name, state), [*refused, *back]

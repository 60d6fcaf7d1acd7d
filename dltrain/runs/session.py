"""Session of a run: train in the run's folder and record how the training ended."""

import contextlib
import os
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dltrain.config.compose import Job
from dltrain.data.loader import Batches
from dltrain.errors import CheckpointError, ConfigError, OutputError, WorkerError
from dltrain.loggers.console import Console
from dltrain.loggers.tracker import Tracker
from dltrain.optim.ema import EMA
from dltrain.plots import grids
from dltrain.runs import failures
from dltrain.runs.assemble import Components
from dltrain.runs.dry_run import prepare_run
from dltrain.runs.report import Report, finite_or_none, save_metadata
from dltrain.runs.restore import SavedState, newest_checkpoint, restore_loop
from dltrain.storage import fitted, run_dir, run_files
from dltrain.storage.checkpoints import Checkpoints
from dltrain.training import nan_trace
from dltrain.training.checkpointing import Diverged
from dltrain.training.device import is_out_of_memory
from dltrain.training.evaluation import has_finite_weights, non_finite
from dltrain.training.loop import Loop
from dltrain.training.meters import Timer
from dltrain.training.run_logger import RunLogger
from dltrain.training.signals import SAVE_SIGNAL, SIGNAL_EXIT_CODES, Stop, Stopped

EXIT_CODES = {"finished": 0, "failed": 1, "diverged": 3, "out_of_memory": 4}


@dataclass(frozen=True)
class Outcome:
    """State, exit code and result of a run that has ended."""

    state: str  # finished, interrupted, failed, diverged or out_of_memory
    exit_code: int
    folder: Path
    result: dict[str, Any]  # the content of ``result.json``; empty unless the run was trained and tested
    error: str | None = None  # what went wrong, or the signal that interrupted the run


@dataclass
class Session:
    """Training of a run in its folder, from a checkpoint or from the beginning."""

    job: Job
    components: Components
    batches: dict[str, Batches]
    console: Console
    home: run_dir.RunDir  # the run's folder, locked
    timer: Timer  # counts from the start of the command
    stop: Stop
    standalone: bool  # the run is not part of a sweep
    saved: SavedState | None = None  # the checkpoint to resume from
    is_new: bool = True  # the folder held no run before

    def __post_init__(self) -> None:
        self.report = Report(self.job, self.components, self.batches, self.console, self.home.path, self.standalone)
        trainer = self.components.config["trainer"]
        self.checkpoints = Checkpoints(self.home.path, trainer["keep_last"], trainer["keep_best"], self._sync_logs)
        self.stop.on_abort = self._abort
        self.stop.requeue = trainer["requeue"] and bool(os.environ.get(failures.SLURM_JOB))
        self.start_step = self.saved.step if self.saved else 0
        self.tracker: Tracker | None = None
        self.loop: Loop | None = None

    @property
    def step(self) -> int:
        """Optimizer steps taken so far, in this session and earlier sessions."""
        return self.loop.state.step if self.loop is not None else self.start_step

    def run(self) -> Outcome:
        """Train, evaluate and report; record a status and an exit code even if training fails.

        Raises:
            ConfigError: The run cannot start; a folder that it created is removed.
            CheckpointError: The run cannot resume.
            Stopped: A signal arrived before a new run started training.
        """
        result: dict[str, Any] = {}
        try:
            result, state, error = self._train_and_test(), "finished", None
        except (ConfigError, CheckpointError) as reason:
            if self.step == self.start_step:
                self._discard()
                if not self.is_new:
                    self.home.write_status("failed", reason.code, self.step, str(reason))
                raise
            state, error = "failed", str(reason)
        except Stopped as reason:
            if self.is_new and self.loop is None:
                self._discard()
                raise
            state, error = "interrupted", reason.reason
        except KeyboardInterrupt:  # raised by other code, because `Stop` handles SIGINT
            state, error = "interrupted", "SIGINT"
        except Diverged as reason:
            state, error = "diverged", self._trace_divergence(reason)
        except (WorkerError, OutputError) as reason:
            state, error = "failed", str(reason)
        except OSError as reason:
            state, error = "failed", failures.describe_write_error(reason, self.home.path, self.checkpoints)
        except Exception as reason:
            state, error = self._describe_exception(reason)
        return self._finish(state, result, error)

    def _describe_exception(self, reason: Exception) -> tuple[str, str]:
        """Return the state and the message for an exception; print the traceback if it is unexpected."""
        if is_out_of_memory(reason):
            return "out_of_memory", failures.describe_out_of_memory(reason, self.components)
        # After an error a GPU may be unusable, so weights are checked only in runs on the CPU.
        on_cpu = self.loop is not None and self.components.device.device.type == "cpu"
        if isinstance(reason, ValueError | RuntimeError) and on_cpu and not has_finite_weights(self.components.model):
            return "diverged", f"a step failed because a weight is not finite: {reason}"
        self.console.error(traceback.format_exc().splitlines())
        return "failed", f"{type(reason).__name__}: {reason}"

    def _train_and_test(self) -> dict[str, Any]:
        save_metadata(self.home, self.job, self.components, resumed=self.saved is not None)
        self._save_fitted()
        self.home.write_status("running", step=self.start_step)
        self.console.open_log(self.home.path / run_files.LOG)
        self.checkpoints.open()
        lost = [name for name in (run_files.METRICS, run_files.EVENTS) if not any(self.home.path.glob(f"{name}*"))]
        if self.start_step and lost:  # checkpoints do not contain logs
            self.console.warning(f"{' and '.join(lost)}: missing, the log up to step {self.start_step} is lost")
        first = self.start_step + 1 if self.saved else 0
        has_log = self.saved is not None or (self.home.path / run_files.METRICS).exists()
        self.tracker = Tracker(self.home.path, first if has_log else None)  # overwrites an earlier log from `first` on
        loop = self._build_loop(self.components, self.batches)
        self.report.print_start(loop.stages.steps)
        if self.saved is None:
            self.report.log_config(self.tracker)
        else:
            restore_loop(loop, self.saved, self.checkpoints, self.console)
        self.loop = loop
        minutes = self.components.trainer.max_minutes
        used = (time.perf_counter() - self.timer.started) / 60  # includes the time before training
        with self.stop.time_limit(None if minutes is None else max(0.0, minutes - used)):
            loop.run()
            return self._test(loop, self.tracker)

    def _save_fitted(self) -> None:
        """Write the fitted state of the data; a resumed run keeps an undamaged file, because its data are the same."""
        if self.components.fitted is not None:
            kept = None if self.is_new else fitted.intact_sha256(self.home.path)
            self.checkpoints.fitted = kept or fitted.save(self.home.path, self.components.fitted)

    def _build_loop(self, components: Components, batches: dict[str, Batches]) -> Loop:
        assert self.tracker is not None
        decay = components.config["regularization"]["ema_decay"]
        return Loop(
            components.task,
            components.model,
            components.stages(),
            batches,
            components.build_optimizer,
            EMA(components.model, decay) if decay else None,
            components.trainer,
            components.device,
            RunLogger(self.tracker, self.console, self.timer, components.device.device),
            self.checkpoints,
            self.stop,
        )

    def _test(self, loop: Loop, tracker: Tracker) -> dict[str, Any]:
        """Evaluate the best weights on the test split; write, print and return the result."""
        evaluation = loop.evaluator.evaluate(self.batches["test"])
        if names := non_finite(evaluation):
            raise Diverged(f"not finite on the test split: {', '.join(names)}")
        shown = loop.evaluator.show(evaluation)
        filters = grids.first_filters(loop.evaluator.model) if loop.config.log_media else None
        result = self.report.result(loop, self.timer, evaluation)
        self.stop.finish()  # only a second signal interrupts the writing of the result, which is quick
        step = loop.state.step
        if not tracker.ends_with(step, "test"):
            loop.logger.show(step, "test", shown)
            if filters is not None:
                tracker.image("filters", filters, step)
            tracker.scalars(step, loop.epoch, "test", evaluation.metrics)
        self.home.write_json(run_files.RESULT, result)
        self.report.print_result(result)
        return result

    def _sync_logs(self) -> None:
        """Flush the logs to disk before the checkpoint of their last step is complete."""
        if self.tracker is not None:
            self.tracker.sync()

    def _abort(self, code: int) -> None:
        """Remove a partly written checkpoint and record the interruption, on a second signal."""
        self.checkpoints.remove_temp()
        self.home.write_status("interrupted", code, self.step, "aborted by a second signal")

    def _discard(self) -> None:
        """Close all files of a run that has not started; remove them if the run is new."""
        self.console.close_log()
        self.checkpoints.close()
        if self.tracker is not None:
            self.tracker.close()
        if self.is_new:
            self.home.discard()

    def _finish(self, state: str, result: dict[str, Any], error: str | None) -> Outcome:
        """Record how the run ended, as far as the disk allows, and print how to continue."""
        self.stop.finish()
        if (late := self._close(state, result)) and state in ("finished", "interrupted"):
            state, error = "failed", late
        code = SIGNAL_EXIT_CODES.get(str(error), 143) if state == "interrupted" else EXIT_CODES[state]
        with contextlib.suppress(OSError):
            self.home.write_status(state, code, self.step, error)
        if error:
            steps = failures.next_steps(state, self.home.path, self.checkpoints, self.components.allow)
            self.console.error([f"{state}: {error}", *steps])
        if state == "interrupted" and error == SAVE_SIGNAL and self.stop.requeue:
            self.console.info(failures.requeue())
        self.console.close_log()
        return Outcome(state, code, self.home.path, result, error)

    def _close(self, state: str, result: dict[str, Any]) -> str | None:
        """Close the checkpoints and the tracker; return an error message if a write failed, or None."""
        error = None
        try:
            self.checkpoints.wait()
            if self.tracker is not None:
                self.tracker.film.write()
            if self.tracker is not None and state != "interrupted":
                final = {f"{k}/test": v for k, v in result.get("test", {}).items() if v is not None}
                self.tracker.hparams(self.report.hparams(), final, succeeded=state == "finished")
        except OSError as reason:
            error = failures.describe_write_error(reason, self.home.path, self.checkpoints)
        self.checkpoints.close()
        if self.tracker is not None:
            with contextlib.suppress(OSError):
                self.tracker.close()
        return error

    def _trace_divergence(self, diverged: Diverged) -> str:
        """Repeat the steps since the newest checkpoint, write ``nan_report.json``, and return the cause."""
        with contextlib.suppress(OSError):
            self.checkpoints.wait()
        try:
            saved, _ = newest_checkpoint(self.home.path)
            start = saved.step if saved else 0
            self.console.info(f"{diverged}; repeating from step {start} to find the cause")
            with prepare_run(self.job, begun=self.home.path if saved else None) as (components, batches):
                loop = self._build_loop(components, batches)
                if saved:
                    loop.load_state_dict(saved.content, {})
                report = nan_trace.trace(loop, self.step)
        except Exception as error:  # a failed search must not hide the divergence
            return f"{diverged}. The search for its cause failed: {type(error).__name__}: {error}"
        except Stopped:
            return f"{diverged}. The search for its cause was interrupted"
        if report is None:
            why = "either evaluation overflows or the run is not deterministic"
            return f"{diverged}. Losses, gradients and weights were finite when the steps were repeated, so {why}"
        with contextlib.suppress(OSError):
            self.home.write_json(run_files.NAN_REPORT, finite_or_none(report))
        return nan_trace.summarize(report)

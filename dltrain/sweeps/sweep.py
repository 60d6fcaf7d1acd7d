"""Run all jobs of a sweep, one after the other in one process."""

import contextlib
import gc
import re
import shlex
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from dltrain import redaction
from dltrain.config.compose import Job
from dltrain.errors import DltrainError, OutOfMemory
from dltrain.loggers.console import Console
from dltrain.storage import run_dir
from dltrain.sweeps import sweep_dir
from dltrain.sweeps.summary import JobResult, load_result, print_summary, write_summary
from dltrain.training.signals import SIGNAL_EXIT_CODES, Stop, Stopped

INTERRUPTED = "interrupted"


def run_sweep(jobs: list[Job], console: Console, typed: list[str]) -> int:
    """Run all jobs; a job that fails does not affect the others.

    Returns:
        0; 1 if a job failed, diverged or ran out of memory; 130 or 143 if a signal ended the sweep.
    """
    values = [dict(word.lstrip("+").split("=", 1) for word in job.overrides if "=" in word) for job in jobs]
    swept = [key for key in values[0] if len({found[key] for found in values}) > 1]
    masked = [{key: redaction.mask_override(f"{key}={found[key]}") for key in swept} for found in values]
    chosen = [{key: word.split("=", 1)[1] for key, word in words.items()} for words in masked]
    names = []  # folder names of the jobs, also shown by TensorBoard: 0_model=lstm,lr=0.01
    for number, choices in enumerate(chosen):
        text = ",".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in choices.items())
        names.append(f"{number}_{run_dir.safe_name(text)}" if text else str(number))
    dirs = [word for name in jobs[0].config_dirs for word in ("--config-dir", name)]
    kept = [redaction.mask_override(word) for word in typed if not word.lstrip("+").startswith("sweep.resume=")]
    command = shlex.join(["dltrain", *dirs, "-m", *kept])
    with contextlib.closing(sweep_dir.open_sweep_dir(jobs, names, command)) as home:
        return Sweep(jobs, chosen, [home.path / name for name in names], home, console, command).run(swept)


@dataclass
class Sweep:
    """Sweep whose jobs have folders inside the sweep's folder."""

    jobs: list[Job]
    chosen: list[dict[str, str]]  # for each job, its values of the keys that differ between jobs
    paths: list[Path]  # the folder of each job
    home: run_dir.RunDir  # the sweep's folder, locked
    console: Console
    command: str  # the command that starts the sweep, without sweep.resume

    def __post_init__(self) -> None:
        found = (load_result(number, self.chosen[number], path) for number, path in enumerate(self.paths))
        self.rows = {row.job: row for row in found if row is not None}
        self.stop = Stop()
        self.code = 130  # exit code if the sweep is interrupted

    def run(self, swept: list[str]) -> int:
        """Run the remaining jobs, print the summary of all jobs, and return the exit code."""
        self.home.write_status("running")
        jobs = f"{len(self.jobs)} job{'s' * (len(self.jobs) > 1)}"
        over = f" over {', '.join(swept)}" if swept else ""
        self.console.info(f"sweep of {jobs}{over} in {self.home.path}")
        with self.stop.listening():
            self.stop.disarm()
            for number in range(len(self.jobs)):
                if self.stop.reason in SIGNAL_EXIT_CODES:
                    self.code = SIGNAL_EXIT_CODES[self.stop.reason]
                    break
                if any(row.state == INTERRUPTED for row in self.rows.values()):
                    break
                self._run_job(number)
                write_summary(self.home.path, self._sorted_rows(), swept)
            print_summary(self.console, self._sorted_rows(), swept, self.home.path)
            return self._finish()

    def _run_job(self, number: int) -> None:
        """Run one job, unless it has a result from an earlier command."""
        text = " ".join(f"{key}={value}" for key, value in self.chosen[number].items())
        title = f"job {number} ({number + 1} of {len(self.jobs)}): {text}".rstrip(": ")
        if number in self.rows:
            self.console.info(f"{title} ({self.rows[number].state}, not run again)")
            return
        self.console.info(title)
        self.rows[number] = self._try_job(number)
        gc.collect()
        if torch := sys.modules.get("torch"):
            torch.cuda.empty_cache()

    def _try_job(self, number: int) -> JobResult:
        """Train a job, or resume it if it has a folder, and return its result even if it fails."""
        started = time.perf_counter()
        job, path, row = self.jobs[number], self.paths[number], JobResult(number, self.chosen[number], "failed")
        self.stop.rearm()
        try:
            from dltrain.runs.launch import resume, train

            if path.is_dir():
                outcome = resume(job, path, self.console, started, self.stop)
            else:
                outcome = train(job, self.console, started, str(path), self.stop)
            row.state, row.error, row.folder = outcome.state, outcome.error, str(outcome.folder)
            row.add_metrics(outcome.result)
            if row.state == INTERRUPTED:
                self.code = outcome.exit_code
        except DltrainError as error:
            self.console.error(list(error.problems))
            row.error = "; ".join(error.problems)
            row.state = "out_of_memory" if isinstance(error, OutOfMemory) else "failed"
        except KeyboardInterrupt:
            row.state, row.error = INTERRUPTED, "SIGINT"
        except Stopped as stopped:
            row.state, row.error = INTERRUPTED, stopped.reason
        except Exception as error:
            self.console.error(traceback.format_exc().splitlines())
            row.error = f"{type(error).__name__}: {error}"
        finally:
            self.stop.disarm()
        row.seconds = time.perf_counter() - started
        return row

    def _sorted_rows(self) -> list[JobResult]:
        """Return the results so far, in the order of the jobs."""
        return [self.rows[number] for number in sorted(self.rows)]

    def _finish(self) -> int:
        """Record how the sweep ended, print a command to resume it or retry failed jobs, and return the exit code."""
        states = {row.state for row in self.rows.values()}
        interrupted = INTERRUPTED in states or len(self.rows) < len(self.jobs)
        state, code = (INTERRUPTED, self.code) if interrupted else ("finished", 0)
        if not interrupted and states != {"finished"}:
            state, code = "failed", 1
        self.home.write_status(state, code)
        if interrupted or "failed" in states:
            what = "Resume with" if interrupted else "Retry failed jobs with"
            self.console.info(f"{what}: {self.command} {shlex.quote(f'sweep.resume={_quote_path(self.home.path)}')}")
        return code


def _quote_path(path: Path) -> str:
    """Return a path quoted for an override."""
    text = str(path)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return text if re.fullmatch(r"[\w./-]+", text, re.ASCII) else f"'{escaped}'"

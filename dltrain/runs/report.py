"""Summaries that a run stores and prints: its setup at the start, its results at the end."""

import math
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dltrain import redaction
from dltrain.config.compose import Job
from dltrain.config.interpolation import to_yaml
from dltrain.data.loader import Batches
from dltrain.loggers.console import Console
from dltrain.loggers.formatting import format_duration, format_number
from dltrain.loggers.tracker import Tracker
from dltrain.runs import provenance
from dltrain.runs.assemble import Components
from dltrain.runs.job import dump_job
from dltrain.storage import run_dir, run_files
from dltrain.tasks.base import Evaluation, Task
from dltrain.training import device as devices
from dltrain.training.loop import Loop
from dltrain.training.meters import Timer

SHOWN_BAD_SAMPLES = 3
WARNING = "warning: "  # prefix of lines in the description of a data set


@dataclass
class Report:
    """Summaries of one run, which are printed and stored.

    Args:
        standalone: Whether to print the metrics on standard output; false for the jobs of a sweep.
    """

    job: Job
    components: Components
    batches: dict[str, Batches]
    console: Console
    folder: Path
    standalone: bool

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the model."""
        return sum(p.numel() for p in self.components.model.parameters())

    @property
    def bad_samples(self) -> list[str]:
        """The examples that could not be used and were left out, each with the reason."""
        return self.batches["train"].bad.found

    def _batch_size(self) -> str:
        """Return the batch size as text, or the mean number of examples per batch if batch sizes vary."""
        train = self.batches["train"]
        mean = round(train.examples / len(train))
        return str(train.batch_size) if max(train.sizes) == min(train.batch_size, train.examples) else f"about {mean:,}"

    def print_start(self, steps: int) -> None:
        """Print model, data, task, device, run folder, description of the data, padding, and notes."""
        components, choices = self.components, self.job.choices
        sizes = ", ".join(f"{self.batches[s].examples:,} {s}" for s in ("train", "val", "test") if s in self.batches)
        self.console.start(
            "",
            {
                "model": f"{choices['model']}, {self.num_parameters:,} parameters",
                "data": f"{choices['data']}: {sizes}",
                "task": f"{choices['task']}, {steps:,} step{'s' * (steps != 1)} of {self._batch_size()}",
                "device": components.device.describe(),
                "folder": str(self.folder),
            },
        )
        for line in components.description:
            if line.startswith(WARNING):
                self.console.warning(line.removeprefix(WARNING))
            else:
                self.console.info(f"  {line}")
        if (share := self.batches["train"].padding) is not None:
            self.console.info(f"  padding: {share:.1%} of the sequence positions in training batches")
        for note in components.notes:
            self.console.info(note)

    def log_config(self, tracker: Tracker) -> None:
        """Write configuration and command to TensorBoard."""
        tracker.text("config", f"```yaml\n{(self.folder / run_files.CONFIG).read_text()}\n```")
        tracker.text("command", f"`{command_line(self.job)}`")

    def result(self, loop: Loop, timer: Timer, evaluation: Evaluation) -> dict[str, Any]:
        """Return the content of ``result.json``."""
        device, state = self.components.device, loop.state
        return finite_or_none(
            {
                "metric": loop.task.metric,
                "best": {"step": state.best_step, loop.task.metric: state.best},
                "test": evaluation.metrics,
                "baselines": evaluation.baselines,
                **feature_source(loop.task, evaluation),
                **class_scores(evaluation),
                **({"definitions": evaluation.definitions} if evaluation.definitions else {}),
                "steps": state.step,
                "epochs": loop.epoch,
                "stopped_early": state.stopped_early,
                "out_of_time": loop.out_of_time,
                "skipped_steps": loop.runner.skipped_steps,
                "examples_at_a_time": -(-max(self.batches["train"].sizes) // loop.runner.num_chunks),
                "seconds": timer.total_seconds(),
                "training_seconds": timer.training_seconds(),
                "samples_per_second": timer.examples / max(timer.training_seconds(), 1e-9),
                "seconds_to_first_step": timer.seconds_to_first_step(),
                "bad_samples": len(self.bad_samples),
                "peak_memory_mb": devices.peak_memory_mb(device.device),
                "parameters": self.num_parameters,
                "device": device.device.type,
                "precision": device.precision,
            }
        )

    def print_result(self, result: dict[str, Any]) -> None:
        """Print the metrics on the test split, the time taken, and the run folder."""
        print_metrics(self.console, result["test"], result["baselines"], self.standalone)
        if "features" in result:
            self.console.info(feature_note(result["features"]))
        self.console.info(
            f"{format_duration(result['seconds'])} in all, {int(result['samples_per_second']):,} samples/s"
        )
        if result["out_of_time"]:
            self.console.info(
                f"stopped by trainer.max_minutes at step {result['steps']:,}; dltrain resume continues the run"
            )
        if self.bad_samples:
            count = len(self.bad_samples)
            subject, verb = ("example", "was") if count == 1 else ("examples", "were")
            self.console.info(f"{count:,} {subject} could not be used and {verb} left out:")
            for reason in self.bad_samples[:SHOWN_BAD_SAMPLES]:
                self.console.info(f"  {reason}")
        self.console.info(f"run          {self.folder}")
        self.console.info(f"tensorboard --logdir {shlex.quote(str(self.folder))}")

    def hparams(self) -> dict[str, Any]:
        """Return the settings that TensorBoard's HParams tab shows."""
        words = map(redaction.mask_override, self.job.overrides)
        typed = dict(word.lstrip("+").split("=", 1) for word in words if "=" in word)
        chosen = {**{k: v for k, v in self.job.choices.items() if v}, "seed": self.components.config["seed"]}
        chosen["optimizer.lr"] = self.components.config["optimizer"].get("lr")
        return {k: v for k, v in {**typed, **redaction.mask(chosen)}.items() if not k.startswith("hydra.")}


def save_metadata(home: run_dir.RunDir, job: Job, components: Components, resumed: bool) -> None:
    """Write the files that describe a run; a resumed run keeps its records of the environment and loaded weights."""
    home.write(run_files.JOB, dump_job(job))  # written first, because a run with this file can be resumed
    home.write(run_files.CONFIG, to_yaml(redaction.mask(components.config)))
    home.write(run_files.COMMAND, command_line(job) + "\n")
    if components.description:
        home.write(run_files.DATA, "\n".join(components.description) + "\n")
    if not resumed and components.loaded is not None:
        home.write_json(run_files.TRANSFER, asdict(components.loaded))
    if not resumed:
        home.write_json(run_files.ENVIRONMENT, describe_environment(job, components))


def command_line(job: Job) -> str:
    """Return the command that repeats a run, with secrets masked."""
    dirs = [word for name in job.config_dirs for word in ("--config-dir", redaction.redact(name))]
    return shlex.join(["dltrain", *dirs, *map(redaction.mask_override, job.overrides)])


def describe_environment(job: Job, components: Components) -> dict[str, Any]:
    """Return the content of ``environment.json``: values read by ``dltrain runs``, and values that affect results."""
    return {
        "choices": job.choices,
        "metric": {"name": components.task.metric, "better": components.task.better},
        **provenance.describe_platform(components.device.describe()),
        "processor": f"{provenance.processor_name()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "code": provenance.code_fingerprint(job.allow),
        "data": components.fingerprint,
    }


def print_metrics(
    console: Console,
    metrics: dict[str, float],
    baselines: dict[str, dict[str, float]],
    results: bool = True,
    split: str = "test",
) -> None:
    """Print the metrics of one split and of the baselines, on standard output if `results` is true."""
    rows = [[split, *map(format_number, metrics.values())]]
    rows += [[name, *[format_number(values.get(m)) for m in metrics]] for name, values in baselines.items()]
    console.table("", ["", *metrics], rows, results=results)
    if metrics.get("skill") is not None and baselines:
        gain, lowest_mae = metrics["skill"], min(values["mae"] for values in baselines.values())
        # Skill compares MASE where it is defined; for one series with one column, MAE gives the same skill.
        name = "mae" if math.isclose(gain, 1 - metrics["mae"] / lowest_mae, rel_tol=1e-3, abs_tol=1e-3) else "mase"
        best = min(baselines, key=lambda baseline: baselines[baseline].get(name, math.inf))
        side = "below" if gain >= 0 else "above"
        console.info(f"{name.upper()} is {abs(gain):.1%} {side} the best baseline ({best})")


def feature_source(task: Task, evaluation: Evaluation) -> dict[str, str]:
    """Return a dictionary with the name of the features used by sample quality metrics; empty without these metrics."""
    judged = task.quality is not None and not evaluation.metrics.keys().isdisjoint(task.quality.metrics)
    return {"features": task.quality.name} if task.quality is not None and judged else {}


def class_scores(evaluation: Evaluation) -> dict[str, dict[str, dict[str, float]]]:
    """Return a dictionary with the metrics of each class as ``per_class``; empty if there are none."""
    return {"per_class": evaluation.per_class} if evaluation.per_class else {}


def feature_note(features: str) -> str:
    """Return a note that names the features used by sample quality metrics."""
    return f"frechet, precision and recall from {features}; not comparable with FID, which uses an ImageNet network"


def finite_or_none(value: Any) -> Any:
    """Return nested dictionaries with None for NaN and Inf, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite_or_none(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value

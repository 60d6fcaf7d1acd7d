"""What a run says about itself: what it is, at the start, and what came of it, at the end."""

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dltrain import redaction
from dltrain.config.compose import Job
from dltrain.data.loader import Batches
from dltrain.loggers.console import Console, count, duration
from dltrain.loggers.tracker import Tracker
from dltrain.runs import provenance
from dltrain.runs.assemble import Components
from dltrain.tasks.base import Evaluation, Task
from dltrain.training import device as devices
from dltrain.training.loop import Loop
from dltrain.training.meters import Timer

SHOWN_BAD_SAMPLES = 3


@dataclass
class Report:
    """Words and figures of one run.

    Args:
        job: What was asked for.
        components: What it is made of.
        batches: Split -> its batches.
        console: Where to say it.
        folder: The run's folder.
        alone: The run is not part of a sweep, whose table is the command's result.
    """

    job: Job
    components: Components
    batches: dict[str, Batches]
    console: Console
    folder: Path
    standalone: bool

    @property
    def parameters(self) -> int:
        """Numbers that the model consists of."""
        return sum(p.numel() for p in self.components.model.parameters())

    @property
    def bad(self) -> list[str]:
        """The examples that could not be read and were left out."""
        return self.batches["train"].bad.found

    def print_start(self, steps: int) -> None:
        """Say what will run."""
        components, choices = self.components, self.job.choices
        sizes = ", ".join(
            f"{count(self.batches[s].examples)} {s}" for s in ("train", "val", "test") if s in self.batches
        )
        self.console.start(
            "",
            {
                "model": f"{choices['model']}, {count(self.parameters)} parameters",
                "data": f"{choices['data']}: {sizes}",
                "task": f"{choices['task']}, {count(steps)} steps of {components.data.batch_size}",
                "device": components.device.describe(),
                "folder": str(self.folder),
            },
        )
        for note in components.notes:
            self.console.say(note)

    def log_config(self, tracker: Tracker) -> None:
        """Keep configuration and command in TensorBoard."""
        tracker.text("config", f"```yaml\n{(self.folder / 'config.yaml').read_text()}\n```")
        tracker.text("command", f"`{command_line(self.job)}`")

    def result(self, loop: Loop, timer: Timer, evaluation: Evaluation) -> dict[str, Any]:
        """What is kept in ``result.json``."""
        device, state = self.components.device, loop.state
        return finite_or_none(
            {
                "metric": loop.task.metric,
                "best": {"step": state.best_step, loop.task.metric: state.best},
                "test": evaluation.metrics,
                "baselines": evaluation.baselines,
                **feature_source(loop.task, evaluation),
                "steps": state.step,
                "epochs": loop.epoch,
                "stopped_early": state.stopped_early,
                "out_of_time": loop.out_of_time,
                "skipped_steps": loop.runner.skipped,
                "examples_at_a_time": loop.runner.at_a_time,
                "seconds": timer.total_seconds(),
                "training_seconds": timer.training_seconds(),
                "samples_per_second": timer.examples / max(timer.training_seconds(), 1e-9),
                "seconds_to_first_step": timer.seconds_to_first_step(),
                "bad_samples": len(self.bad),
                "peak_memory_mb": devices.peak_memory_mb(device.device),
                "parameters": self.parameters,
                "device": device.device.type,
                "precision": device.precision,
            }
        )

    def show(self, result: dict[str, Any]) -> None:
        """The table at the end."""
        print_metrics(self.console, result["test"], result["baselines"], self.standalone)
        if "features" in result:
            self.console.say(feature_note(result["features"]))
        self.console.say(f"{duration(result['seconds'])} in all, {count(int(result['samples_per_second']))} samples/s")
        if self.bad:
            self.console.say(f"{count(len(self.bad))} examples could not be read and were left out:")
            for mistake in self.bad[:SHOWN_BAD_SAMPLES]:
                self.console.say(f"  {mistake}")
        self.console.say(f"run          {self.folder}")
        self.console.say(f"tensorboard --logdir {shlex.quote(str(self.folder))}")

    def choices(self) -> dict[str, Any]:
        """What tells this run from others in TensorBoard's HParams tab."""
        words = map(redaction.mask_override, self.job.overrides)
        typed = dict(word.lstrip("+").split("=", 1) for word in words if "=" in word)
        chosen = {**{k: v for k, v in self.job.choices.items() if v}, "seed": self.components.config["seed"]}
        chosen["optimizer.lr"] = self.components.config["optimizer"].get("lr")
        return {k: v for k, v in {**typed, **redaction.mask(chosen)}.items() if not k.startswith("hydra.")}


def command_line(job: Job) -> str:
    """The command that repeats a run."""
    dirs = [word for name in job.config_dirs for word in ("--config-dir", redaction.redact(name))]
    return shlex.join(["dltrain", *dirs, *map(redaction.mask_override, job.overrides)])


def describe_environment(job: Job, components: Components) -> dict[str, Any]:
    """What a run is, for those who list it, and what it depends on besides its configuration."""
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
    """Metrics of one split beside naive methods; with ``results`` on standard output."""
    rows = [[split, *map(format_number, metrics.values())]]
    rows += [[name, *[format_number(values.get(m)) for m in metrics]] for name, values in baselines.items()]
    console.table("", ["", *metrics], rows, results=results)
    if metrics.get("skill") is not None and baselines:
        console.say(skill_note(metrics["skill"], baselines))


def feature_source(task: Task, evaluation: Evaluation) -> dict[str, str]:
    """By which features made-up examples were judged, where they were."""
    judged = task.quality is not None and not evaluation.metrics.keys().isdisjoint(task.quality.figures)
    return {"features": task.quality.name} if task.quality is not None and judged else {}


def feature_note(features: str) -> str:
    """With what scores of made-up examples can be compared, in a sentence."""
    return f"frechet, precision and recall by {features}; FID, by a network of ImageNet, cannot be compared with them"


def skill_note(gain: float, baselines: dict[str, dict[str, float]]) -> str:
    """Whether a forecaster beats knowing nothing, in a sentence."""
    best = min(baselines, key=lambda name: baselines[name]["mae"])
    return f"MAE is {abs(gain):.1%} {'below' if gain >= 0 else 'above'} the best naive forecast ({best})"


def format_number(value: float | None) -> str:
    """Four significant digits."""
    return "" if value is None else f"{value:.4g}"


def finite_or_none(value: Any) -> Any:
    """``value`` with null for numbers that JSON cannot say."""
    if isinstance(value, dict):
        return {key: finite_or_none(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value

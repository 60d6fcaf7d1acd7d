"""One run: configuration -> data, task, model, optimizer -> loop -> result. The one reader of configuration."""

import math
import shlex
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from dltrain import compose, draw, folder
from dltrain import device as devices
from dltrain.average import Average
from dltrain.checkpoint import Checkpoints
from dltrain.compose import Job
from dltrain.console import Console, count, duration
from dltrain.data.batches import Batches
from dltrain.errors import ConfigError
from dltrain.loop import Diverged, Loop
from dltrain.optim import Optimizer
from dltrain.parts import Parts, make, make_batches, make_optimizer, rehearse
from dltrain.record import Clock
from dltrain.tasks.base import Evaluation, Turn
from dltrain.tracker import Tracker

EXIT = {"finished": 0, "failed": 1, "diverged": 3, "out_of_memory": 4, "interrupted": 130}


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    state: str
    exit_code: int
    folder: Path
    result: dict[str, Any]
    error: str | None = None


def train(job: Job, console: Console, started: float, path: str | None = None) -> Outcome:
    """Build, train, evaluate and keep one run.

    Args:
        job: What to run.
        console: Where to say so.
        started: When the command began, as `time.perf_counter` has it.
        path: The run's folder within a sweep, whose table is the command's result; None takes what the job says.

    Raises:
        ConfigError: When something that was asked for makes no sense; nothing is left on disk then.
    """
    alone = path is None
    path = path or job.run_dir
    root = compose.default_root()
    folder.check(path, root)
    parts = make(job)
    splits = parts.data.load()
    batches = make_batches(parts, splits)
    try:
        rehearse(parts, batches, job)
        home = folder.create(path, root, f"{job.choices['model']}-{job.choices['data']}")
        try:
            return Run(job, parts, batches, console, home, Clock(started), alone).go()
        finally:
            home.close()
    finally:
        for split in batches.values():
            split.close()


class Run:
    """A run that has its folder: trains, and whatever happens says how it ended."""

    def __init__(
        self,
        job: Job,
        parts: Parts,
        batches: dict[str, Batches],
        console: Console,
        home: folder.Folder,
        clock: Clock,
        alone: bool,
    ) -> None:
        self.job, self.parts, self.batches, self.console, self.home = job, parts, batches, console, home
        self.clock, self.alone = clock, alone
        self.parameters = sum(p.numel() for p in parts.model.parameters())

    def go(self) -> Outcome:
        """Train, evaluate, report."""
        self.write_down()
        with Tracker(self.home.path) as tracker:
            self.tracker = tracker
            self.loop = self.make_loop()
            return self.guarded()

    def guarded(self) -> Outcome:
        """Run the loop; every end leaves a status and an exit code."""
        state, error = "failed", ""
        try:
            self.announce()
            result = self.train_and_test()
            return self.end("finished", result)
        except ConfigError as reason:
            if not self.loop.state.step:
                self.console.detach()
                self.home.discard()
                raise
            error = str(reason)
        except Diverged as reason:
            state, error = "diverged", str(reason)
        except torch.OutOfMemoryError as reason:
            state, error = "out_of_memory", str(reason).splitlines()[0]
        except KeyboardInterrupt:
            state, error = "interrupted", "interrupted from the keyboard"
        except Exception as reason:
            error = f"{type(reason).__name__}: {reason}"
            self.console.error(traceback.format_exc().splitlines())
        return self.end(state, {}, error)

    def end(self, state: str, result: dict[str, Any], error: str | None = None) -> Outcome:
        """Write down how the run ended."""
        code = EXIT[state]
        final = {f"{k}/test": v for k, v in result.get("test", {}).items() if v is not None}
        self.tracker.hparams(self.choices(), final, succeeded=state == "finished")
        self.home.status(state, code, self.loop.state.step, error)
        if error:
            self.console.error([f"{state}: {error}", f"The run lies in {self.home.path}"])
        self.console.detach()
        return Outcome(state, code, self.home.path, result, error)

    def write_down(self) -> None:
        """What the run is, before it starts."""
        home, config = self.home, OmegaConf.to_yaml(OmegaConf.create(self.parts.config))
        home.status("running")
        home.write("config.yaml", config)
        home.write("command.txt", self.command() + "\n")
        home.write_json("environment.json", self.environment())
        self.console.attach(home.path / "train.log")

    def environment(self) -> dict[str, Any]:
        """What a result depends on besides the configuration, and what was chosen."""
        return {"choices": self.job.choices, **folder.environment(self.parts.device.describe())}

    def command(self) -> str:
        """The command that repeats this run."""
        dirs = [word for name in self.job.config_dirs for word in ("--config-dir", name)]
        overrides = [text for text in self.job.overrides if not text.startswith("hydra.run.dir=")]
        return shlex.join(["dltrain", *dirs, *overrides])

    def make_loop(self) -> Loop:
        """The loop with everything it turns."""
        parts, decay = self.parts, self.parts.config["regularization"]["average"]
        average = Average(parts.model, decay) if decay else None
        return Loop(
            parts.task,
            parts.model,
            self.batches["train"],
            self.batches.get("val"),
            self.make_optimizer,
            average,
            parts.plan,
            parts.device,
            self.tracker,
            self.console,
            Checkpoints(self.home.path),
            self.clock,
        )

    def make_optimizer(self, turn: Turn, steps: int) -> Optimizer:
        """The optimizer of one turn, as YAML describes it."""
        return make_optimizer(self.job, self.parts, turn, steps)

    def announce(self) -> None:
        """Say what will run, and keep it in TensorBoard."""
        parts, loop = self.parts, self.loop
        sizes = ", ".join(
            f"{count(self.batches[s].examples)} {s}" for s in ("train", "val", "test") if s in self.batches
        )
        self.console.start(
            "",
            {
                "model": f"{self.job.choices['model']}, {count(self.parameters)} parameters",
                "data": f"{self.job.choices['data']}: {sizes}",
                "task": f"{self.job.choices['task']}, {count(loop.steps)} steps of {parts.data.batch_size}",
                "device": parts.device.describe(),
                "folder": str(self.home.path),
            },
        )
        for note in parts.notes:
            self.console.say(note)
        self.tracker.text("config", f"```yaml\n{(self.home.path / 'config.yaml').read_text()}\n```")
        self.tracker.text("command", f"`{self.command()}`")

    def train_and_test(self) -> dict[str, Any]:
        """The loop, then the best weights on the test split; writes and shows the result."""
        loop = self.loop
        loop.run()
        evaluation = loop.measure(self.batches["test"])
        self.tracker.scalars(loop.state.step, loop.epoch, "test", evaluation.metrics)
        loop.show("test", evaluation)
        if (filters := draw.first_filters(loop.judged)) is not None:
            self.tracker.image("filters", filters, loop.state.step)
        result = self.result(evaluation)
        self.home.write_json("result.json", result)
        self.report(result)
        return result

    def result(self, evaluation: Evaluation) -> dict[str, Any]:
        """What is kept in ``result.json``."""
        loop, clock = self.loop, self.clock
        seconds = time.perf_counter() - clock.started
        return finite(
            {
                "metric": loop.task.metric,
                "best": {"step": loop.state.best_step, loop.task.metric: loop.state.best},
                "test": evaluation.metrics,
                "baselines": evaluation.baselines,
                "steps": loop.state.step,
                "epochs": loop.epoch,
                "stopped_early": loop.state.stopped_early,
                "seconds": seconds,
                "training_seconds": clock.training(),
                "samples_per_second": clock.examples / max(clock.training(), 1e-9),
                "seconds_to_first_step": (clock.first_step or clock.started) - clock.started,
                "peak_memory_mb": devices.peak_memory_mb(self.parts.device.device),
                "parameters": self.parameters,
                "device": self.parts.device.device.type,
                "precision": self.parts.device.precision,
            }
        )

    def report(self, result: dict[str, Any]) -> None:
        """The table at the end."""
        metrics = list(result["test"])
        rows = [["test", *[number(result["test"][m]) for m in metrics]]]
        rows += [[name, *[number(values.get(m)) for m in metrics]] for name, values in result["baselines"].items()]
        self.console.table("", ["", *metrics], rows, results=self.alone)
        if "skill" in result["test"] and result["baselines"]:
            self.console.say(skill(result))
        self.console.say(f"{duration(result['seconds'])} in all, {count(int(result['samples_per_second']))} samples/s")
        self.console.say(f"run          {self.home.path}")
        self.console.say(f"tensorboard --logdir {shlex.quote(str(self.home.path))}")

    def choices(self) -> dict[str, Any]:
        """What tells this run from others in TensorBoard's HParams tab."""
        typed = dict(text.lstrip("+").split("=", 1) for text in self.job.overrides if "=" in text)
        chosen = {**{k: v for k, v in self.job.choices.items() if v}, "seed": self.parts.config["seed"]}
        chosen["optimizer.lr"] = self.parts.config["optimizer"].get("lr")
        return {k: v for k, v in {**typed, **chosen}.items() if not k.startswith("hydra.")}


def skill(result: dict[str, Any]) -> str:
    """Whether a forecaster beats knowing nothing, in a sentence."""
    best = min(result["baselines"], key=lambda name: result["baselines"][name]["mae"])
    gain = result["test"]["skill"]
    word = "below" if gain >= 0 else "above"
    return f"MAE is {abs(gain):.1%} {word} the best naive forecast ({best})"


def number(value: float | None) -> str:
    """Four significant digits."""
    return "" if value is None else f"{value:.4g}"


def finite(value: Any) -> Any:
    """``value`` with null for numbers that JSON cannot say."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""What a run says on its way: curves, pictures and text for TensorBoard, and the live line."""

import math
import time
from collections.abc import Iterable

import torch

from dltrain.loggers.console import Console
from dltrain.loggers.tracker import Tracker
from dltrain.tasks.base import Evaluation, Shown
from dltrain.training.device import peak_memory_mb
from dltrain.training.meters import Timer
from dltrain.training.stages import Stages
from dltrain.training.state import TrainState

LIVE_SECONDS = 0.2  # how often the live line may move


class RunLogger:
    """Writes down what the loop has read back; touches nothing on the device itself.

    Args:
        tracker: Where numbers and pictures go.
        console: Where the live line and notes go.
        timer: Measures.
        device: Whose memory is watched.
    """

    def __init__(self, tracker: Tracker, console: Console, timer: Timer, device: torch.device) -> None:
        self.tracker, self.console, self.timer, self.device = tracker, console, timer, device
        self.loss: float | None = None  # the last, for the live line
        self.metric: float | None = None  # likewise
        self.moved = 0.0  # when the live line moved
        self.first = 0  # steps that were done when this session began
        self.logged = (0, 0.0)  # examples and training seconds at the last log

    def begin(self, state: TrainState) -> None:
        """A session starts at this state; what earlier ones took the timer knows."""
        self.first = state.step
        self.logged = (self.timer.examples, self.timer.earlier.get("training_seconds", 0.0))

    def training(self, step: int, epoch: float, values: dict[str, float]) -> None:
        """Numbers of training since the last time, read back just now: what is measured here has been done."""
        self.timer.first_step = self.timer.first_step or time.perf_counter()
        measured = {"throughput/samples_per_s": self.rate(), "memory/peak_mb": peak_memory_mb(self.device)}
        self.tracker.scalars(step, epoch, "train", values | measured)

    def rate(self) -> float:
        """Examples per second since the last log."""
        now = (self.timer.examples, self.timer.training_seconds())
        examples, seconds = now[0] - self.logged[0], now[1] - self.logged[1]
        self.logged = now
        return examples / max(seconds, 1e-9)

    def evaluation(self, step: int, epoch: float, evaluation: Evaluation, metric: str, shown: Iterable[Shown]) -> None:
        """An evaluation on the validation split, of which ``metric`` is watched.

        Numbers come last: where an earlier session has left them, it has left the pictures, too.
        """
        self.metric = evaluation.metrics[metric]
        if not self.tracker.ends_with(step, "val"):
            self.show(step, "val", shown)
            self.tracker.scalars(step, epoch, "val", evaluation.metrics)
        if not math.isfinite(self.metric):
            self.console.info(f"{metric}/val is {self.metric} at step {step}: never the best")
        for note in evaluation.notes:
            self.console.info(f"step {step}: {note}")

    def show(self, step: int, split: str, shown: Iterable[Shown]) -> None:
        """Pictures and text."""
        for item in shown:
            if item.image is not None:
                self.tracker.image(f"{item.tag}/{split}", item.image, step)
            if item.text is not None:
                self.tracker.text(f"{item.tag}/{split}", item.text, step)

    def may_move(self) -> bool:
        """Whether it is some time since the live line moved."""
        return time.perf_counter() - self.moved > LIVE_SECONDS

    def progress(self, state: TrainState, stages: Stages, metric: str) -> None:
        """Move the live line."""
        self.moved = now = time.perf_counter()
        spent = now - (self.timer.first_step or now)
        self.console.progress(
            epoch=min(int(stages.epoch(state)) + 1, stages.epochs),
            epochs=stages.epochs,
            step=state.step,
            steps=stages.steps,
            loss=self.loss,
            metric_name=f"{metric}/val",
            metric_value=self.metric,
            samples_per_s=self.timer.examples / max(self.timer.training_seconds(), 1e-9),
            seconds_left=spent / max(state.step - self.first - 1, 1) * (stages.steps - state.step),
        )

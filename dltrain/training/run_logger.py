"""Logging of a run: metrics, images and text for TensorBoard, and the progress line."""

import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dltrain.loggers.console import Console
from dltrain.loggers.formatting import format_duration, format_rate
from dltrain.loggers.tracker import Tracker
from dltrain.tasks.base import Evaluation, Media
from dltrain.training.device import peak_memory_mb
from dltrain.training.meters import Readings, Timer
from dltrain.training.state import Stages, TrainState

# A hint is logged if training waits for data at least this many seconds and at least this fraction of its time.
LONG_WAIT_S, LARGE_SHARE = 5.0, 0.2
PROGRESS_SECONDS = 0.2  # minimum time between two updates of the progress line
MEMORY_SECONDS = 1.0  # minimum time between readings of the peak memory; a reading doubles the time of a log step


@dataclass
class RunLogger:
    """Logger of values that the loop has already read from the device, with throughput and memory."""

    tracker: Tracker
    console: Console
    timer: Timer
    device: torch.device
    loss: float | None = None  # the latest training loss, for the progress line
    metric: float | None = None  # the latest value of the monitored metric
    last_progress: float = 0.0
    first_step: int = 0  # step at which this session started
    last_log: tuple[int, float, float] = (0, 0.0, 0.0)  # examples, training seconds and idle seconds at the last log
    memory: tuple[float, float] = (-math.inf, math.nan)  # time and value of the last reading of the peak memory
    advised: bool = False  # whether the advice on waiting for data was given

    def begin(self, state: TrainState) -> None:
        """Start a session at `state`."""
        self.first_step = state.step
        self.last_log = (self.timer.examples, self.timer.earlier.get("training_seconds", 0.0), 0.0)

    def log_training(self, step: int, epoch: float, read: Readings) -> None:
        """Log training values with throughput and memory; call it when the device has finished the steps."""
        self.timer.first_step = self.timer.first_step or time.perf_counter()
        now = (self.timer.examples, self.timer.training_seconds(), self.timer.idle_seconds)
        examples, seconds, idle = (value - before for value, before in zip(now, self.last_log, strict=True))
        self.last_log = now
        seconds = max(seconds, 1e-9)
        measured = {
            "throughput/samples_per_s": examples / seconds,
            "throughput/data_wait": min(1.0, max(0.0, idle / seconds)),
            "memory/peak_mb": self._peak_memory(),
        }
        self.tracker.scalars(step, epoch, "train", read.logged | measured)
        if read.losses:
            self.loss = sum(read.losses.values())

    def _peak_memory(self) -> float:
        now = time.perf_counter()
        if now - self.memory[0] >= MEMORY_SECONDS:
            self.memory = now, peak_memory_mb(self.device)
        return self.memory[1]

    def log_evaluation(
        self,
        step: int,
        epoch: float,
        evaluation: Evaluation,
        metric: str,
        shown: Iterable[Media],
        frame: Tensor | None,
    ) -> None:
        """Log an evaluation on the validation split: metrics and notes, images and text, and a frame of film.gif."""
        self.metric = evaluation.metrics[metric]
        # Scalars are written last, so an earlier session that wrote them has also written the images.
        if not self.tracker.ends_with(step, "val"):
            self.show(step, "val", shown)
            self.tracker.scalars(step, epoch, "val", evaluation.metrics)
        if not math.isfinite(self.metric):
            self.console.info(f"{metric}/val is {self.metric} at step {step}, so it cannot be the best value")
        for note in evaluation.notes:
            self.console.info(f"step {step}: {note}")
        if frame is not None:
            self.tracker.film.add(frame, step)

    def show(self, step: int, split: str, shown: Iterable[Media]) -> None:
        """Log images and text of a split."""
        for item in shown:
            if item.image is not None:
                self.tracker.image(f"{item.tag}/{split}", item.image, step)
            if item.text is not None:
                self.tracker.text(f"{item.tag}/{split}", item.text, step)

    def advise(self, workers: int | None) -> None:
        """Log a hint, once, if training waited long for data that worker processes could read; called after an epoch.

        Args:
            workers: Number of worker processes that decode examples; None if no examples are decoded.
        """
        idle = self.timer.idle_seconds
        share = idle / max(self.timer.training_seconds() - self.timer.earlier.get("training_seconds", 0.0), 1e-9)
        if self.advised or workers is None or idle < LONG_WAIT_S or share < LARGE_SHARE:
            return
        self.advised = True
        hint = "Store images of about data.image_size pixels per side"
        if workers < (os.cpu_count() or 1):
            hint = f"Raise data.workers (now {workers}; this machine has {os.cpu_count()} CPU cores)"
        self.console.info(f"{share:.0%} of the training time was spent waiting for data. {hint}.")

    def progress_due(self) -> bool:
        """Return whether the progress line may be updated again."""
        return time.perf_counter() - self.last_progress > PROGRESS_SECONDS

    def progress(self, state: TrainState, stages: Stages, metric: str) -> None:
        """Update the progress line."""
        self.last_progress = now = time.perf_counter()
        spent = now - (self.timer.first_step or now)
        left = spent / max(state.step - self.first_step - 1, 1) * (stages.steps - state.step)
        rate = self.timer.examples / max(self.timer.training_seconds(), 1e-9)
        figures = [] if self.loss is None else [f"loss {self.loss:.4g}"]
        figures += [] if self.metric is None else [f"{metric}/val {self.metric:.4g}"]
        figures += [format_rate(rate), f"left {format_duration(left)}"]
        done = min(stages.epoch(state), stages.epochs)
        self.console.progress(done, stages.epochs, state.step, stages.steps, *figures)

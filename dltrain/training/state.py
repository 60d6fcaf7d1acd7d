"""The trainer's configuration and the position of a run."""

import math
from dataclasses import dataclass
from typing import Literal

Interval = tuple[float, str]  # a number and its unit: step, epoch or minute


@dataclass(frozen=True)
class TrainerConfig:
    """How long a run trains, and how often it logs, evaluates and saves."""

    epochs: int | None  # passes over the training data; None goes by `max_steps` alone
    max_steps: int | None  # most optimizer steps of a stage; None for no limit
    accumulate: int  # batches whose gradients are averaged into one step
    log_every: Interval  # between two reads of the loss from the device
    eval_every: Interval
    checkpoint_every: Interval
    early_stopping_patience: int = 0  # evaluations without improvement after which training stops; 0 for never
    max_minutes: float | None = None
    on_non_finite: str = "stop"  # what NaN or infinity in a loss or gradient leads to: stop, skip the step, or ignore
    split_on_oom: bool = False  # compute batches in smaller chunks when memory runs out, instead of failing


@dataclass
class TrainState:
    """The position of a run: all it needs to resume besides weights, optimizers and seed."""

    step: int = 0  # optimizer steps so far
    stage: int = 0  # index of the current stage
    stage_start: int = 0  # steps before the current stage
    epoch: int = 0  # epochs done, those of earlier stages included
    batch: int = 0  # batches done in this epoch
    best: float | None = None  # value of the watched metric in this stage
    best_step: int = 0
    evaluations: int = 0  # on the validation split in this stage
    evaluating: bool = False  # the evaluation of this step has begun and is not done
    evaluated: int = 0  # the step of the last evaluation
    without_improvement: int = 0  # evaluations since the best
    stopped_early: bool = False

    def next_stage(self) -> "TrainState":
        """Return the state at the start of the next stage.

        Each stage has a metric of its own, so the best value starts over. Epochs go on counting because the epoch
        determines the order of the examples.
        """
        return TrainState(step=self.step, stage=self.stage + 1, stage_start=self.step, epoch=self.epoch + 1)

    def record_evaluation(self, value: float, better: Literal["min", "max"], patience: int) -> bool:
        """Update the best value and early stopping; return whether `value` is the best so far."""
        best = improves(value, self.best, better)
        self.evaluations, self.evaluated, self.evaluating = self.evaluations + 1, self.step, False
        self.without_improvement = 0 if best else self.without_improvement + 1
        if best:
            self.best, self.best_step = value, self.step
        self.stopped_early = 0 < patience <= self.without_improvement
        return best


def improves(value: float, best: float | None, better: str) -> bool:
    """Return whether a metric is better than the best so far; NaN and infinite values never are."""
    if not math.isfinite(value):
        return False
    return best is None or (value > best if better == "max" else value < best)

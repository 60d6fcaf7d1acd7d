"""Trainer configuration, the stages of a run with their lengths and intervals, and the position of the run."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dltrain.data.loader import Batches
from dltrain.tasks.base import Stage

Interval = tuple[float, str]  # a number and its unit: step, epoch or minute


@dataclass(frozen=True)
class TrainerConfig:
    """Length of training, intervals of logging, evaluation and checkpoints, and policies for errors."""

    epochs: int | None  # passes over the training data; None for no limit
    max_steps: int | None  # maximum optimizer steps of a stage; None for no limit
    accumulate: int  # batches whose gradients are averaged into one step
    log_every: Interval  # interval at which the loss is read from the device and logged
    eval_every: Interval
    checkpoint_every: Interval
    early_stopping_patience: int = 0  # evaluations without improvement after which training stops; 0 for never
    max_minutes: float | None = None
    on_non_finite: str = "stop"  # for NaN or infinity in a loss or gradient: stop, skip the step, or ignore
    log_media: bool = True  # whether to log images, texts and animations
    split_on_oom: bool = False  # compute batches in smaller chunks when memory runs out, instead of failing


@dataclass
class TrainState:
    """Position of a run.

    Together with the weights and the states of optimizers, task and random generators, it determines how the run
    continues.
    """

    step: int = 0  # optimizer steps so far
    stage: int = 0  # index of the current stage
    stage_start: int = 0  # steps before the current stage
    epoch: int = 0  # epochs done, including those of earlier stages
    batch: int = 0  # batches done in this epoch
    best: float | None = None  # best value of the monitored metric in this stage
    best_step: int = 0
    evaluations: int = 0  # on the validation split in this stage
    evaluating: bool = False  # the evaluation of this step has begun and is not done
    evaluated: int = 0  # the step of the last evaluation
    without_improvement: int = 0  # evaluations since the best one
    stopped_early: bool = False

    def next_stage(self) -> "TrainState":
        """Return the state at the start of the next stage.

        The best value is reset because each stage has its own metric. The epoch is counted over all
        stages because it determines the order of the examples.
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
    """Return whether a metric is better than the best so far; NaN and infinity are never better."""
    if not math.isfinite(value):
        return False
    return best is None or (value > best if better == "max" else value < best)


class Trigger:
    """Trigger that fires at regular intervals. Intervals in steps or epochs depend only on the step, not on time."""

    def __init__(self, interval: Interval, epoch_steps: int) -> None:
        count, unit = interval
        self.steps = 0 if unit == "minute" else int(count) * (epoch_steps if unit == "epoch" else 1)
        self.seconds = count * 60
        self.last = time.perf_counter()

    def fires(self, step: int) -> bool:
        """Return whether the interval ends with this step, counted from 1."""
        if self.steps:
            return step % self.steps == 0
        if time.perf_counter() - self.last < self.seconds:
            return False
        self.last = time.perf_counter()
        return True


class StagePlan:
    """One stage with its data, its length in steps, and the triggers of logging, evaluation and checkpoints."""

    def __init__(self, stage: Stage, batches: Batches, config: TrainerConfig) -> None:
        self.stage, self.batches = stage, batches
        self.epoch_steps = -(-len(batches) // config.accumulate)
        epochs = config.epochs if stage.epochs is None else stage.epochs
        limits = (math.inf if epochs is None else epochs * self.epoch_steps, config.max_steps or math.inf)
        self.steps = int(min(limits))
        self.epochs = -(-self.steps // self.epoch_steps)  # the last epoch may be incomplete
        self.log_trigger = Trigger(config.log_every, self.epoch_steps)
        self.eval_trigger = Trigger(config.eval_every, self.epoch_steps)
        self.checkpoint_trigger = Trigger(config.checkpoint_every, self.epoch_steps)


class Stages:
    """All stages of a run, in order; `batches` maps each split to its batches."""

    def __init__(self, stages: Sequence[Stage], batches: Mapping[str, Batches], config: TrainerConfig) -> None:
        self.plans = [StagePlan(stage, batches.get(stage.data, batches["train"]), config) for stage in stages]
        self.steps = sum(plan.steps for plan in self.plans)
        self.epochs = sum(plan.epochs for plan in self.plans)

    def epoch(self, state: TrainState) -> float:
        """Return the number of epochs so far, including earlier stages and the fraction of the current epoch."""
        return state.epoch + state.batch / len(self.plans[state.stage].batches)

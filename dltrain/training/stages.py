"""The stages of a run with their data, lengths and intervals."""

import math
from collections.abc import Mapping, Sequence

from dltrain.data.loader import Batches
from dltrain.tasks.base import Stage
from dltrain.training.meters import Trigger
from dltrain.training.state import TrainerConfig, TrainState


class StagePlan:
    """One stage with its data, its length in steps, and the triggers of logging, evaluation and checkpoints."""

    def __init__(self, stage: Stage, batches: Batches, config: TrainerConfig) -> None:
        self.stage, self.batches = stage, batches
        self.epoch_steps = -(-len(batches) // config.accumulate)
        epochs = config.epochs if stage.epochs is None else stage.epochs
        limits = (math.inf if epochs is None else epochs * self.epoch_steps, config.max_steps or math.inf)
        self.steps = int(min(limits))
        self.epochs = -(-self.steps // self.epoch_steps)  # the last one may be cut short
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
        """Return the epochs done so far, with a fraction, those of earlier stages included."""
        return state.epoch + state.batch / len(self.plans[state.stage].batches)

"""The stages of a run: which data each learns from, how long it is, and when things fall due in it."""

import math
from collections.abc import Mapping, Sequence

from dltrain.data.loader import Batches
from dltrain.tasks.base import Stage
from dltrain.training.meters import Trigger
from dltrain.training.state import TrainerConfig, TrainState


class StageProgress:
    """One stage and its place in the run.

    Args:
        stage: What is learned in it.
        batches: What it learns from.
        config: When things happen.
    """

    def __init__(self, stage: Stage, batches: Batches, config: TrainerConfig) -> None:
        self.stage, self.batches = stage, batches
        self.epoch_steps = -(-len(batches) // config.accumulate)
        epochs = config.epochs if stage.epochs is None else stage.epochs
        limits = (math.inf if epochs is None else epochs * self.epoch_steps, config.max_steps or math.inf)
        self.steps = int(min(limits))
        self.log_due, self.evaluation_due, self.save_due = (
            Trigger(span, self.epoch_steps) for span in (config.log_every, config.eval_every, config.checkpoint_every)
        )

    @property
    def epochs(self) -> int:
        """Passes over its data, the last one perhaps in part."""
        return -(-self.steps // self.epoch_steps)


class Stages:
    """All stages of a run, in order; one of them is the present one.

    Args:
        stages: As the task has them.
        batches: Split -> its batches.
        config: When things happen.
    """

    def __init__(self, stages: Sequence[Stage], batches: Mapping[str, Batches], config: TrainerConfig) -> None:
        self.spans = [StageProgress(stage, batches.get(stage.data, batches["train"]), config) for stage in stages]
        self.steps = sum(span.steps for span in self.spans)
        self.epochs = sum(span.epochs for span in self.spans)
        self.number = 0

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def present(self) -> StageProgress:
        """The stage that is being trained."""
        return self.spans[self.number]

    def enter(self, number: int) -> StageProgress:
        """Make a stage the present one."""
        self.number = number
        return self.present

    def epoch(self, state: TrainState) -> float:
        """Epochs done, with a fraction, those of earlier stages included."""
        return state.epoch + state.batch / len(self.present.batches)


def following(state: TrainState, number: int) -> TrainState:
    """Where a run stands when a stage has ended and the next begins.

    Stages have metrics of their own, so that the best of one says nothing about the next. Epochs go on counting: the
    order of examples, which an epoch names, is another one in each stage.
    """
    return TrainState(step=state.step, stage=number, stage_start=state.step, epoch=state.epoch + 1)

"""The trainer's configuration and the position of a run."""

from dataclasses import dataclass

Interval = tuple[float, str]


@dataclass(frozen=True)
class TrainerConfig:
    """When things happen. A span is a number and its unit: step, epoch or minute.

    Args:
        epochs: Passes over the training data; None goes by ``max_steps`` alone.
        max_steps: Optimizer steps at most; None for no limit.
        accumulate: Batches whose gradients are averaged into one step.
        log_every: When the loss is read back from the device and logged.
        eval_every: When the validation split is evaluated.
        checkpoint_every: When ``last.pt`` is written.
        early_stopping: Evaluations without improvement after which training stops; 0 for never.
        max_minutes: Time after which training stops; None for no limit.
        on_non_finite: What follows from a loss or gradient that is no finite number: stop, skip the step, or ignore.
        shrink: When memory runs out, go on with smaller parts of a batch instead of ending.
    """

    epochs: int | None
    max_steps: int | None
    accumulate: int
    log_every: Interval
    eval_every: Interval
    checkpoint_every: Interval
    early_stopping: int = 0
    max_minutes: float | None = None
    on_non_finite: str = "stop"
    shrink: bool = False


@dataclass
class TrainState:
    """Where a run stands: all that is needed to go on, beside weights, optimizers and seed.

    Args:
        step: Optimizer steps so far.
        stage: The number of the present stage.
        stage_start: Steps before it.
        epoch: Epochs done in this stage.
        batch: Batches done in this epoch.
        best: The watched metric at its best, in this stage.
        best_step: When that was.
        evaluations: How often the validation split was evaluated, in this stage.
        evaluating: The evaluation of this step is due and not done.
        evaluated: The step of the last evaluation.
        without_improvement: Evaluations since the best.
        stopped_early: Training has ended for lack of improvement.
    """

    step: int = 0
    stage: int = 0
    stage_start: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    best_step: int = 0
    evaluations: int = 0
    evaluating: bool = False
    evaluated: int = 0
    without_improvement: int = 0
    stopped_early: bool = False

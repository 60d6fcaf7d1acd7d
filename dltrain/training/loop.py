"""The training loop: stages, epochs and steps.

There are no callbacks. A single step is in `dltrain.training.step` and `dltrain.optim.optimizer`.
"""

import gc
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from dltrain.data.loader import Batch, Batches
from dltrain.optim.ema import EMA
from dltrain.optim.optimizer import Optimizer
from dltrain.storage.checkpoints import Checkpoints
from dltrain.storage.run_files import BEST
from dltrain.tasks.base import Evaluation, Goal, Stage, Task, Turn
from dltrain.training.checkpointing import Checkpointer, check_losses
from dltrain.training.device import Device
from dltrain.training.evaluation import Evaluator
from dltrain.training.learning import set_learning
from dltrain.training.run_logger import RunLogger
from dltrain.training.signals import Stop, Stopped
from dltrain.training.state import StagePlan, Stages, TrainerConfig, TrainState
from dltrain.training.step import StepInfo, StepRunner

FREQUENT_COLLECTIONS = (700, 10, 10)  # thresholds of the garbage collector, the defaults of Python 3.11


class Loop:
    """Training loop of one model and one task.

    Args:
        stages: Stages of the task. A turn of a stage is one optimizer's update; its parameters exclude frozen ones.
        batches: Batches by split: ``train``, optionally ``unlabeled`` and ``val``. Without ``val``, the last
            weights count as the best.
        make_optimizer: Function that maps a turn and the number of steps of its stage to an optimizer.
        ema: Averaged weights, which are evaluated instead of the model's own; None for no averaging.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        stages: Sequence[Stage],
        batches: Mapping[str, Batches],
        make_optimizer: Callable[[Turn, int], Optimizer],
        ema: EMA | None,
        config: TrainerConfig,
        device: Device,
        logger: RunLogger,
        checkpoints: Checkpoints,
        stop: Stop,
    ) -> None:
        self.task, self.model, self.ema, self.val = task, model, ema, batches.get("val")
        self.config, self.device, self.logger, self.stop = config, device, logger, stop
        self.timer, self.console, self.state = logger.timer, logger.console, TrainState()
        train = batches["train"]
        task.begin(model)
        self.stages = Stages(stages, batches, config)
        self.runner = StepRunner(task, make_optimizer, config, device, self.console)
        self.evaluator = Evaluator(task, model, ema, device, stop, self.console, config.log_media)
        self.checkpointer = Checkpointer(task, model, ema, self.runner, train.bad, checkpoints, self.timer, stop)
        self.mid_step = False  # a step has begun but is not complete
        self.out_of_time = False

    @property
    def epoch(self) -> float:
        """Number of epochs so far, including the fraction of the current one."""
        return self.stages.epoch(self.state)

    @property
    def current(self) -> StagePlan:
        """The stage that is being trained."""
        return self.stages.plans[self.state.stage]

    @property
    def goal(self) -> Goal:
        """The goal of the current stage: the monitored metric, and how to evaluate the model and show the results."""
        return self.current.stage.goal or self.task.goal

    def run(self) -> None:
        """Train all stages, then restore the best weights.

        Raises:
            Diverged: A loss or a weight is not finite and ``on_non_finite`` is ``stop``.
            Stopped: A signal arrived; the run can be resumed from its last checkpoint.
        """
        # Imported objects live until the end, so the garbage collector does not need to scan them during training. With
        # these thresholds, it soon finds cycles that hold tensors.
        gc.collect()
        frozen = gc.get_freeze_count() > 0  # the calling program froze objects; gc.unfreeze would release them
        if not frozen:
            gc.freeze()
        thresholds = gc.get_threshold()
        gc.set_threshold(*FREQUENT_COLLECTIONS)
        try:
            self.timer.begin()
            with self.stop.cooperative():
                self._run_stages()
            self.timer.end()
        finally:
            if not frozen:
                gc.unfreeze()
            gc.set_threshold(*thresholds)
        self.checkpointer.checkpoints.wait()
        state = self.state
        if self.val is None:
            state.best_step = state.step
        elif state.best is not None and state.best_step != state.step:
            self.checkpointer.load_weights(self.checkpointer.checkpoints.load(BEST))

    def _run_stages(self) -> None:
        self.logger.begin(self.state)
        try:
            if not self.runner.optimizers:  # a resumed run has them already
                self.begin_stage()
            self._run_stage()
            while self.state.stage + 1 < len(self.stages.plans):
                with self.timer.pause():
                    self.checkpointer.checkpoints.wait()  # a later checkpoint must not replace the last one of a stage
                self.begin_next_stage()
                self._run_stage()
        except Stopped as stopped:
            if not self.mid_step:  # between two steps the state is consistent
                state = self.state
                unsaved = state.best is not None and state.best_step == state.step != self.checkpointer.last_best_step
                self.save(best=unsaved)
            self.out_of_time = stopped.reason == "max_minutes"
            if not self.out_of_time:
                raise

    def begin_stage(self) -> None:
        """Set which parameters of the model are trained in the current stage, and make its optimizers."""
        stage, steps = self.current.stage, self.current.steps
        set_learning(self.model, stage)
        self.runner.begin_stage(stage, steps)
        if len(self.stages.plans) > 1:
            self.console.info(f"stage {stage.name}: {steps:,} step{'s' * (steps != 1)}, from step {self.state.step:,}")

    def begin_next_stage(self) -> None:
        """Enter the next stage."""
        self.state = self.state.next_stage()
        self.begin_stage()

    @property
    def stage_is_over(self) -> bool:
        """Whether the current stage has taken all its steps or stopped early."""
        return self.state.stopped_early or self.state.step >= self.state.stage_start + self.current.steps

    def _run_stage(self) -> None:
        """Train to the end of the stage or until early stopping."""
        state = self.state
        last = state.stage_start + self.current.steps
        if state.evaluating:  # the evaluation was interrupted
            self._evaluate_and_save(evaluate=True, save=state.step >= last)
        elif state.step >= last and self.val is not None and state.evaluated != state.step:
            # The run was resumed with a shorter stage: its steps are complete, but the last one is not evaluated yet.
            if self.runner.loss_buffer.losses:
                self.log()
            self._evaluate_and_save(evaluate=True, save=True)
        while not self.stage_is_over:
            self._run_epoch()
            self.logger.advise(self.current.batches.decoders)

    def _run_epoch(self) -> None:
        """Train to the end of the epoch, or of the stage; signals take effect between two steps."""
        state, current = self.state, self.current
        batches = self.timer.watch(current.batches.epoch(state.epoch, state.batch))
        for group in grouped(batches, self.config.accumulate):
            step = state.step + 1 - state.stage_start
            final = step >= current.steps
            evaluate = final or current.eval_trigger.fires(step)
            save = final or current.checkpoint_trigger.fires(step)
            log = evaluate or step == 1 or current.log_trigger.fires(step)
            self.take_step(group, measure_norm=log)
            if log:
                self.log()
            self.mid_step = False
            if evaluate or save:
                self._evaluate_and_save(evaluate, save)
            ended = final or state.stopped_early
            if ended or self.logger.progress_due():
                self.logger.progress(state, self.stages, self.goal.metric)
            if ended:
                return
            if self.stop.reason:
                raise Stopped(self.stop.reason)
            if self.stop.save:
                self.stop.save = False
                self.save()
                self.console.info(f"saved at step {state.step} on SIGUSR1")
        state.epoch, state.batch = state.epoch + 1, 0

    def take_step(self, group: list[Batch], measure_norm: bool) -> None:
        """Take one optimizer step of each turn that is due, over the micro-batches of `group`."""
        state = self.state
        self.mid_step = True
        batches = [batch for batch in group if batch]  # a batch is empty if none of its examples is readable
        info = StepInfo(state.step, state.step - state.stage_start, state.step / self.stages.steps)
        if batches:
            self.runner.run(self.current.stage, batches, info, measure_norm)
        if self.ema is not None:
            self.ema.update(self.model)
        state.step += 1
        state.batch += len(group)
        for batch in batches:
            self.timer.examples += batch["inputs"].shape[0]  # faster than `len`

    def log(self) -> None:
        """Read the buffered losses from the device and log them.

        Raises:
            Diverged: A loss is not finite and ``on_non_finite`` is ``stop``.
        """
        with self.timer.reading():
            read = self.runner.read()  # waits for the device
        self.logger.log_training(self.state.step, self.epoch, read)
        if self.config.on_non_finite == "stop":
            check_losses(read.losses, self.state.step)

    def _evaluate_and_save(self, evaluate: bool, save: bool) -> None:
        """Evaluate, save or both; also save after a new best evaluation or early stopping."""
        best = self.val is None  # without validation the last weights are the best
        if evaluate and self.val is not None:
            self.state.evaluating = True
            with self.timer.pause():
                best = self._log_evaluation(self.evaluator.evaluate(self.val, self.goal))
            save = save or best or self.state.stopped_early
        if save:
            self.save(best)

    def _log_evaluation(self, evaluation: Evaluation) -> bool:
        """Log an evaluation and update the best value and the schedules; return whether it is the best so far."""
        state, goal = self.state, self.goal
        # Images at the 1st, 2nd, 4th, 8th, ... evaluation are enough to show the progress.
        due = (state.evaluations + 1).bit_count() == 1
        shown = self.evaluator.show(evaluation, goal) if due else []
        frame = self.evaluator.frame(evaluation)
        value = evaluation.metrics[goal.metric]
        with self.stop.defer_signals():
            self.logger.log_evaluation(state.step, self.epoch, evaluation, goal.metric, shown, frame)
            best = state.record_evaluation(value, goal.better, self.config.early_stopping_patience)
            for optimizer in self.runner.optimizers.values():
                optimizer.schedule.observe(value, goal.better)
        return best

    def save(self, best: bool = False) -> None:
        """Write a checkpoint; `best` marks the weights as the best so far."""
        self.checkpointer.save(self.state, self.logger.metric, best)

    def load_state_dict(self, content: dict[str, Any], measured: dict[str, float]) -> None:
        """Restore the content of a checkpoint, and the times and counts in its manifest entry."""
        self.state = TrainState(**content["loop"])
        self.begin_stage()
        self.checkpointer.load_state_dict(content)
        self.timer.load_state_dict(measured)


def grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Yield lists of `size` batches; the last list of an epoch may be shorter."""
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group

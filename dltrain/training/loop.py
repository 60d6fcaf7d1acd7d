"""THE loop: stages, epochs, steps, turns.

Plain Python, no callbacks; AMP, accumulation, averaging, logging and checkpoints live here, once.
"""

import gc
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import nn

from dltrain.data.loader import Batch, Batches
from dltrain.loggers.console import count
from dltrain.optim.ema import EMA
from dltrain.optim.optimizer import Optimizer
from dltrain.storage.checkpoints import BEST, Checkpoints
from dltrain.tasks.base import Evaluation, Goal, Shown, Stage, Task, Turn
from dltrain.training.device import Device, random_state, restore_random_state
from dltrain.training.evaluation import evaluate, improves, run_in_eval_mode
from dltrain.training.run_logger import RunLogger
from dltrain.training.signals import SIGNAL_EXIT_CODES, Stop, Stopped
from dltrain.training.stages import StageProgress, Stages, following
from dltrain.training.state import TrainerConfig, TrainState
from dltrain.training.step import StepInfo, StepRunner


class Diverged(Exception):
    """The loss is no longer a finite number."""


class Loop:
    """Trains one task.

    Args:
        task: What is learned.
        model: What learns it, on the device.
        batches: Split -> its batches: ``train``, perhaps ``unlabelled``, and ``val``; without that the last weights are
            the best.
        optimizer: Makes the optimizer of a turn, given the turn and the number of steps of its stage.
        ema: Averaged weights that are evaluated and kept instead of the model's own, or None.
        config: When things happen.
        device: Where and in which precision the model computes.
        logger: Where numbers, pictures and the live line go.
        checkpoints: Where weights go.
        stop: Says between two steps what signals ask for.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        batches: Mapping[str, Batches],
        optimizer: Callable[[Turn, int], Optimizer],
        ema: EMA | None,
        config: TrainerConfig,
        device: Device,
        logger: RunLogger,
        checkpoints: Checkpoints,
        stop: Stop,
    ) -> None:
        self.task, self.model, self.val = task, model, batches.get("val")
        self.ema, self.config, self.device = ema, config, device
        self.logger, self.checkpoints, self.stop = logger, checkpoints, stop
        self.timer, self.console, self.state = logger.timer, logger.console, TrainState()
        self.stages = Stages(task.stages(model), batches, config)
        self.runner = StepRunner(optimizer, config, device, batches["train"].batch_size, logger.console)
        self.bad = batches["train"].bad  # all splits share it
        self.stepping = False  # a step has begun and is not done
        self.kept = 0  # the step of the best weights that were saved last
        self.out_of_time = False

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run, unless it stops early."""
        return self.stages.steps

    @property
    def epoch(self) -> float:
        """Epochs done, with a fraction."""
        return self.stages.epoch(self.state)

    @property
    def goal(self) -> Goal:
        """What is watched in the present stage."""
        return self.stages.present.stage.goal or self.task.goal

    def run(self) -> None:
        """All stages, in order; afterwards the model holds the best weights.

        Raises:
            Diverged: When a loss or a weight is no longer a finite number.
            Stopped: When a signal asked for it; a checkpoint says where to go on.
        """
        # What the imports made lives for ever: keep the garbage collector from walking it during training.
        gc.collect()
        gc.freeze()
        try:
            self.model.train()
            self.timer.begin()
            with self.stop.cooperative():
                self.run_stages()
            self.timer.end()
        finally:
            gc.unfreeze()
        self.checkpoints.wait()
        self.restore_best()

    def run_stages(self) -> None:
        """What is left of the stages, unless something stops them."""
        self.logger.begin(self.state)
        try:
            for number in range(self.state.stage, len(self.stages)):
                if number > self.state.stage:
                    self.state = following(self.state, number)
                    self.begin_stage()
                elif not self.runner.optimizers:
                    self.begin_stage()
                self.run_stage(self.stages.present)
        except Stopped as stopped:
            if not self.stepping:  # between two steps everything is whole
                unsaved = self.state.best is not None and self.state.best_step == self.state.step != self.kept
                self.save(best=unsaved)
            self.out_of_time = stopped.reason == "max_minutes"
            if not self.out_of_time:
                raise

    def begin_stage(self) -> None:
        """Make the optimizers of the present stage."""
        span = self.stages.enter(self.state.stage)
        self.runner.begin(span.stage, span.steps)
        if len(self.stages) > 1:
            self.console.say(f"stage {span.stage.name}: {count(span.steps)} steps, from step {count(self.state.step)}")

    def run_stage(self, span: StageProgress) -> None:
        """Epochs until the stage's steps are done."""
        last = self.state.stage_start + span.steps
        if self.state.evaluating:  # a stop cut it off
            self._evaluate_and_save(evaluate=True, save=self.state.step >= last)
        elif self.state.step >= last and self.val is not None and self.state.evaluated != self.state.step:
            self._finish_stage()  # it was made shorter than it was to be
        while self.state.step < last and not self.state.stopped_early:
            self.run_epoch(span, last)

    def _finish_stage(self) -> None:
        """What the last step of a stage is followed by."""
        if self.runner.loss_buffer.losses:
            self.log()
        self._evaluate_and_save(evaluate=True, save=True)

    def run_epoch(self, span: StageProgress, last: int) -> None:
        """What is left of one pass over the training data, or of the stage's steps."""
        state = self.state
        for group in grouped(span.batches.epoch(state.epoch, state.batch), self.config.accumulate):
            step = state.step + 1 - state.stage_start
            final = step >= span.steps
            evaluate = final or span.evaluation_due.at(step)
            save = final or span.save_due.at(step)
            log = evaluate or step == 1 or span.log_due.at(step)
            self.take_step(span.stage, group, log)
            if log:
                self.log()
            self.stepping = False
            if evaluate or save:
                self._evaluate_and_save(evaluate, save)
            ended = final or state.stopped_early
            if ended or self.logger.may_move():
                self.logger.progress(state, self.stages, self.goal.metric)
            if ended:
                return
            if self.stop.reason or self.stop.save:
                self._handle_signal()
        state.epoch, state.batch = state.epoch + 1, 0

    def _evaluate_and_save(self, evaluate: bool, save: bool) -> None:
        """Evaluate, save, or both: one checkpoint serves as the last and the best."""
        best = evaluate and self._validate()
        if best or save or self.state.stopped_early:
            self.save(best or self.val is None)  # without validation the last weights are the best

    def _handle_signal(self) -> None:
        """Do what a signal asked for.

        Raises:
            Stopped: When it asked for the end.
        """
        if self.stop.reason:
            raise Stopped(self.stop.reason)
        self.stop.save = False
        self.save()
        self.console.say(f"saved at step {self.state.step}, as SIGUSR1 asked")

    def take_step(self, stage: Stage, group: list[Batch], measure: bool) -> None:
        """One optimizer step of every turn that is due."""
        state = self.state
        self.stepping = True
        read = [batch for batch in group if batch]  # without those of which no example could be read
        moment = StepInfo(state.step, state.step - state.stage_start, state.step / self.steps)
        if read:
            self.runner.take(stage, read, moment, measure)
        if self.ema is not None:
            self.ema.update(self.model)
        state.step += 1
        state.batch += len(group)
        for batch in read:
            self.timer.examples += len(batch["inputs"])

    def log(self) -> None:
        """Read back what was recorded, once, and write it down.

        Raises:
            Diverged: When a loss is not finite.
        """
        values = self.runner.read()  # waits for the device
        self.logger.training(self.state.step, self.epoch, values)
        self.refuse_losses(values)

    def refuse_losses(self, values: dict[str, float]) -> None:
        """Show the loss.

        Raises:
            Diverged: When it is not finite.
        """
        losses = [value for name, value in values.items() if name.startswith("loss")]
        if losses:
            self.logger.loss = sum(losses)
        if not all(map(math.isfinite, losses)) and self.config.on_non_finite == "stop":
            raise Diverged(f"the training loss became {self.logger.loss} by step {self.state.step}")

    def _validate(self) -> bool:
        """Evaluate on the validation split; whether these weights are the best so far."""
        if self.val is None:
            return False
        self.state.evaluating = True
        with self.timer.pause():
            return self._log_evaluation(self.evaluate(self.val, self.goal))

    def _log_evaluation(self, evaluation: Evaluation) -> bool:
        """Write an evaluation down and decide what follows from it; whether it is the best so far."""
        # Pictures at the 1st, 2nd, 4th, 8th ... evaluation tell the story in few frames.
        due = (self.state.evaluations + 1).bit_count() == 1
        shown = self.show(evaluation, self.goal) if due else []
        frame = run_in_eval_mode(self.task.frame, self.eval_model, self.device)
        with self.stop.defer_signals():
            self.logger.evaluation(self.state.step, self.epoch, evaluation, self.goal.metric, shown)
            if frame is not None:
                self.logger.tracker.frame(frame, self.state.step)
            return self._update_best(evaluation.metrics[self.goal.metric], self.goal.better)

    def _update_best(self, value: float, better: Literal["min", "max"]) -> bool:
        """What follows from the watched metric; whether it is the best so far."""
        state = self.state
        best = improves(value, state.best, better)
        state.evaluations, state.evaluated, state.evaluating = state.evaluations + 1, state.step, False
        state.without_improvement = 0 if best else state.without_improvement + 1
        if best:
            state.best, state.best_step = value, state.step
        state.stopped_early = 0 < self.config.early_stopping <= state.without_improvement
        for optimizer in self.runner.optimizers.values():
            optimizer.schedule.observe(value, better)
        return best

    def evaluate(self, batches: Batches, goal: Goal | None = None) -> Evaluation:
        """One pass over a split with the weights that count, for the task's own metrics if no other goal is given."""
        return evaluate((goal or self.task.goal).evaluate, self.eval_model, self._interruptible(batches), self.device)

    def _interruptible(self, batches: Batches) -> Iterator[Batch]:
        """Batches, until a signal asks for the end."""
        for batch in batches:
            if self.stop.reason in SIGNAL_EXIT_CODES:
                raise Stopped(self.stop.reason)
            yield batch

    @property
    def eval_model(self) -> nn.Module:
        """The model whose weights are evaluated and kept: the averaged one where there is one."""
        return self.model if self.ema is None else self.ema.module

    def show(self, evaluation: Evaluation, goal: Goal | None = None) -> list[Shown]:
        """Pictures and text for people to look at."""
        see = (goal or self.task.goal).show
        return run_in_eval_mode(lambda model: see(model, evaluation), self.eval_model, self.device)

    def save(self, best: bool = False) -> None:
        """Write a checkpoint: everything that matters, tensors and plain Python only.

        Raises:
            Diverged: When there is nothing worth keeping.
        """
        with self.timer.pause(), self.stop.defer_signals():
            if not self.refuse_non_finite():
                return
            self.kept = self.state.step if best else self.kept
            measured = self.timer.state_dict()
            self.checkpoints.save(self.state_dict(), self.state.step, self.logger.metric, best, measured)

    def refuse_non_finite(self) -> bool:
        """Keep a diverged state out of the checkpoints: whether losses that nobody has read and weights are finite.

        Raises:
            Diverged: When one is not, unless that is to be ignored.
        """
        self.refuse_losses(self.runner.loss_buffer.means())
        weights = [p.detach() for p in self.model.parameters() if p.is_floating_point()]
        # A sum is finite when all its terms are, and takes a tenth of the time that looking at each does.
        if not weights or math.isfinite(float(torch.stack([w.sum(dtype=torch.float32) for w in weights]).sum())):
            return True
        if self.config.on_non_finite == "stop":
            raise Diverged(f"weights are no longer finite numbers at step {self.state.step}")
        self.console.say(f"step {self.state.step} is not saved: its weights are not finite")
        return False

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on; the same at the same step, whether or not it was interrupted."""
        return {
            "model": self.model.state_dict(),
            "average": self.ema.state_dict() if self.ema is not None else None,
            **self.runner.state_dict(),
            "task": self.task.state_dict(),
            "loop": asdict(self.state),
            "bad_samples": list(self.bad.found),
            "rng": random_state(),
        }

    def load_state_dict(self, state: dict[str, Any], measured: dict[str, float]) -> None:
        """Go on from what `state_dict` said.

        Args:
            state: A checkpoint.
            measured: What the manifest says beside it.
        """
        self.state = TrainState(**state["loop"])
        self.load_weights(state)
        self.begin_stage()
        self.runner.load_state_dict(state)
        self.task.load_state_dict(state["task"])
        self.bad.restore(state["bad_samples"])
        self.timer.load_state_dict(measured)
        restore_random_state(state["rng"])

    def load_weights(self, state: dict[str, Any]) -> None:
        """Take the weights of a checkpoint."""
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.load_state_dict(state["average"])

    def reset_best(self) -> None:
        """The best weights so far are lost: the best of what follows counts."""
        self.state.best, self.state.best_step = None, 0

    def restore_best(self) -> None:
        """Load the weights that did best on the validation split; without one the last are the best."""
        if self.val is None:
            self.state.best_step = self.state.step
        elif self.state.best is not None and self.state.best_step != self.state.step:
            self.load_weights(self.checkpoints.load(BEST))


def grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Batches in lists of ``size``; the last list of an epoch may be shorter."""
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group

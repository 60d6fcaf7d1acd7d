"""What happens within one step: the turns of a stage, each with its losses, gradients and optimizer."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from dltrain.data.loader import Batch
from dltrain.loggers.console import Console
from dltrain.optim.optimizer import SKIPPED, Optimizer
from dltrain.tasks.base import Loss, Stage, Turn
from dltrain.training.device import Device, is_out_of_memory
from dltrain.training.meters import SINGLE_TURN, LossBuffer
from dltrain.training.state import TrainerConfig


class StepInfo(NamedTuple):
    """Where a step stands.

    Args:
        step: In the run, counted from 0.
        in_stage: In its stage, counted from 0.
        progress: From 0 to 1 over the run.
    """

    step: int
    in_stage: int
    progress: float


class StepRunner:
    """Takes turns and remembers, on the device, what there is to log.

    Args:
        make_optimizer: Makes the optimizer of a turn, given the turn and the number of steps of its stage.
        config: What to do when numbers are not finite or memory runs out.
        device: Where and in which precision the model computes.
        batch_size: Examples per batch.
        console: Where to say that batches are cut into parts.
    """

    def __init__(
        self,
        make_optimizer: Callable[[Turn, int], Optimizer],
        config: TrainerConfig,
        device: Device,
        batch_size: int,
        console: Console,
    ) -> None:
        self.make_optimizer, self.config, self.device = make_optimizer, config, device
        self.batch_size, self.console = batch_size, console
        self.autocast = device.autocast()
        self.loss_buffer = LossBuffer(lenient=config.on_non_finite == "skip")
        self.optimizers: dict[str, Optimizer] = {}
        self.parts = 1  # into how many a batch is cut, once memory has run out

    def begin(self, stage: Stage, steps: int) -> None:
        """Make the optimizers of a stage."""
        self.optimizers = {turn.name: self.make_optimizer(turn, steps) for turn in stage.turns}

    def take(self, stage: Stage, group: list[Batch], moment: StepInfo, measure: bool) -> None:
        """Every turn that is due."""
        for turn in stage.turns:
            if (moment.step + 1) % turn.every == 0:
                self.take_turn(turn, group, moment, measure)

    def take_turn(self, turn: Turn, group: list[Batch], moment: StepInfo, measure: bool) -> None:
        """One move: the losses of all micro-batches, the gradient of their exact mean, one step of the optimizer."""
        while (losses := self.find_gradients(turn, group, moment)) is None:
            pass  # not enough memory: again in smaller parts
        for loss in losses:
            self.loss_buffer.add(turn.name, loss)
        norm = self.optimizers[turn.name].step(moment.in_stage, measure=measure)
        if measure and norm is not None:  # of this very step: what another one had would be lost in a checkpoint
            self.loss_buffer.norms[turn.name] = norm

    def find_gradients(self, turn: Turn, group: list[Batch], moment: StepInfo) -> list[Loss] | None:
        """The losses, their gradients in place; None when memory ran out and the next try takes smaller parts."""
        optimizer = self.optimizers[turn.name]
        losses: list[Loss] = []
        try:
            for batch in group if self.parts == 1 else in_parts(group, self.parts):
                with self.autocast:
                    loss = turn.loss(batch, moment.progress)
                optimizer.backward(loss, first=not losses)
                losses.append(loss)
            return losses
        except RuntimeError as error:
            if not is_out_of_memory(error) or not self.config.shrink or self.parts >= self.batch_size:
                raise
        # The error is gone, and with it the tensors that its traceback held.
        optimizer.drop_gradients()
        self.shrink(moment.step + 1)
        return None

    def shrink(self, step: int) -> None:
        """Halve what is computed at once; a step stays the same mean over the same examples."""
        if self.device.device.type == "cuda":
            torch.cuda.empty_cache()
        self.parts *= 2
        self.console.info(
            f"out of memory in step {step}: from now on {self.at_a_time} examples at a time. The batch stays "
            f"{self.batch_size} for weights and losses; statistics of a batch norm are those of the parts."
        )

    @property
    def at_a_time(self) -> int:
        """Examples that are computed at once."""
        return -(-self.batch_size // self.parts)

    @property
    def skipped(self) -> int:
        """Steps that were left out for numbers that were not finite."""
        return sum(int(optimizer.skipped) for optimizer in self.optimizers.values())

    def read(self) -> dict[str, float]:
        """What was remembered since the last time, and the learning rates; waits for the device."""
        readings = {
            named(name, turn): value for turn, o in self.optimizers.items() for name, value in o.readings().items()
        }
        values = self.loss_buffer.read(readings)
        for turn, optimizer in self.optimizers.items():
            values[named("lr", turn)] = optimizer.lr
            optimizer.know_skipped(values.get(named(SKIPPED, turn), 0))
        return values

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, besides the weights."""
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "schedules": {name: optimizer.schedule.state_dict() for name, optimizer in self.optimizers.items()},
            "record": self.loss_buffer.state_dict(),
            "parts": self.parts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` said, in a stage that has begun."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
            optimizer.schedule.load_state_dict(state["schedules"][name])
        self.loss_buffer.load_state_dict(state["record"], self.device.device)
        self.parts = state["parts"]


def named(name: str, turn: str) -> str:
    """The name under which something of a turn is logged; a turn that is alone needs none of its own."""
    return name if turn == SINGLE_TURN else f"{name}_{turn}"


def in_parts(group: list[Batch], parts: int) -> Iterator[Batch]:
    """Batches cut into at most ``parts`` parts each."""
    for batch in group:
        size = max(1, -(-len(batch["inputs"]) // parts))
        for values in zip(*(value.split(size) for value in batch.values()), strict=True):
            yield dict(zip(batch, values, strict=True))

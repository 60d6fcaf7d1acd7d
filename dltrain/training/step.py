"""One training step: losses, gradients and updates.

A stage is a phase of training. A turn is the update of one optimizer within a step. A stage has one or more turns.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from dltrain.data.loader import Batch
from dltrain.loggers.console import Console
from dltrain.optim.optimizer import SKIPPED, Optimizer
from dltrain.tasks.base import Loss, Stage, Task, Turn
from dltrain.training.device import Device, is_out_of_memory
from dltrain.training.meters import LossBuffer, Readings, log_name
from dltrain.training.state import TrainerConfig


class StepInfo(NamedTuple):
    """Position of a step in the run."""

    step: int  # index in the run
    step_in_stage: int
    progress: float  # from 0 to 1 over the run


class StepRunner:
    """Runner of the turns of a step, which buffers their losses on the device."""

    def __init__(
        self,
        task: Task,
        make_optimizer: Callable[[Turn, int], Optimizer],
        config: TrainerConfig,
        device: Device,
        console: Console,
    ) -> None:
        self.task, self.make_optimizer, self.config, self.device = task, make_optimizer, config, device
        self.console = console
        self.autocast = device.autocast()
        self.loss_buffer = LossBuffer(skip_non_finite=config.on_non_finite == "skip")
        self.optimizers: dict[str, Optimizer] = {}
        self.skipped_before = 0  # steps skipped in earlier stages
        self.num_chunks = 1  # per batch; doubled when memory runs out

    def begin_stage(self, stage: Stage, steps: int) -> None:
        """Create the optimizers of a stage."""
        self.skipped_before = self.skipped_steps
        self.optimizers = {turn.name: self.make_optimizer(turn, steps) for turn in stage.turns}

    def run(self, stage: Stage, batches: list[Batch], info: StepInfo, measure_norm: bool) -> None:
        """Take one optimizer step of each turn that is due, with the gradient of the mean loss over all batches."""
        for turn in stage.turns:
            if (info.step + 1) % turn.every:
                continue
            while (losses := self.compute_gradients(turn, batches, info)) is None:
                pass  # out of memory: try again in smaller chunks
            for loss in losses:
                self.loss_buffer.add(turn.name, loss)
            norm = self.optimizers[turn.name].step(info.step_in_stage, measure=measure_norm)
            if measure_norm and norm is not None:
                self.loss_buffer.norms[turn.name] = norm

    def compute_gradients(self, turn: Turn, batches: list[Batch], info: StepInfo) -> list[Loss] | None:
        """Accumulate the gradients of all micro-batches and return their losses.

        If memory runs out and ``trainer.on_oom`` is ``shrink``, double the number of chunks for the next attempt and
        return None.
        """
        optimizer = self.optimizers[turn.name]
        losses: list[Loss] = []
        task_state = copy.deepcopy(self.task.state_dict()) if self.config.split_on_oom else {}
        try:
            for batch in batches if self.num_chunks == 1 else split(batches, self.num_chunks):
                with self.autocast:
                    loss = turn.loss(batch, info.progress)
                optimizer.backward(loss)
                losses.append(loss)
            return losses
        except RuntimeError as error:
            largest = max(len(batch["inputs"]) for batch in batches)
            if not is_out_of_memory(error) or not self.config.split_on_oom or self.num_chunks >= largest:
                raise
        # Outside the except block, the error no longer keeps the tensors of its traceback in memory.
        optimizer.drop_gradients()
        self.task.load_state_dict(task_state)
        if self.device.device.type == "cuda":
            torch.cuda.empty_cache()
        self.num_chunks *= 2
        self.console.info(
            f"out of memory in step {info.step + 1}: from now on {-(-largest // self.num_chunks)} examples at a time. "
            f"Losses and gradients still equal those of batches of {largest}; batch norm statistics do not."
        )
        return None

    @property
    def skipped_steps(self) -> int:
        """Optimizer steps skipped in all stages because gradients were not finite; waits for the device."""
        return self.skipped_before + sum(int(optimizer.skipped) for optimizer in self.optimizers.values())

    def read(self) -> Readings:
        """Return and clear the buffered losses and norms, and add the learning rates; waits for the device."""
        readings = {
            log_name(name, turn): value for turn, o in self.optimizers.items() for name, value in o.readings().items()
        }
        read = self.loss_buffer.read(readings)
        for turn, optimizer in self.optimizers.items():
            read.logged[log_name("lr", turn)] = optimizer.lr
            optimizer.set_known_skipped(read.logged.get(log_name(SKIPPED, turn), 0))
        return read

    def state_dict(self) -> dict[str, Any]:
        """Return optimizer and schedule states, buffered losses, and the numbers of chunks and skipped steps."""
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "schedules": {name: optimizer.schedule.state_dict() for name, optimizer in self.optimizers.items()},
            "record": self.loss_buffer.state_dict(),
            "parts": self.num_chunks,
            "skipped_before": self.skipped_before,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the optimizers of the stage must exist."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
            optimizer.schedule.load_state_dict(state["schedules"][name])
        self.loss_buffer.load_state_dict(state["record"], self.device.device)
        self.num_chunks = state["parts"]
        self.skipped_before = state.get("skipped_before", 0)  # absent in checkpoints of earlier versions


def split(batches: list[Batch], num_chunks: int) -> Iterator[Batch]:
    """Yield each batch in at most `num_chunks` chunks of equal size; the last may be smaller.

    The field ``rows`` of a chunk has the indices of its examples in the batch; it is on the CPU.
    """
    for batch in batches:
        size = max(1, -(-len(batch["inputs"]) // num_chunks))
        whole = {**batch, "rows": torch.arange(len(batch["inputs"]))}
        for values in zip(*(value.split(size) for value in whole.values()), strict=True):
            yield dict(zip(whole, values, strict=True))

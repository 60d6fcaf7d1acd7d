"""Save and load the state of a run."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from dltrain.data.bad_samples import BadSamples
from dltrain.optim.ema import EMA
from dltrain.storage.checkpoints import Checkpoints
from dltrain.tasks.base import Task
from dltrain.training.device import random_state, restore_random_state
from dltrain.training.evaluation import has_finite_weights
from dltrain.training.meters import Timer
from dltrain.training.signals import Stop
from dltrain.training.state import TrainState
from dltrain.training.step import StepRunner


class Diverged(Exception):
    """Divergence: a loss, a weight or a metric on the test split that is not finite."""


@dataclass
class Checkpointer:
    """Saving and loading of the state of a run: everything that the next step depends on."""

    task: Task
    model: nn.Module
    ema: EMA | None
    runner: StepRunner
    bad_samples: BadSamples
    checkpoints: Checkpoints
    timer: Timer
    stop: Stop
    last_best_step: int = 0  # step of the most recent checkpoint saved as best

    def save(self, state: TrainState, metric: float | None, best: bool = False) -> None:
        """Write a checkpoint, unless a weight is not finite.

        Args:
            metric: Validation metric, stored in the manifest.
            best: Whether these weights are the best so far.

        Raises:
            Diverged: A loss or a weight is not finite and ``on_non_finite`` is ``stop``.
        """
        with self.timer.pause(), self.stop.defer_signals():
            if self._is_finite(state.step):
                self.last_best_step = state.step if best else self.last_best_step
                self.checkpoints.save(self.state_dict(state), state.step, metric, best, self.timer.state_dict())

    def _is_finite(self, step: int) -> bool:
        """Return whether the weights are finite, so that the state may be saved.

        Raises:
            Diverged: With ``trainer.on_non_finite=stop``, a weight, or a loss since the last log, is not finite.
        """
        stop = self.runner.config.on_non_finite == "stop"
        if stop:
            check_losses(self.runner.loss_buffer.means(), step)
        if has_finite_weights(self.model):
            return True
        if stop:
            raise Diverged(f"weights are no longer finite numbers at step {step}")
        self.runner.console.info(f"step {step} is not saved: its weights are not finite")
        return False

    def state_dict(self, state: TrainState) -> dict[str, Any]:
        """Return the state as tensors and plain Python values.

        The state at a given step is the same whether or not the run was interrupted.
        """
        return {
            "model": self.model.state_dict(),
            "average": self.ema.state_dict() if self.ema is not None else None,
            **self.runner.state_dict(),
            "task": self.task.state_dict(),
            "loop": asdict(state),
            "bad_samples": list(self.bad_samples.found),
            "rng": random_state(),
        }

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Restore everything except the `TrainState`; the optimizers of the stage must already exist."""
        self.load_weights(content)
        self.runner.load_state_dict(content)
        self.task.load_state_dict(content["task"])
        self.bad_samples.restore(content["bad_samples"])
        restore_random_state(content["rng"])

    def load_weights(self, content: dict[str, Any]) -> None:
        """Restore the weights and their moving average."""
        self.model.load_state_dict(content["model"])
        if self.ema is not None:
            self.ema.load_state_dict(content["average"])


def check_losses(losses: Mapping[str, float], step: int) -> None:
    """Raise `Diverged` if a loss is not finite; the message names `step`."""
    if not all(map(math.isfinite, losses.values())):
        raise Diverged(f"the training loss became {sum(losses.values())} by step {step}")

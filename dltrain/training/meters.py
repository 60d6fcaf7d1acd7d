"""Losses, intervals and times that the loop keeps track of between two logs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dltrain.tasks.base import Loss
from dltrain.training.state import Interval

SINGLE_TURN = "train"  # the turn of a task with one turn; its values are logged without a suffix


class Timer:
    """What was measured; it never influences what is computed.

    Args:
        started: When the command began, as `time.perf_counter` has it.
    """

    def __init__(self, started: float) -> None:
        self.started = started
        self.training_since = time.perf_counter()
        self.ended: float | None = None
        self.paused = 0.0
        self.pauses = 0
        self.examples = 0
        self.first_step: float | None = None
        self.earlier: dict[str, float] = {}

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Time that is not training: evaluation and checkpoints."""
        begun = time.perf_counter()
        self.pauses += 1
        try:
            yield
        finally:
            self.pauses -= 1
            if not self.pauses:  # a checkpoint within an evaluation counts once
                self.paused += time.perf_counter() - begun

    def begin(self) -> None:
        """Training starts now."""
        self.training_since, self.paused = time.perf_counter(), 0.0

    def end(self) -> None:
        """Training is over: what follows is not counted."""
        self.ended = time.perf_counter()

    def training_seconds(self) -> float:
        """Seconds spent on training so far, in earlier sessions too."""
        here = (self.ended or time.perf_counter()) - self.training_since - self.paused
        return self.earlier.get("training_seconds", 0.0) + here

    def total_seconds(self) -> float:
        """Seconds since the command began, and those of earlier sessions."""
        return self.earlier.get("seconds", 0.0) + time.perf_counter() - self.started

    def seconds_to_first_step(self) -> float:
        """Seconds from the beginning of the first session to the end of its first step."""
        here = (self.first_step or self.started) - self.started
        return self.earlier.get("seconds_to_first_step", here)

    def state_dict(self) -> dict[str, float]:
        """What was measured so far; it stands beside a checkpoint, not in it."""
        return {
            "seconds": self.total_seconds(),
            "training_seconds": self.training_seconds(),
            "seconds_to_first_step": self.seconds_to_first_step(),
            "examples": self.examples,
        }

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on counting where an earlier session stopped."""
        self.earlier = state
        self.examples = int(state.get("examples", 0))


class Trigger:
    """Says in which steps something falls due; a pure function of the step, except for spans in minutes."""

    def __init__(self, span: Interval, steps_per_epoch: int) -> None:
        count, unit = span
        self.steps = 0 if unit == "minute" else int(count) * (steps_per_epoch if unit == "epoch" else 1)
        self.seconds = count * 60
        self.last = time.perf_counter()

    def at(self, step: int) -> bool:
        """Whether it is due after this step (the first is step 1)."""
        if self.steps:
            return step % self.steps == 0
        if time.perf_counter() - self.last < self.seconds:
            return False
        self.last = time.perf_counter()
        return True


class LossBuffer:
    """Losses since the last look, kept on the device and read in one copy.

    Args:
        lenient: Leave losses that are not finite out of the means, as their steps are left out.
    """

    def __init__(self, lenient: bool = False) -> None:
        self.lenient = lenient
        self.losses: dict[str, list[tuple[Tensor, float | Tensor]]] = {}
        self.norms: dict[str, Tensor] = {}  # by turn

    def add(self, turn: str, loss: Loss) -> None:
        """Remember the loss of one micro-batch."""
        name = "loss" if turn == SINGLE_TURN else f"loss_{turn}"
        self.losses.setdefault(name, []).append((loss.total.detach(), loss.weight))
        for part, value in loss.parts.items():
            self.losses.setdefault(part, []).append((value.detach(), loss.weight))

    def read(self, readings: dict[str, Tensor]) -> dict[str, float]:
        """Weighted means of everything remembered, the last gradient norm and the readings; forgets them."""
        means = {name: _mean(pairs, self.lenient) for name, pairs in self.losses.items()}
        means |= {name: value.float() for name, value in readings.items()}
        for turn, norm in self.norms.items():
            means["grad/norm" if turn == SINGLE_TURN else f"grad/norm_{turn}"] = norm.float()
        self.losses, self.norms = {}, {}
        return _read(means)

    def means(self) -> dict[str, float]:
        """Weighted means of the losses remembered; they stay remembered."""
        return _read({name: _mean(pairs, self.lenient) for name, pairs in self.losses.items()})

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, for a run that goes on in the middle of it."""
        return {
            name: {
                "totals": torch.stack([total for total, _ in pairs]).tolist(),
                "weights": [float(weight) for _, weight in pairs],
            }
            for name, pairs in self.losses.items()
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from what `state_dict` said."""
        self.losses = {
            name: list(zip(torch.tensor(pairs["totals"], device=device).unbind(), pairs["weights"], strict=True))
            for name, pairs in state.items()
        }


def _read(means: dict[str, Tensor]) -> dict[str, float]:
    values = torch.stack(list(means.values())).tolist() if means else []
    return dict(zip(means, values, strict=True))


def _mean(pairs: list[tuple[Tensor, float | Tensor]], lenient: bool) -> Tensor:
    totals = torch.stack([total for total, _ in pairs]).float()
    weights = [weight for _, weight in pairs]
    if any(isinstance(weight, Tensor) for weight in weights):
        counts = torch.stack([torch.as_tensor(w, dtype=torch.float32, device=totals.device) for w in weights])
    else:
        counts = torch.tensor(weights, dtype=torch.float32).to(totals.device, non_blocking=True)
    if lenient:
        counts, totals = counts * totals.isfinite(), totals.nan_to_num(0.0, 0.0, 0.0)
    return (totals * counts).sum() / counts.sum()

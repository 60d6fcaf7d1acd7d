"""Timer of a run, and buffer of losses between log steps.

A turn is one optimizer's update within a step; see `dltrain.tasks.base.Turn`.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from dltrain.tasks.base import Loss

T = TypeVar("T")
SINGLE_TURN = "train"  # name of the turn in tasks that have only one


def log_name(name: str, turn: str) -> str:
    """Return the name under which a value of a turn is logged; a single turn needs no suffix."""
    return name if turn == SINGLE_TURN else f"{name}_{turn}"


class Timer:
    """Timer of a run since `started`, a `time.perf_counter` value."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.training_since = time.perf_counter()
        self.ended: float | None = None
        self.paused = 0.0
        self.pauses = 0
        self.examples = 0
        self.for_data = 0.0  # seconds in this session in which this process waited for batches
        self.for_device = 0.0  # seconds in this session in which this process waited for the device to finish steps
        self.first_step: float | None = None
        self.earlier: dict[str, float] = {}

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Exclude the time inside the context from the training time; used for evaluation and checkpoints."""
        begun = time.perf_counter()
        self.pauses += 1
        try:
            yield
        finally:
            self.pauses -= 1
            if not self.pauses:  # a pause within a pause counts once
                self.paused += time.perf_counter() - begun

    def watch(self, batches: Iterator[T]) -> Iterator[T]:
        """Yield the batches, and measure how long each takes to arrive, without waiting for the device."""
        while True:
            begun = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.for_data += time.perf_counter() - begun
            yield batch

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Measure the duration of a copy from the device, which waits for all unfinished steps."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.for_device += time.perf_counter() - begun

    @property
    def idle_seconds(self) -> float:
        """Estimate of the seconds in this session in which the device waited for data.

        This process runs ahead of the device, which may still compute earlier steps while this process waits for a
        batch. The time that this process waits for the device, to copy losses, is therefore subtracted.
        """
        return max(0.0, self.for_data - self.for_device)

    def begin(self) -> None:
        """Start to measure the training time."""
        self.training_since, self.paused = time.perf_counter(), 0.0

    def end(self) -> None:
        """Stop measuring the training time."""
        self.ended = time.perf_counter()

    def training_seconds(self) -> float:
        """Return the seconds spent on training so far, including earlier sessions."""
        here = (self.ended or time.perf_counter()) - self.training_since - self.paused
        return self.earlier.get("training_seconds", 0.0) + here

    def total_seconds(self) -> float:
        """Return the seconds since the command began, plus the seconds of earlier sessions."""
        return self.earlier.get("seconds", 0.0) + time.perf_counter() - self.started

    def seconds_to_first_step(self) -> float:
        """Return the seconds from the start of the first session to the end of its first step."""
        here = (self.first_step or self.started) - self.started
        return self.earlier.get("seconds_to_first_step", here)

    def state_dict(self) -> dict[str, float]:
        """Return the measurements so far; they are stored in the manifest, not in the checkpoint."""
        return {
            "seconds": self.total_seconds(),
            "training_seconds": self.training_seconds(),
            "seconds_to_first_step": self.seconds_to_first_step(),
            "examples": self.examples,
        }

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from the measurements of an earlier session."""
        self.earlier = state
        self.examples = int(state.get("examples", 0))


class Readings(NamedTuple):
    """Values read from the device."""

    losses: dict[str, float]  # mean loss of each turn
    logged: dict[str, float]  # all values, including losses, by the names under which they are logged


Pairs = list[tuple[Tensor, float | Tensor]]  # means and their weights


class LossBuffer:
    """Buffer of losses on the device, read in one copy; `skip_non_finite` leaves out NaN and infinity."""

    def __init__(self, skip_non_finite: bool = False) -> None:
        self.skip_non_finite = skip_non_finite
        self.losses: dict[str, Pairs] = {}  # by turn
        self.parts: dict[str, dict[str, Pairs]] = {}  # by turn and name
        self.norms: dict[str, Tensor] = {}  # by turn

    def add(self, turn: str, loss: Loss) -> None:
        """Buffer the loss of one micro-batch, unless its weight is the number 0."""
        if loss.is_empty:
            return
        self.losses.setdefault(turn, []).append((loss.total.detach(), loss.weight))
        for part, value in loss.parts.items():
            self.parts.setdefault(turn, {}).setdefault(part, []).append((value.detach(), loss.weight))

    def read(self, readings: dict[str, Tensor]) -> Readings:
        """Return the weighted mean losses, the last gradient norms and `readings`, and clear the buffer."""
        names = {turn: log_name("loss", turn) for turn in self.losses}
        means = {names[turn]: self._mean(pairs) for turn, pairs in self.losses.items()}
        stated = Counter(part for parts in self.parts.values() for part in parts)
        for turn, parts in self.parts.items():
            for part, pairs in parts.items():  # two turns may have parts of the same name
                means[part if stated[part] == 1 else log_name(part, turn)] = self._mean(pairs)
        means |= {name: value.float() for name, value in readings.items()}
        for turn, norm in self.norms.items():
            means[log_name("grad/norm", turn)] = norm.float()
        self.losses, self.parts, self.norms = {}, {}, {}
        logged = _to_host(means)
        return Readings({turn: logged[name] for turn, name in names.items()}, logged)

    def means(self) -> dict[str, float]:
        """Return the weighted mean loss of each turn without clearing the buffer."""
        return _to_host({turn: self._mean(pairs) for turn, pairs in self.losses.items()})

    def _mean(self, pairs: Pairs) -> Tensor:
        return _weighted_mean(pairs, self.skip_non_finite)

    def state_dict(self) -> dict[str, Any]:
        """Return the losses that are not read yet."""
        parts = {turn: {part: _plain(pairs) for part, pairs in parts.items()} for turn, parts in self.parts.items()}
        return {"losses": {turn: _plain(pairs) for turn, pairs in self.losses.items()}, "parts": parts}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restore the state that `state_dict` returned, on a device."""
        self.losses = {turn: _pairs(saved, device) for turn, saved in state["losses"].items()}
        self.parts = {
            turn: {part: _pairs(saved, device) for part, saved in parts.items()}
            for turn, parts in state["parts"].items()
        }


def _plain(pairs: Pairs) -> dict[str, list[float]]:
    totals = torch.stack([total for total, _ in pairs]).tolist()
    return {"totals": totals, "weights": [float(weight) for _, weight in pairs]}


def _pairs(saved: dict[str, list[float]], device: torch.device) -> Pairs:
    return list(zip(torch.tensor(saved["totals"], device=device).unbind(), saved["weights"], strict=True))


def _to_host(values: dict[str, Tensor]) -> dict[str, float]:
    numbers = torch.stack(list(values.values())).tolist() if values else []
    return dict(zip(values, numbers, strict=True))


def _weighted_mean(pairs: Pairs, skip_non_finite: bool) -> Tensor:
    totals = torch.stack([total for total, _ in pairs]).float()
    weights = [weight for _, weight in pairs]
    if any(isinstance(weight, Tensor) for weight in weights):
        counts = torch.stack([torch.as_tensor(w, dtype=torch.float32, device=totals.device) for w in weights])
    else:
        counts = torch.tensor(weights, dtype=torch.float32).to(totals.device, non_blocking=True)
    nothing = counts.sum() == 0  # a tensor, to avoid a synchronization; the mean is then 0 instead of 0 / 0
    if skip_non_finite:
        counts, totals = counts * totals.isfinite(), totals.nan_to_num(0.0, 0.0, 0.0)
    return (totals * counts).sum() / (counts.sum() + nothing)

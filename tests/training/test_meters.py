"""Logged losses, intervals and times."""

import time

import pytest
import torch

from dltrain.tasks.base import Loss
from dltrain.training.meters import LossBuffer, Timer
from dltrain.training.state import Trigger


def test_weights_may_be_numbers_and_tensors() -> None:
    buffer = LossBuffer()
    buffer.add("train", Loss(torch.tensor(1.0), torch.tensor(3)))
    buffer.add("train", Loss(torch.tensor(5.0), 1))
    assert buffer.read({}) == {"loss": 2.0}


def test_loss_parts_are_averaged_like_the_loss_and_turns_are_named() -> None:
    buffer = LossBuffer()
    buffer.add("critic", Loss(torch.tensor(1.0), 1, {"gap": torch.tensor(10.0)}))
    buffer.add("critic", Loss(torch.tensor(3.0), 3, {"gap": torch.tensor(30.0)}))
    buffer.add("generator", Loss(torch.tensor(7.0), 2))
    assert buffer.read({}) == {"loss_critic": 2.5, "gap": 25.0, "loss_generator": 7.0}


def test_reading_clears_the_buffer() -> None:
    buffer = LossBuffer()
    buffer.add("train", Loss(torch.tensor(1.0), 1))
    buffer.norms["train"] = torch.tensor(4.0)
    assert buffer.read({}) == {"loss": 1.0, "grad/norm": 4.0}
    assert buffer.read({}) == {}
    buffer.add("train", Loss(torch.tensor(2.0), 1))
    assert buffer.read({}) == {"loss": 2.0}


def test_additional_values_are_logged_unchanged() -> None:
    buffer = LossBuffer()
    buffer.add("train", Loss(torch.tensor(1.0), 4))
    assert buffer.read({"penalty": torch.tensor(0.5)}) == {"loss": 1.0, "penalty": 0.5}


def test_a_buffer_keeps_no_graph_alive_and_reads_half_precision() -> None:
    buffer, weight = LossBuffer(), torch.ones((), requires_grad=True)
    buffer.add("train", Loss((weight * 2).bfloat16(), 1, {"part": (weight * 3).half()}))
    assert all(not total.requires_grad for pairs in buffer.losses.values() for total, _ in pairs)
    assert buffer.read({}) == {"loss": 2.0, "part": 3.0}


@pytest.mark.parametrize(
    ("interval", "steps"),
    [
        ((3.0, "step"), [3, 6, 9, 12]),
        ((1.0, "epoch"), [5, 10]),
        ((2.0, "epoch"), [10]),
        ((1.0, "step"), [*range(1, 13)]),
    ],
)
def test_intervals_in_steps_and_epochs_depend_on_the_step_alone(interval: tuple[float, str], steps: list[int]) -> None:
    trigger = Trigger(interval, epoch_steps=5)
    assert [step for step in range(1, 13) if trigger.fires(step)] == steps
    assert trigger.fires(steps[0]), "a second call gives the same result"


class Clock:
    """A replacement for `time.perf_counter` that the tests advance."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for name in ("perf_counter", "monotonic"):
        monkeypatch.setattr(time, name, found)
    return found


def test_an_interval_in_minutes_fires_once_per_interval(clock: Clock) -> None:
    trigger = Trigger((2, "minute"), epoch_steps=5)
    clock.now += 119
    assert not trigger.fires(1)
    clock.now += 2
    assert trigger.fires(2)
    assert not trigger.fires(3)


def test_a_nested_pause_counts_once(clock: Clock) -> None:
    timer = Timer(clock())
    with timer.pause(), timer.pause():
        clock.now += 3
    assert timer.paused == 3


def test_the_time_before_training_is_not_training_time(clock: Clock) -> None:
    timer = Timer(clock())
    clock.now += 7
    with timer.pause():
        clock.now += 2
    timer.begin()
    clock.now += 1
    assert (timer.training_seconds(), timer.total_seconds()) == (1, 10)


def test_pauses_are_not_training_time_even_if_they_raise(clock: Clock) -> None:
    timer = Timer(clock())
    clock.now += 1
    with pytest.raises(KeyError), timer.pause():
        clock.now += 5
        raise KeyError
    assert (timer.paused, timer.training_seconds()) == (5, 1)

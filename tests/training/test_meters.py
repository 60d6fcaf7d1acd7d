"""Buffered losses, logging intervals and timers."""

import time

import pytest
import torch

from dltrain.tasks.base import Loss
from dltrain.training.checkpointing import check_losses
from dltrain.training.meters import LossBuffer, Timer
from dltrain.training.state import Trigger


def test_loss_weights_may_be_numbers_or_tensors() -> None:
    buffer = LossBuffer()
    buffer.add("train", Loss(torch.tensor(1.0), torch.tensor(3)))
    buffer.add("train", Loss(torch.tensor(5.0), 1))
    assert buffer.read({}).logged == {"loss": 2.0}


def test_losses_and_loss_parts_of_critic_and_generator_are_logged_as_weighted_means() -> None:
    buffer = LossBuffer()
    buffer.add("critic", Loss(torch.tensor(1.0), 1, {"gap": torch.tensor(10.0)}))
    buffer.add("critic", Loss(torch.tensor(3.0), 3, {"gap": torch.tensor(30.0)}))
    buffer.add("generator", Loss(torch.tensor(7.0), 2))
    assert buffer.read({}).logged == {"loss_critic": 2.5, "gap": 25.0, "loss_generator": 7.0}


def test_reading_the_loss_buffer_clears_it() -> None:
    buffer = LossBuffer()
    buffer.add("train", Loss(torch.tensor(1.0), 1))
    buffer.norms["train"] = torch.tensor(4.0)
    assert buffer.read({}).logged == {"loss": 1.0, "grad/norm": 4.0}
    assert buffer.read({}).logged == {}
    buffer.add("train", Loss(torch.tensor(2.0), 1))
    assert buffer.read({}).logged == {"loss": 2.0}


def test_additional_values_are_logged_unchanged() -> None:
    buffer = LossBuffer()
    buffer.add("train", Loss(torch.tensor(1.0), 4))
    assert buffer.read({"penalty": torch.tensor(0.5)}).logged == {"loss": 1.0, "penalty": 0.5}


def test_a_buffer_keeps_no_graph_alive_and_reads_half_precision() -> None:
    buffer, weight = LossBuffer(), torch.ones((), requires_grad=True)
    buffer.add("train", Loss((weight * 2).bfloat16(), 1, {"part": (weight * 3).half()}))
    assert all(not total.requires_grad for pairs in buffer.losses.values() for total, _ in pairs)
    assert buffer.read({}).logged == {"loss": 2.0, "part": 3.0}


@pytest.mark.parametrize(
    ("interval", "steps"),
    [
        ((3.0, "step"), [3, 6, 9, 12]),
        ((1.0, "epoch"), [5, 10]),
        ((2.0, "epoch"), [10]),
        ((1.0, "step"), [*range(1, 13)]),
    ],
)
def test_intervals_in_steps_and_epochs_depend_only_on_the_step(interval: tuple[float, str], steps: list[int]) -> None:
    trigger = Trigger(interval, epoch_steps=5)
    assert [step for step in range(1, 13) if trigger.fires(step)] == steps
    assert trigger.fires(steps[0]), "a second call must give the same result"


class Clock:
    """Replacement for `time.perf_counter` and `time.monotonic` that the tests advance."""

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
    timer.first_step = clock()
    clock.now += 1
    assert (timer.training_seconds(), timer.total_seconds(), timer.seconds_to_first_step()) == (1, 10, 9)


def test_pauses_are_not_training_time_even_if_they_raise(clock: Clock) -> None:
    timer = Timer(clock())
    clock.now += 1
    with pytest.raises(KeyError), timer.pause():
        clock.now += 5
        raise KeyError
    assert (timer.paused, timer.training_seconds()) == (5, 1)


def test_loss_parts_with_the_same_name_are_logged_separately_for_critic_and_generator() -> None:
    buffer = LossBuffer()
    buffer.add("critic", Loss(torch.tensor(1.0), 1, {"loss_of_pairs": torch.tensor(10.0), "gap": torch.tensor(3.0)}))
    buffer.add("generator", Loss(torch.tensor(2.0), 1, {"gap": torch.tensor(5.0)}))
    read = buffer.read({})
    assert read.losses == {"critic": 1.0, "generator": 2.0}
    assert read.logged == {
        **{"loss_critic": 1.0, "loss_generator": 2.0, "loss_of_pairs": 10.0},
        **{"gap_critic": 3.0, "gap_generator": 5.0},
    }


def test_a_non_finite_loss_part_does_not_count_as_divergence() -> None:
    buffer = LossBuffer()
    buffer.add("train", Loss(torch.tensor(1.0), 1, {"loss_of_empty_pairs": torch.tensor(float("nan"))}))
    check_losses(buffer.read({}).losses, 1)


@pytest.mark.parametrize("skip", [False, True])
def test_losses_of_weight_zero_are_excluded_from_logged_means(skip: bool) -> None:
    buffer = LossBuffer(skip_non_finite=skip)
    empty = Loss(torch.tensor(float("nan")), 0, {"part": torch.tensor(float("nan"))})
    buffer.add("train", empty)
    assert buffer.read({}) == ({}, {})
    for loss in (empty, Loss(torch.tensor(3.0), 2, {"part": torch.tensor(4.0)}), empty):
        buffer.add("train", loss)
    assert buffer.read({}).logged == {"loss": 3.0, "part": 4.0}
    # Tensors are not read, so a weight of 0 in a tensor is not recognized.
    buffer.add("train", Loss(torch.tensor(0.0), torch.tensor(0)))
    assert buffer.read({}).logged == {"loss": 0.0}


def test_buffered_losses_are_restored_from_a_checkpoint() -> None:
    buffer, other = LossBuffer(), LossBuffer()
    for number in range(3):
        buffer.add("critic", Loss(torch.tensor(float(number)), number + 1, {"gap": torch.tensor(number / 2)}))
    buffer.add("generator", Loss(torch.tensor(7.0), 2))
    other.load_state_dict(buffer.state_dict(), torch.device("cpu"))
    assert other.read({}) == buffer.read({})

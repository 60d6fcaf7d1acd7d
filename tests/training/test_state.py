"""What the loop remembers: losses, due dates, time."""

import time

import numpy as np
import pytest
import torch

from dltrain.tasks.base import Loss
from dltrain.training.state import Clock, Due, Record


def test_the_loss_that_is_read_back_is_the_exact_mean_over_examples() -> None:
    random, record = np.random.default_rng(0), Record()
    totals, weights = random.normal(size=9).astype(np.float32), [32] * 8 + [5]
    for total, weight in zip(totals, weights, strict=True):
        record.add("train", Loss(torch.tensor(total), weight))
    assert record.read({})["loss"] == pytest.approx(np.average(totals, weights=weights), rel=1e-6)


def test_weights_may_be_numbers_or_tensors_side_by_side() -> None:
    record = Record()
    record.add("train", Loss(torch.tensor(1.0), torch.tensor(3)))
    record.add("train", Loss(torch.tensor(5.0), 1))
    assert record.read({}) == {"loss": 2.0}


def test_parts_are_averaged_like_the_loss_and_turns_have_names() -> None:
    record = Record()
    record.add("critic", Loss(torch.tensor(1.0), 1, {"gap": torch.tensor(10.0)}))
    record.add("critic", Loss(torch.tensor(3.0), 3, {"gap": torch.tensor(30.0)}))
    record.add("generator", Loss(torch.tensor(7.0), 2))
    assert record.read({}) == {"loss_critic": 2.5, "gap": 25.0, "loss_generator": 7.0}


def test_reading_forgets_what_was_read() -> None:
    record = Record()
    record.add("train", Loss(torch.tensor(1.0), 1))
    record.norms["train"] = torch.tensor(4.0)
    assert record.read({}) == {"loss": 1.0, "grad/norm": 4.0}
    assert record.read({}) == {}
    record.add("train", Loss(torch.tensor(2.0), 1))
    assert record.read({}) == {"loss": 2.0}


def test_readings_are_passed_on_as_they_are_at_that_moment() -> None:
    record = Record()
    record.add("train", Loss(torch.tensor(1.0), 4))
    assert record.read({"penalty": torch.tensor(0.5)}) == {"loss": 1.0, "penalty": 0.5}


def test_a_record_keeps_no_graph_alive_and_reads_half_precision() -> None:
    record, weight = Record(), torch.ones((), requires_grad=True)
    record.add("train", Loss((weight * 2).bfloat16(), 1, {"part": (weight * 3).half()}))
    assert all(not total.requires_grad for pairs in record.losses.values() for total, _ in pairs)
    assert record.read({}) == {"loss": 2.0, "part": 3.0}


@pytest.mark.parametrize(
    ("span", "wanted"),
    [
        ((3.0, "step"), [3, 6, 9, 12]),
        ((1.0, "epoch"), [5, 10]),
        ((2.0, "epoch"), [10]),
        ((1.0, "step"), [*range(1, 13)]),
    ],
)
def test_spans_in_steps_and_epochs_fall_due_by_the_step_alone(span: tuple[float, str], wanted: list[int]) -> None:
    due = Due(span, steps_per_epoch=5)
    assert [step for step in range(1, 13) if due.at(step)] == wanted
    assert due.at(wanted[0]), "asked again it says the same"


def test_a_span_in_minutes_falls_due_by_the_clock_once_each_time() -> None:
    due = Due((0.3 / 60, "minute"), steps_per_epoch=5)
    assert not due.at(1)
    time.sleep(0.31)
    assert due.at(2)
    assert not due.at(3)


def test_a_pause_within_a_pause_counts_once() -> None:
    clock = Clock(time.perf_counter())
    begun = time.perf_counter()
    with clock.pause(), clock.pause():
        time.sleep(0.03)
    assert 0.03 <= clock.paused <= time.perf_counter() - begun


def test_the_time_before_training_begins_is_no_training_time() -> None:
    clock = Clock(time.perf_counter())
    with clock.pause():
        time.sleep(0.02)
    begun = time.perf_counter()
    clock.begin()
    assert 0 <= clock.training() <= time.perf_counter() - begun


def test_pauses_are_no_training_time_also_when_they_end_badly() -> None:
    begun = time.perf_counter()
    clock = Clock(begun)
    with pytest.raises(KeyError), clock.pause():
        time.sleep(0.05)
        raise KeyError
    assert clock.paused >= 0.05
    assert clock.training() <= time.perf_counter() - begun - 0.05

"""Which weights a run evaluates and keeps, and when early stopping ends the run."""

import functools
import gc
import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from small_loop import CLASSES, NEVER, Scripted, lines, make_loop, network, order, weights
from torch import nn
from torch.nn import functional as F

from dltrain.optim.schedules import Plateau
from dltrain.storage.checkpoints import Checkpoints
from dltrain.tasks.base import Batch, Loss
from dltrain.tasks.classification import Classification
from dltrain.training.checkpointing import Diverged
from dltrain.training.state import improves

NAN = math.nan


@pytest.mark.parametrize(
    ("values", "better", "expected"),
    [
        ([NAN, 3.0, 1.0, 2.0], "min", 3),
        ([3.0, 1.0, 2.0], "max", 1),
        ([2.0, 2.0, 2.0], "min", 1),
    ],
)
def test_the_weights_with_the_best_validation_metric_are_kept(
    values: list[float], better: Literal["min", "max"], expected: int, tmp_path: Path
) -> None:
    task, model = Scripted(values, better), network()
    loop = make_loop(tmp_path, task, model, eval_every=(2.0, "step"), epochs=None, max_steps=2 * len(values))
    loop.run()
    assert loop.state.best == values[expected - 1]
    assert loop.state.best_step == 2 * expected
    assert torch.equal(weights(model), task.evaluated[expected - 1])
    assert Checkpoints(tmp_path).read_entry("best.pt")["step"] == 2 * expected
    assert not any(task.modes), "weights are evaluated in eval mode"
    assert model.training


def test_if_the_metric_is_always_nan_the_last_weights_are_kept(tmp_path: Path) -> None:
    task, model = Scripted([NAN]), network()
    loop = make_loop(tmp_path, task, model, eval_every=(2.0, "step"))
    loop.run()
    assert loop.state.best is None
    assert not (tmp_path / "checkpoints" / "best.pt").exists()
    assert torch.equal(weights(model), task.evaluated[-1])


def test_without_validation_the_last_weights_are_kept_and_nothing_is_evaluated(tmp_path: Path) -> None:
    task, model = Scripted([1.0]), network()
    make_loop(tmp_path, task, model, val=False).run()
    assert task.evaluated == []
    assert lines(tmp_path, "val") == []
    saved = Checkpoints(tmp_path).load("last.pt")["model"]
    assert torch.equal(torch.cat([v.flatten() for v in saved.values()]), weights(model))


@pytest.mark.parametrize(
    ("value", "best", "better", "expected"),
    [
        (1.0, None, "min", True),
        (1.0, 1.0, "min", False),
        (0.9, 1.0, "min", True),
        (0.9, 1.0, "max", False),
        (1.1, 1.0, "max", True),
        (NAN, None, "max", False),
        (NAN, 1.0, "min", False),
        (math.inf, None, "max", False),
        (-math.inf, 0.0, "min", False),
    ],
)
def test_a_metric_improves_only_if_it_is_finite_and_better(
    value: float, best: float | None, better: str, expected: bool
) -> None:
    assert improves(value, best, better) == expected


@pytest.mark.parametrize(
    ("values", "patience", "evaluations", "best"),
    [
        ([3.0, 2.0, 2.5, 1.0, 1.5, 1.2, 1.1, 0.1], 3, 7, (1.0, 12)),
        ([1.0, NAN, NAN, 0.5], 2, 3, (1.0, 3)),  # NaN is not an improvement
    ],
)
def test_early_stopping_patience_counts_evaluations(
    values: list[float], patience: int, evaluations: int, best: tuple[float, int], tmp_path: Path
) -> None:
    every: Any = {"eval_every": (3.0, "step"), "epochs": 20}
    loop = make_loop(tmp_path, Scripted(values), early_stopping_patience=patience, **every)
    loop.run()
    assert [line["step"] for line in lines(tmp_path, "val")] == [3 * n for n in range(1, evaluations + 1)]
    assert loop.state.stopped_early and loop.state.step == 3 * evaluations
    assert (loop.state.best, loop.state.best_step) == best
    assert Checkpoints(tmp_path).read_entry("last.pt")["step"] == loop.state.step


def test_a_plateau_of_the_metric_lowers_the_learning_rate(tmp_path: Path) -> None:
    schedule = functools.partial(Plateau, factor=0.5, patience=1)
    make_loop(tmp_path, Scripted([1.0]), eval_every=(2.0, "step"), epochs=None, max_steps=9, schedule=schedule).run()
    # The first evaluation is the best. The next two do not improve the metric and exceed the patience of 1.
    assert [line["lr"] for line in lines(tmp_path, "train")] == pytest.approx([0.01] * 6 + [0.005] * 3)


def test_averaged_weights_are_evaluated_and_kept(tmp_path: Path) -> None:
    decay = 0.6
    task, model = Scripted([3.0, 2.0, 1.0, 2.0, 2.0]), network()
    loop = make_loop(tmp_path, task, model, average=decay, eval_every=(1.0, "step"), epochs=None, max_steps=5)
    loop.run()
    plain = network()
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-2, fused=True)
    averaged, averages = weights(plain), []
    for number, batch in enumerate(order(1)[:5]):
        optimizer.zero_grad()
        F.cross_entropy(plain(batch["inputs"]), batch["targets"]).backward()
        optimizer.step()
        keep = min(decay, (1 + number) / (10 + number))
        averaged = keep * averaged + (1 - keep) * weights(plain)
        averages.append(averaged)
    for evaluated, expected in zip(task.evaluated, averages, strict=True):
        torch.testing.assert_close(evaluated, expected)
    assert torch.equal(weights(loop.evaluator.model), task.evaluated[2])
    assert loop.evaluator.model is not model


class Poisoned(Classification):
    """A task whose loss is NaN from a given step on."""

    def __init__(self, step: int) -> None:
        super().__init__(CLASSES)
        self.step, self.taken = step, 0

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        self.taken += 1
        loss = super().loss(model, batch, progress)
        return loss._replace(total=loss.total * NAN) if self.taken >= self.step else loss


@pytest.mark.usefixtures("nothing_is_frozen")
def test_a_nan_loss_ends_the_run_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, Poisoned(6), eval_every=(2.0, "step"), log_every=NEVER)
    with pytest.raises(Diverged, match="nan by step 6"):
        loop.run()
    assert lines(tmp_path, "train")[-1]["non_finite"]["loss"] == "nan"
    loop.checkpointer.checkpoints.wait()  # best.pt is written in a thread
    best = Checkpoints(tmp_path).load("best.pt")["model"]
    assert all(value.isfinite().all() for value in best.values())
    assert gc.get_freeze_count() == 0


@pytest.mark.usefixtures("frozen_objects_are_counted")
def test_training_does_not_unfreeze_objects_frozen_by_the_caller(tmp_path: Path) -> None:
    gc.freeze()
    before = gc.get_freeze_count()
    make_loop(tmp_path, epochs=1).run()
    assert 0.99 * before < gc.get_freeze_count() <= before  # unreferenced frozen objects are freed

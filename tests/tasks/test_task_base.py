"""Defaults of `Task`: one stage (phase of training) with one turn (optimizer update) for all trainable parameters."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from dltrain.tasks.base import Batch, Evaluation, Loss, Task


class Sum(Task):
    metric: ClassVar[str] = "loss"
    better: ClassVar[Literal["min", "max"]] = "min"

    def facts(self) -> dict[str, Any]:
        return {}

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        return Loss(model(batch["inputs"]).sum() * progress, len(batch["inputs"]))

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        return Evaluation({"loss": 0.0})


def test_the_default_is_one_stage_with_one_turn_that_updates_all_parameters() -> None:
    model = nn.Linear(3, 2)
    (stage,) = Sum().stages(model)
    (turn,) = stage.turns
    assert (turn.name, turn.every, stage.epochs) == ("train", 1, None)
    assert {id(p) for p in turn.parameters} == {id(p) for p in model.parameters()}


def test_no_turn_updates_frozen_parameters() -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    (turn,) = Sum().stages(model)[0].turns
    assert [id(p) for p in turn.parameters] == [id(model.weight)]


def test_the_default_turn_uses_the_loss_of_the_task() -> None:
    model, batch = nn.Linear(3, 2), {"inputs": torch.ones(4, 3)}
    (turn,) = Sum().stages(model)[0].turns
    loss = turn.loss(batch, 0.5)
    assert loss.weight == 4
    assert torch.equal(loss.total, model(batch["inputs"]).sum() * 0.5)


def test_a_task_shows_nothing_by_default() -> None:
    assert Sum().show(nn.Linear(1, 1), Evaluation({})) == []

"""Stages and turns (updates of one optimizer within a step): parameters, order, data, schedules, metrics and logs."""

import functools
import io
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from small_loop import CLASSES, EPOCH, ROWS, SIZE, lines, make_loop, order, weights
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

from dltrain.data.spec import Source
from dltrain.loggers.console import Console
from dltrain.optim.schedules import Cosine
from dltrain.tasks.base import Batch, Evaluation, Goal, Loss, Stage, Task, Turn
from dltrain.tasks.classification import Classification
from dltrain.training.loop import Loop


class Players(nn.Module):
    """Model with a generator and a critic."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.generator = nn.Linear(SIZE, SIZE)
        self.critic = nn.Linear(SIZE, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.critic(self.generator(x))


class Duel(Task):
    """Task that trains a generator to copy its inputs and then to fool a critic; no output is detached."""

    metric: ClassVar[str] = "loss"
    better: ClassVar[Literal["min", "max"]] = "min"

    def __init__(self) -> None:
        self.seen: list[tuple[str, Tensor, Tensor]] = []

    def facts(self) -> dict[str, Any]:
        return {}

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        raise NotImplementedError

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Players)
        generator, critic = list(model.generator.parameters()), list(model.critic.parameters())

        def watched(name: str, formula: Callable[[Tensor], Tensor]) -> Callable[[Batch, float], Loss]:
            def loss(batch: Batch, progress: float) -> Loss:
                self.seen.append((name, weights(model.generator), weights(model.critic)))
                return Loss(formula(batch["inputs"]), len(batch["inputs"]))

            return loss

        def copy(x: Tensor) -> Tensor:
            return F.mse_loss(model.generator(x), x)

        def fool(x: Tensor) -> Tensor:
            return F.softplus(-model(x)).mean()

        def separate(x: Tensor) -> Tensor:
            return (F.softplus(model(x)) + F.softplus(-model.critic(x))).mean()

        return [
            Stage("copy", [Turn("train", generator, watched("copy", copy))], epochs=1),
            Stage(
                "duel",
                [
                    Turn("generator", generator, watched("generator", fool)),
                    Turn("critic", critic, watched("critic", separate), every=2),
                ],
            ),
        ]

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        return Evaluation({"loss": 0.0})


def duel(folder: Path, **given: Any) -> tuple[Duel, Players, Loop]:
    task, model = Duel(), Players()
    loop = make_loop(folder, task, model, functools.partial(torch.optim.SGD, lr=0.1), val=False, **given)
    return task, model, loop


def test_each_turn_updates_only_its_own_parameters(tmp_path: Path) -> None:
    task, model, loop = duel(tmp_path)
    loop.run()
    after = [*task.seen[1:], ("end", weights(model.generator), weights(model.critic))]
    for (name, *before), (_, *now) in zip(task.seen, after, strict=True):
        moved = [not torch.equal(b, n) for b, n in zip(before, now, strict=True)]
        assert moved == ([False, True] if name == "critic" else [True, False]), name
    assert all(p.grad is None for p in model.parameters())


def test_alternating_turns_equal_a_plain_pytorch_loop(tmp_path: Path) -> None:
    _, model, loop = duel(tmp_path)
    loop.run()
    plain = Players()
    generator, critic = (torch.optim.SGD(part.parameters(), lr=0.1, fused=True) for part in plain.children())

    def move(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        plain.zero_grad()
        loss.backward()
        optimizer.step()

    for batch in order(1):
        move(generator, F.mse_loss(plain.generator(batch["inputs"]), batch["inputs"]))
    for number, batch in enumerate(order(2, first=1), EPOCH + 1):
        x = batch["inputs"]
        move(generator, F.softplus(-plain(x)).mean())
        if number % 2 == 0:
            move(critic, (F.softplus(plain(x)) + F.softplus(-plain.critic(x))).mean())
    torch.testing.assert_close(weights(model), weights(plain), rtol=1e-6, atol=1e-7)


def test_schedules_start_over_in_every_stage(tmp_path: Path) -> None:
    duel(tmp_path, schedule=Cosine)[2].run()
    logged = [line.get("lr", line.get("lr_generator")) for line in lines(tmp_path, "train")]
    expected = []
    for steps in (EPOCH, 2 * EPOCH):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        schedule = CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            expected.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
    assert logged == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_each_turn_logs_its_own_loss(tmp_path: Path) -> None:
    duel(tmp_path)[2].run()
    logged = lines(tmp_path, "train")
    assert all("loss" in line for line in logged[:EPOCH])
    for number, line in enumerate(logged[EPOCH:], EPOCH + 1):
        assert "loss_generator" in line
        assert ("loss_critic" in line) == (number % 2 == 0)


class TwoStages(Classification):
    """Task with two stages; the first trains on unlabeled examples and has its own metric."""

    def __init__(self, distances: Sequence[float] = (1.0,)) -> None:
        super().__init__(CLASSES)
        self.values = itertools.chain(distances, itertools.repeat(distances[-1]))
        self.read: list[tuple[str, int]] = []

    def stages(self, model: nn.Module) -> list[Stage]:
        owned = list(model.parameters())

        def alone(batch: Batch, progress: float) -> Loss:
            assert "targets" not in batch
            self.read.append(("alone", len(batch["inputs"])))
            return Loss(model(batch["inputs"]).square().mean(), len(batch["inputs"]))

        def labeled(batch: Batch, progress: float) -> Loss:
            self.read.append(("labeled", len(batch["inputs"])))
            return self.loss(model, batch, progress)

        def far(model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
            return Evaluation({"distance": next(self.values)}, notes=["the distance was measured"])

        first = Stage("alone", [Turn("alone", owned, alone)], 2, "unlabeled", Goal("distance", "min", far))
        return [first, Stage("labeled", [Turn("train", owned, labeled)], 1)]


def unlabeled_source(examples: int) -> Source:
    return Source({"inputs": torch.randn(examples, SIZE)}, nn.Identity())


def test_a_stage_can_read_the_unlabeled_examples(tmp_path: Path) -> None:
    task = TwoStages()
    loop = make_loop(tmp_path, task, unlabeled=unlabeled_source(2 * ROWS))
    loop.run()
    alone = sum(size for name, size in task.read if name == "alone")
    labeled = sum(size for name, size in task.read if name == "labeled")
    assert (alone, labeled) == (2 * 2 * ROWS, ROWS)
    assert loop.state.step == loop.stages.steps
    assert lines(tmp_path, "train")[-1]["epoch"] == 3


def test_every_stage_monitors_its_own_metric_and_keeps_its_own_best_value(tmp_path: Path) -> None:
    stream = io.StringIO()
    task, unlabeled = TwoStages([3.0, math.nan]), unlabeled_source(ROWS)
    loop = make_loop(tmp_path, task, unlabeled=unlabeled, console=Console(stream))
    loop.run()
    watched = [sorted({"distance", "accuracy"} & line.keys()) for line in lines(tmp_path, "val")]
    assert watched == [["distance"], ["distance"], ["accuracy"]]
    assert loop.state.best == lines(tmp_path, "val")[-1]["accuracy"]
    assert "the distance was measured" in stream.getvalue()


def test_early_stopping_ends_only_the_current_stage(tmp_path: Path) -> None:
    task = TwoStages([1.0, 2.0, 3.0])
    make_loop(
        tmp_path, task, unlabeled=unlabeled_source(ROWS), early_stopping_patience=1, eval_every=(1.0, "step")
    ).run()
    names = [name for name, _ in task.read]
    assert names[:2] == ["alone"] * 2 and names[2] == "labeled"


def test_epochs_are_numbered_across_stages(tmp_path: Path) -> None:
    _, _, loop = duel(tmp_path)
    loop.run()
    assert [line["epoch"] for line in lines(tmp_path, "train")] == pytest.approx(
        [step / EPOCH for step in range(1, 3 * EPOCH + 1)]
    )
    assert loop.state.epoch == 2  # index of the last epoch


class InfiniteAtFirst(Classification):
    """Task with two stages, each with an infinite loss in its first step."""

    def stages(self, model: nn.Module) -> list[Stage]:
        def stage(name: str) -> Stage:
            factors = itertools.chain([math.inf], itertools.repeat(1.0))

            def loss(batch: Batch, progress: float) -> Loss:
                found = self.loss(model, batch, progress)
                return Loss(found.total * next(factors), found.weight)

            return Stage(name, [Turn("train", list(model.parameters()), loss)], epochs=1)

        return [stage("first"), stage("second")]


def test_skipped_steps_are_counted_over_all_stages_and_after_a_resume(tmp_path: Path) -> None:
    given: dict[str, Any] = {"precision": "fp16", "on_non_finite": "skip", "val": False}
    loop = make_loop(tmp_path / "whole", InfiniteAtFirst(CLASSES), **given)
    loop.run()
    logged = [line["skipped_steps"] for line in lines(tmp_path / "whole", "train")]
    assert loop.runner.skipped_steps == logged[EPOCH - 1] + logged[-1] and min(logged) >= 1
    resumed = make_loop(tmp_path / "resumed", InfiniteAtFirst(CLASSES), **given)
    resumed.load_state_dict(loop.checkpointer.checkpoints.load("last.pt"), {})
    assert resumed.runner.skipped_steps == loop.runner.skipped_steps

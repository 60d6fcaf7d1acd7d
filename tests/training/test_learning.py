"""Stages that freeze parameters: gradients, training and evaluation mode of modules, and running statistics."""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import CLASSES, SIZE, make_loop
from torch import Tensor, nn

from dltrain.tasks.base import Batch, Evaluation, Loss, Stage, Turn
from dltrain.tasks.classification import Classification
from dltrain.training import nan_trace
from dltrain.training.learning import set_learning, train_mode


class Network(nn.Module):
    """A body with batch norm and dropout, another dropout, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(SIZE, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.body(x)))


class HeadFirst(Classification):
    """Task that trains the head for one epoch and then all layers; records modes and `requires_grad` at each step."""

    def __init__(self) -> None:
        super().__init__(CLASSES)
        self.seen: list[tuple[str, list[bool], list[bool]]] = []

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Network)

        def stage(name: str, owned: Iterable[nn.Parameter], epochs: int | None) -> Stage:
            def loss(batch: Batch, progress: float) -> Loss:
                modes = [module.training for module in (*model.body, model.drop, model.head)]
                self.seen.append((name, modes, [p.requires_grad for p in model.parameters()]))
                return self.loss(model, batch, progress)

            return Stage(name, [Turn("train", list(owned), loss)], epochs)

        return [stage("head", model.head.parameters(), 1), stage("all", model.parameters(), None)]


def state(model: nn.Module, prefix: str = "") -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in model.state_dict().items() if k.startswith(prefix)}


class Watched(HeadFirst):
    """Task that records the state of the body at every evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[dict[str, bytes]] = []

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        self.bodies.append(state(model, "body"))
        return super().evaluate(model, batches)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_modules_without_trained_parameters_keep_their_weights_and_running_statistics(
    average: float, tmp_path: Path
) -> None:
    task, model = Watched(), Network()
    before = state(model, "body")
    loop = make_loop(tmp_path, task, model, epochs=2, average=average, eval_every=(3.0, "step"))
    loop.run()
    first = [body for body, (name, _, _) in zip(task.bodies, task.seen[2::3], strict=False) if name == "head"]
    assert len(first) >= 2 and all(body == before for body in first)
    after = state(loop.evaluator.model, "body")
    assert all(after[name] != before[name] for name in before), (
        "the second stage must change the weights and running statistics of the body"
    )


def test_frozen_modules_stay_in_evaluation_mode_after_an_evaluation(tmp_path: Path) -> None:
    task = HeadFirst()
    make_loop(tmp_path, task, Network(), eval_every=(1.0, "step")).run()
    for name, modes, learns in task.seen:
        body = [True] * 4 if name == "all" else [False] * 4
        assert modes == [*body, True, True]
        assert learns == [*body, True, True]
    assert {name for name, _, _ in task.seen} == {"head", "all"}


def test_train_mode_keeps_frozen_modules_in_evaluation_mode() -> None:
    model = Network()
    model.body[0].requires_grad_(False)  # the batch norm of the body remains trainable
    model.eval()
    train_mode(model)
    assert [m.training for m in (model.body, *model.body)] == [True, False, True, True, True]
    model.requires_grad_(True)
    train_mode(model)
    assert all(module.training for module in model.modules())


def test_only_parameters_owned_by_a_turn_require_gradients() -> None:
    model = Network()
    model.body.requires_grad_(False)
    first, norm, *_ = (list(module.parameters()) for module in model.body)
    turns = [Turn(name, owned, lambda b, p: Loss(torch.ones(()), 1)) for name, owned in (("a", first), ("b", norm))]
    set_learning(model, Stage("body", turns))
    assert [p.requires_grad for p in model.parameters()] == [True] * 4 + [False] * 2


class Breaks(HeadFirst):
    """Task whose loss is infinite from the second step of the second stage on."""

    def stages(self, model: nn.Module) -> list[Stage]:
        head, whole = super().stages(model)

        def broken(loss: Callable[[Batch, float], Loss]) -> Callable[[Batch, float], Loss]:
            def infinite(batch: Batch, progress: float) -> Loss:
                found = loss(batch, progress)
                late = sum(name == "all" for name, _, _ in self.seen) > 1
                return found._replace(total=found.total * float("inf")) if late else found

            return infinite

        whole.turns[0].loss = broken(whole.turns[0].loss)
        return [head, whole]


def test_tracing_a_divergence_repeats_several_stages(tmp_path: Path) -> None:
    task: Any = Breaks()
    make = functools.partial(torch.optim.SGD, lr=1e-3)
    report = nan_trace.trace(make_loop(tmp_path, task, Network(), make), until=16)
    assert report is not None
    assert (report["step"], report["epoch"], report["batch"], report["repeated_from"]) == (10, 1, 1, 0)

"""Supervised tasks: losses of the outputs and of auxiliary heads."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.tasks.classification import Classification
from dltrain.tasks.regression import Regression
from dltrain.tasks.supervised import Supervised
from tests.tasks.task_examples import evaluate, normal
from tests.training.small_loop import lines, make_loop

CLASSES = 3


class WithHeads(nn.Module):
    """Network that also returns the outputs of two auxiliary heads in training mode."""

    def __init__(self, outputs: int = CLASSES) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(5, 8), nn.Linear(8, outputs)
        self.low, self.high = nn.Linear(5, outputs), nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, dict[str, tuple[float, Tensor]]]:
        hidden = self.body(x).tanh()
        outputs = self.head(hidden)
        return (outputs, {"low": (0.3, self.low(x)), "high": (0.5, self.high(hidden))}) if self.training else outputs


@pytest.mark.parametrize(
    ("task", "targets", "loss_function"),
    [
        (Classification(CLASSES), torch.tensor([0, 2, 1, 1, 0, 2, 2]), F.cross_entropy),
        (Regression(CLASSES), normal(7, CLASSES, seed=1), F.mse_loss),
    ],
)
def test_losses_of_auxiliary_heads_are_weighted_added_and_named(
    task: Supervised, targets: Tensor, loss_function: Callable[[Tensor, Tensor], Tensor]
) -> None:
    model, inputs = WithHeads(), normal(7, 5)
    loss = task.loss(model, {"inputs": inputs, "targets": targets}, 0.0)
    outputs, heads = model(inputs)
    low, high = loss_function(heads["low"][1], targets), loss_function(heads["high"][1], targets)
    torch.testing.assert_close(loss.total, loss_function(outputs, targets) + 0.3 * low + 0.5 * high)
    assert loss.weight == 7
    torch.testing.assert_close(loss.parts, {"low": low, "high": high})


def test_evaluation_ignores_auxiliary_heads() -> None:
    model, inputs, targets = WithHeads().eval(), normal(7, 5), torch.tensor([0, 2, 1, 1, 0, 2, 2])
    metrics = evaluate(Classification(CLASSES), model, inputs, targets=targets).metrics
    assert metrics["loss"] == pytest.approx(F.cross_entropy(model(inputs), targets).item())


def test_auxiliary_heads_are_trained_and_logged(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, model=WithHeads(), epochs=4)
    loop.run()
    logged = lines(tmp_path, "train")
    assert {"loss", "low", "high"} <= set(logged[0])
    assert logged[-1]["low"] < logged[0]["low"]

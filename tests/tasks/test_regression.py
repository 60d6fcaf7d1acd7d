"""Regression, compared with scikit-learn and torchmetrics in data units."""

import pytest
import torch
from sklearn.metrics import mean_absolute_error, root_mean_squared_error
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, MeanSquaredError

from dltrain.errors import ConfigError
from dltrain.tasks.regression import Regression

SIZES = [8, 8, 5]
TARGETS = 3


def random_values(seed: int) -> Tensor:
    return torch.randn(sum(SIZES), TARGETS, generator=torch.Generator().manual_seed(seed))


def batches(predicted: Tensor, targets: Tensor, **more: Tensor) -> list[dict[str, Tensor]]:
    whole = {"inputs": predicted, "targets": targets, **more}
    parts = zip(*(value.split(SIZES) for value in whole.values()), strict=True)
    return [dict(zip(whole, values, strict=True)) for values in parts]


def test_metrics_over_batches_of_different_sizes_equal_scikit_learn_and_torchmetrics() -> None:
    predicted, targets = random_values(0), random_values(1)
    metrics = Regression(TARGETS).evaluate(nn.Identity(), batches(predicted, targets)).metrics
    outputs, truth = predicted.flatten().numpy(), targets.flatten().numpy()
    assert metrics["mae"] == pytest.approx(mean_absolute_error(truth, outputs), rel=1e-6)
    assert metrics["rmse"] == pytest.approx(root_mean_squared_error(truth, outputs), rel=1e-6)
    mae, mse = MeanAbsoluteError(), MeanSquaredError()
    for batch in batches(predicted, targets):
        mae.update(batch["inputs"], batch["targets"])
        mse.update(batch["inputs"], batch["targets"])
    assert metrics["mae"] == pytest.approx(mae.compute().item(), rel=1e-6)
    assert metrics["rmse"] == pytest.approx(mse.compute().item() ** 0.5, rel=1e-6)
    assert metrics["loss"] == pytest.approx(mse.compute().item(), rel=1e-6)


def test_metrics_are_in_data_units_and_the_loss_is_normalized() -> None:
    predicted, targets = random_values(0), random_values(1)
    scale, shift = torch.full((sum(SIZES), 1), 20.0), torch.full((sum(SIZES), 1), 300.0)
    metrics = Regression(TARGETS).evaluate(nn.Identity(), batches(predicted, targets, scale=scale, shift=shift)).metrics
    outputs, truth = (predicted * 20 + 300).flatten().numpy(), (targets * 20 + 300).flatten().numpy()
    assert metrics["mae"] == pytest.approx(mean_absolute_error(truth, outputs), rel=1e-5)
    assert metrics["rmse"] == pytest.approx(root_mean_squared_error(truth, outputs), rel=1e-5)
    assert metrics["loss"] == pytest.approx(F.mse_loss(predicted, targets).item(), rel=1e-6)


def test_metrics_and_predictions_of_large_numbers_are_precise() -> None:
    predicted, targets = random_values(0), random_values(1)
    ones = torch.ones(sum(SIZES), 1)
    units = {"scale": 10 * ones, "shift": 2e9 * ones, "shift_rest": 0.123 * ones}
    whole = batches(predicted, targets, **units)
    metrics = Regression(TARGETS).evaluate(nn.Identity(), whole).metrics
    assert metrics["mae"] == pytest.approx(10 * (predicted - targets).abs().double().mean().item(), rel=1e-6)
    lines = Regression(TARGETS).predict(nn.Identity(), {"inputs": predicted, **units})
    expected = 10 * predicted.double() + 2e9 + 0.123
    assert (torch.tensor([list(line.values()) for line in lines], dtype=torch.float64) - expected).abs().max() < 1e-6


def test_regression_uses_the_numeric_values_of_targets_that_are_also_classes() -> None:
    predicted, values, classes = random_values(0), random_values(1), torch.zeros(sum(SIZES), dtype=torch.int64)
    task = Regression(TARGETS)
    metrics = task.evaluate(nn.Identity(), batches(predicted, classes, values=values)).metrics
    assert metrics["mae"] == pytest.approx((predicted - values).abs().mean().item(), rel=1e-6)
    loss = task.loss(nn.Identity(), {"inputs": predicted, "targets": classes, "values": values}, 0.0)
    assert torch.equal(loss.total, F.mse_loss(predicted, values))


@pytest.mark.parametrize(
    ("name", "peer"), [("mse", nn.MSELoss()), ("l1", nn.L1Loss()), ("huber", nn.HuberLoss(delta=1.0))]
)
def test_every_regression_loss_equals_torch(name: str, peer: nn.Module) -> None:
    predicted, targets = 3 * random_values(0), random_values(1)
    loss = Regression(TARGETS, loss_name=name).loss(nn.Identity(), {"inputs": predicted, "targets": targets}, 0.0)
    torch.testing.assert_close(loss.total, peer(predicted, targets))
    assert loss.weight == sum(SIZES)


def test_an_unknown_loss_is_rejected_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"task\.loss_name.*Did you mean huber"):
        Regression(TARGETS, loss_name="hubber")


def test_a_target_with_the_name_of_a_prediction_field_is_rejected() -> None:
    for name in ("input", "line"):
        with pytest.raises(ConfigError, match=rf"data.column: expected a name other than input, line, got {name}"):
            Regression(1, [name])
    assert Regression(2, ["time", "class"]).target_names == ["time", "class"]

"""Linear forecasters, compared with the formulas of Zeng et al. 2023."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dltrain.errors import ConfigError
from dltrain.models.linear_forecasters import DLinear, NLinear


def randomized(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def projected(windows: np.ndarray, weight: torch.Tensor, bias: torch.Tensor) -> np.ndarray:
    """Apply the linear layers to the columns of one window (length, columns) -> (horizon, columns)."""
    weights, biases = weight.detach().double().numpy(), bias.detach().double().numpy()[:, 0]
    columns = [
        weights[number % len(weights)] @ windows[:, number] + biases[number % len(biases)]
        for number in range(windows.shape[1])
    ]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("individual", [False, True])
def test_dlinear_equals_the_formula_of_the_paper(individual: bool) -> None:
    model = randomized(DLinear(10, 3, 4, 12, kernel_size=5, individual=individual))
    x = torch.randn(2, 10, 3)
    for window, forecast in zip(x.double().numpy(), model(x).detach().numpy(), strict=True):
        padded = np.concatenate([window[:1], window[:1], window, window[-1:], window[-1:]])
        trend = np.stack([padded[step : step + 5].mean(0) for step in range(10)])
        expected = projected(trend, model.trend.weight, model.trend.bias)
        expected += projected(window - trend, model.rest.weight, model.rest.bias)
        np.testing.assert_allclose(forecast.reshape(4, 3), expected, atol=1e-5)


@pytest.mark.parametrize("individual", [False, True])
def test_nlinear_equals_the_formula_of_the_paper(individual: bool) -> None:
    model = randomized(NLinear(10, 3, 4, 12, individual))
    x = torch.randn(2, 10, 3)
    for window, forecast in zip(x.double().numpy(), model(x).detach().numpy(), strict=True):
        expected = projected(window - window[-1], model.layer.weight, model.layer.bias) + window[-1]
        np.testing.assert_allclose(forecast.reshape(4, 3), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kernel_size": 4}, r"model\.kernel_size: expected an odd number, got 4"),
        (
            {"outputs": 11},
            r"model\.outputs: expected a multiple of 12, the horizon times the number of columns, got 11",
        ),
        ({"horizon": 0}, r"model\.horizon"),
    ],
)
def test_the_error_for_a_wrong_argument_of_dlinear_names_its_key(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DLinear(**{"length": 10, "columns": 3, "horizon": 4, "outputs": 12, **wrong})

"""Forecasts that are quantiles or normal distributions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import mean_pinball_loss
from torch import Tensor, nn

from dltrain.config import compose
from dltrain.data.loader import Batches
from dltrain.datasets.time_series import TimeSeries
from dltrain.errors import ConfigError
from dltrain.models.linear_forecasters import DLinear, NLinear
from dltrain.runs import assemble
from dltrain.tasks.base import Evaluation
from dltrain.tasks.forecast_outputs import Gaussian, Quantiles
from dltrain.tasks.forecasting import Forecasting

WINDOW, HORIZON, COLUMNS = 8, 3, 2
MODELS = ("perceptron", "mlp", "rnn", "lstm", "gru", "transformer", "dlinear", "nlinear")
LEVELS = [0.05, 0.5, 0.75, 0.95]


class Fixed(nn.Module):
    """Model that repeats the last value plus an offset for each output."""

    def __init__(self, offsets: list[float]) -> None:
        super().__init__()
        self.offsets = torch.tensor(offsets)

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, -1:, :, None] + self.offsets).expand(-1, HORIZON, -1, -1).flatten(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TimeSeries:
    """Return a data set of two random walks of different scales."""
    values = np.random.default_rng(0).normal(size=(300, COLUMNS)).cumsum(axis=0) * [1, 50]
    path = tmp_path_factory.mktemp("walks") / "a.csv"
    path.write_text("a,b\n" + "".join(f"{a:.4f},{b:.4f}\n" for a, b in values))
    return TimeSeries(path=str(path), window=WINDOW, horizon=HORIZON, season=1, normalize="train")


def evaluate(data: TimeSeries, task: Forecasting, offsets: list[float]) -> tuple[Evaluation, np.ndarray, np.ndarray]:
    """Return the evaluation, and each window's last values (windows, 1, columns) and targets in data units."""
    splits = data.load()
    task.fit_baselines(Batches(splits.train, 50, training=True), Batches(splits.val, 50))
    batch = next(iter(Batches(splits.test, len(splits.test))))
    moved = [
        (batch[name].double() * batch["scale"] + batch["shift"] + batch["shift_rest"]).numpy()
        for name in ("inputs", "targets")
    ]
    return task.evaluate(Fixed(offsets), Batches(splits.test, 7)), moved[0][:, -1:], moved[1]


def test_pinball_loss_and_coverage_of_quantiles_are_in_the_units_of_the_data(data: TimeSeries) -> None:
    task = Forecasting(HORIZON, COLUMNS, output="quantile", quantiles=LEVELS)
    offsets = [-0.2, 0.05, 0.1, 0.3]
    found, last, targets = evaluate(data, task, [offsets[n] for n in (1, 0, 3, 2)])  # crossing quantiles are sorted
    scale = data.scales["scale"][0, :, 0].numpy()
    quantiles = [np.broadcast_to(last + offset * scale, targets.shape) for offset in offsets]
    losses = [mean_pinball_loss(targets.ravel(), q.ravel(), alpha=a) for q, a in zip(quantiles, LEVELS, strict=True)]
    assert found.metrics["pinball"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert found.metrics["mae"] == pytest.approx(np.abs(targets - quantiles[1]).mean(), rel=1e-4)
    inside = (quantiles[0] <= targets) & (targets <= quantiles[-1])
    assert found.metrics["coverage_90"] == pytest.approx(inside.mean(), abs=1e-6)
    repeated = [
        mean_pinball_loss(targets.ravel(), np.broadcast_to(last, targets.shape).ravel(), alpha=a) for a in LEVELS
    ]
    assert found.baselines["repeat last"]["pinball"] == pytest.approx(np.mean(repeated), rel=1e-4)
    assert "coverage_90" not in found.baselines["repeat last"]
    assert task.metric == "pinball"


def test_crps_and_coverage_of_a_normal_distribution_are_in_the_units_of_the_data(data: TimeSeries) -> None:
    task = Forecasting(HORIZON, COLUMNS, output="gaussian", quantiles=[0.1, 0.5, 0.9])
    found, last, targets = evaluate(data, task, [0.1, 0.0])
    scale = data.scales["scale"][0, :, 0].numpy()
    mean, deviation = last + 0.05 * scale, (np.log1p(np.exp(-0.1)) + 1e-3) * scale
    z = (targets - mean) / deviation
    crps = deviation * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - np.pi**-0.5)
    assert found.metrics["crps"] == pytest.approx(crps.mean(), rel=1e-4)
    assert found.metrics["loss"] == pytest.approx(
        -stats.norm.logpdf(z, 0, 1).mean() + np.log(deviation / scale).mean(), rel=1e-4
    )
    assert found.metrics["coverage_80"] == pytest.approx((np.abs(z) <= stats.norm.ppf(0.9)).mean(), abs=1e-6)
    assert found.baselines["repeat last"]["crps"] == pytest.approx(found.baselines["repeat last"]["mae"], rel=1e-6)
    assert task.metric == "crps"


@pytest.mark.parametrize("output", ["quantile", "gaussian"])
def test_ridge_regression_predicts_normal_distributions_with_the_deviation_of_its_validation_errors(
    data: TimeSeries, output: str
) -> None:
    task = Forecasting(HORIZON, COLUMNS, output=output)
    found, _, _ = evaluate(data, task, [0.0] * (3 if output == "quantile" else 2))
    assert task.ridge is not None
    splits = data.load()
    val, test = (next(iter(Batches(part, len(part)))) for part in (splits.val, splits.test))
    error = task.ridge(val["inputs"]).view_as(val["targets"]) - val["targets"].double()
    np.testing.assert_allclose(task.ridge.deviation, error.flatten(1).square().mean(0).sqrt(), rtol=1e-6)
    mean = task.ridge(test["inputs"]).view_as(test["targets"]).numpy()
    bound = stats.norm.ppf(0.9) * task.ridge.deviation.view(1, HORIZON, COLUMNS).numpy()
    inside = np.abs(test["targets"].numpy() - mean) <= bound
    assert found.baselines["ridge regression"]["coverage_80"] == pytest.approx(inside.mean(), abs=1e-6)


@pytest.mark.parametrize("kind", [Quantiles, Gaussian])
def test_outputs_made_from_a_normal_distribution_have_its_quantiles(kind: type[Quantiles | Gaussian]) -> None:
    output = kind([0.1, 0.5, 0.9])
    mean, deviation = torch.tensor([[[1.0, -3.0]]]), torch.tensor([[[0.05, 40.0]]])
    found = output.quantiles(output.of_normal(mean, deviation))
    expected = stats.norm.ppf([0.1, 0.5, 0.9], mean[..., None], deviation[..., None])
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_each_loss_is_lowest_for_the_distribution_of_the_targets() -> None:
    targets = 2 + 3 * torch.randn(501, 1, 1, generator=torch.Generator().manual_seed(0))
    normal, quantiles = Gaussian([0.1, 0.5, 0.9]), Quantiles([0.1, 0.5, 0.9])
    mean, deviation = targets.mean().view(1, 1, 1), targets.std(correction=0).view(1, 1, 1)
    best = [
        (normal, normal.of_normal(mean, deviation)),
        (quantiles, targets.flatten().quantile(torch.tensor([0.1, 0.5, 0.9])).view(1, 1, 1, 3)),
    ]
    for output, levels in best:
        lowest = output.loss(levels.expand(501, -1, -1, -1), targets)
        for change in (*torch.eye(output.parts), *-torch.eye(output.parts)):
            assert output.loss((levels + 0.2 * change).expand(501, -1, -1, -1), targets) > lowest


@pytest.mark.parametrize("model", [DLinear, NLinear])
@pytest.mark.parametrize("individual", [False, True])
def test_linear_forecasters_order_their_outputs_by_step_then_column_then_part_of_the_distribution(
    model: Any, individual: bool
) -> None:
    torch.manual_seed(0)
    whole = model(WINDOW, COLUMNS, HORIZON, HORIZON * COLUMNS * 2, individual=individual).eval()
    x = torch.randn(4, WINDOW, COLUMNS)
    found = whole(x).view(4, HORIZON, COLUMNS, 2)
    for level in range(2):
        one = model(WINDOW, COLUMNS, HORIZON, HORIZON * COLUMNS, individual=individual).eval()
        one.load_state_dict(
            {
                name: value.unflatten(1 if name.endswith("weight") else 2, (HORIZON, 2)).select(
                    2 if name.endswith("weight") else 3, level
                )
                for name, value in whole.state_dict().items()
            }
        )
        torch.testing.assert_close(found[..., level], one(x).view(4, HORIZON, COLUMNS))


CASES = [("mlp", "quantile"), ("lstm", "gaussian"), ("nlinear", "quantile")]
MORE = [(model, output) for model in MODELS for output in ("quantile", "gaussian") if (model, output) not in CASES]


@pytest.mark.parametrize(
    ("model", "output"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)], ids=str
)
def test_forecasting_models_have_outputs_for_distributions(model: str, output: str, tmp_path: Path) -> None:
    keys = [f"model={model}", f"task.output={output}", "data.series=sunspots", "data.window=8", "data.horizon=2"]
    components = assemble.build_components(compose.compose([*keys, "device=cpu"]))
    batch = next(iter(Batches(components.data.load().test, 5)))
    lines = components.task.predict(components.model.eval(), batch)
    assert [set(line) for line in lines] == [{"step", "sunspots", "sunspots 0.1", "sunspots 0.9"}] * 10
    assert all(line["sunspots 0.1"] <= line["sunspots"] <= line["sunspots 0.9"] for line in lines)
    loss = components.task.loss(components.model, batch, 0.0).total
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize("quantiles", [[0.9, 0.5, 0.1], [0.5], [0.1, 0.9], [0.0, 0.5, 0.9], [0.5, 0.5, 0.9]])
def test_invalid_quantiles_are_rejected(quantiles: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"^task\.quantiles: expected ascending numbers between 0 and 1, with 0\.5"):
        Forecasting(HORIZON, COLUMNS, output="quantile", quantiles=quantiles)

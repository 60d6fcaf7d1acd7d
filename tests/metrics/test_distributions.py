"""Scores of predicted distributions, compared with scikit-learn, scipy and numeric integration."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from sklearn.metrics import mean_pinball_loss

from dltrain.metrics.distributions import normal_crps, normal_nll, normal_quantiles, pinball

CASES = [(0.0, 1.0, 0.3), (2.0, 0.1, 2.5), (-1.0, 3.0, -9.0), (5.0, 0.5, 5.0)]


def test_the_pinball_loss_equals_scikit_learn() -> None:
    random = np.random.default_rng(0)
    targets, forecasts, levels = random.normal(size=50), random.normal(size=(50, 3)), [0.05, 0.5, 0.9]
    found = pinball(torch.tensor(forecasts), torch.tensor(targets), levels).mean(0)
    expected = [mean_pinball_loss(targets, forecasts[:, n], alpha=level) for n, level in enumerate(levels)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(("mean", "deviation", "target"), CASES)
def test_the_crps_of_a_normal_distribution_equals_its_defining_integral(
    mean: float, deviation: float, target: float
) -> None:
    def integrand(x: float) -> float:
        return (stats.norm.cdf(x, mean, deviation) - (x >= target)) ** 2

    ends = [min(mean - 12 * deviation, target - 1), target, max(mean + 12 * deviation, target + 1)]
    expected = sum(integrate.quad(integrand, low, high, limit=200)[0] for low, high in pairwise(ends))
    values = (torch.tensor(value, dtype=torch.double) for value in (mean, deviation, target))
    assert float(normal_crps(*values)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("mean", "deviation", "target"), CASES)
def test_the_likelihood_and_quantiles_of_a_normal_distribution_equal_scipy(
    mean: float, deviation: float, target: float
) -> None:
    values = [torch.tensor(value, dtype=torch.double) for value in (mean, deviation, target)]
    assert float(normal_nll(*values)) == pytest.approx(-stats.norm.logpdf(target, mean, deviation), rel=1e-9)
    levels = torch.tensor([0.025, 0.5, 0.9], dtype=torch.double)
    expected = stats.norm.ppf(levels, mean, deviation)
    np.testing.assert_allclose(normal_quantiles(values[0], values[1], levels), expected, rtol=1e-9)

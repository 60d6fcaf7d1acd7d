"""Scores of generated examples, compared with other libraries, closed forms and brute force."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn

from dltrain.metrics import generative
from dltrain.metrics.sample_quality import Quality


def random_features(count: int, size: int, seed: int) -> Tensor:
    """Return correlated features (count, size)."""
    noise = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, size, generator=noise) @ torch.randn(size, size, generator=noise)
    return mixed + torch.randn(size, generator=noise)


def by_matrix_root(real: Tensor, fake: Tensor) -> float:
    """Return the Fréchet distance, computed with the matrix square root of SciPy."""
    one, other = real.double().numpy(), fake.double().numpy()
    first, second = np.cov(one.T), np.cov(other.T)
    mean_distance = ((one.mean(0) - other.mean(0)) ** 2).sum()
    return float(mean_distance + np.trace(first + second - 2 * sqrtm(first @ second).real))


@pytest.mark.parametrize(("real", "fake", "size"), [(500, 300, 20), (60, 4000, 84), (40, 50, 2), (25, 25, 24)])
def test_the_frechet_distance_equals_the_formula_with_a_matrix_square_root(real: int, fake: int, size: int) -> None:
    one, other = random_features(real, size, 0), random_features(fake, size, 1)
    assert generative.frechet(one, other) == pytest.approx(by_matrix_root(one, other), rel=1e-6)


def test_the_frechet_distance_equals_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Flat(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1).double()

    metric = FrechetInceptionDistance(feature=Flat(), normalize=True, input_img_size=(1, 4, 4)).set_dtype(torch.double)
    noise = torch.Generator().manual_seed(0)
    real = torch.rand(200, 1, 4, 4, generator=noise)
    fake = torch.rand(150, 1, 4, 4, generator=noise) ** 2
    metric.update(real, real=True)
    metric.update(fake, real=False)
    assert generative.frechet(real.flatten(1), fake.flatten(1)) == pytest.approx(float(metric.compute()), rel=1e-6)


def test_the_frechet_distance_of_two_gaussians_equals_the_closed_form() -> None:
    """Use diagonal covariances: the distance is the sum of squared differences of means and standard deviations."""
    noise = torch.Generator().manual_seed(0)
    mean, deviation = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.5, 2.0, 1.0])
    real = torch.randn(200_000, 3, generator=noise)
    fake = mean + deviation * torch.randn(200_000, 3, generator=noise)
    exact = float(mean.square().sum() + (deviation - 1).square().sum())
    assert generative.frechet(real, fake) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("count", [1, 2, 10, 100])
def test_the_frechet_distance_is_symmetric_and_exact_for_a_shift_with_few_and_many_examples(count: int) -> None:
    real, fake = random_features(count, 64, 0), random_features(count, 64, 1)
    assert generative.frechet(real, real) == pytest.approx(0, abs=1e-6)
    assert generative.frechet(real, fake) == pytest.approx(generative.frechet(fake, real), rel=1e-9)
    assert generative.frechet(real, real + 3) == pytest.approx(64 * 9, rel=1e-5)
    assert generative.frechet(1e4 + 1e-3 * real, 1e4 + 1e-3 * real) >= 0


def test_the_frechet_distance_of_non_finite_features_is_nan() -> None:
    broken = torch.ones(5, 3)
    broken[2, 1] = math.nan
    assert math.isnan(generative.frechet(torch.rand(5, 3), broken))


@pytest.mark.filterwarnings("ignore")
def test_the_classifier_score_equals_torchmetrics() -> None:
    from torchmetrics.image.inception import InceptionScore

    class Flat(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)

    metric = InceptionScore(feature=Flat(), splits=1)
    logits = 3 * torch.randn(300, 10, 1, 1, generator=torch.Generator().manual_seed(0))
    metric.update(logits)
    assert generative.classifier_score(logits) == pytest.approx(float(metric.compute()[0]), rel=1e-5)


def test_the_classifier_score_ranges_from_one_to_the_number_of_classes() -> None:
    sure = 1000 * torch.eye(7).repeat(3, 1)
    assert generative.classifier_score(sure) == pytest.approx(7)
    assert generative.classifier_score(sure[:1].repeat(9, 1)) == pytest.approx(1)
    assert generative.classifier_score(torch.zeros(9, 7)) == pytest.approx(1)


def fraction_within(queries: Tensor, members: Tensor, k: int) -> float:
    """Return the fraction of queries that lie within the k-nearest-neighbor radius of at least one member."""
    radii = []
    for number, member in enumerate(members):
        others = sorted(float((member - other).norm()) for n, other in enumerate(members) if n != number)
        radii.append(others[k - 1])
    inside = [
        any(float((point - member).norm()) <= radius for member, radius in zip(members, radii, strict=True))
        for point in queries
    ]
    return sum(inside) / len(queries)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_equal_brute_force(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generative, "BATCH_SIZE", 7)  # several batches, the last one smaller
    noise = torch.Generator().manual_seed(k)
    real = torch.randn(40, 3, generator=noise).double()
    fake = 0.6 * torch.randn(25, 3, generator=noise).double() + 0.4
    precision, recall = generative.precision_recall(real, fake, k)
    assert (precision, recall) == (fraction_within(fake, real, k), fraction_within(real, fake, k))
    assert 0 < recall < precision


def test_precision_and_recall_are_1_for_copies_and_0_for_distant_examples() -> None:
    real = random_features(50, 4, 0)
    assert generative.precision_recall(real, real.clone()) == (1, 1)
    assert generative.precision_recall(real, real + 1000) == (0, 0)
    assert generative.precision_recall(1e4 + real, 1e4 + real) == (1, 1)


def test_one_repeated_example_has_high_precision_and_low_recall() -> None:
    real = random_features(200, 4, 0)
    precision, recall = generative.precision_recall(real, real[:1].repeat(200, 1))
    assert precision == 1
    assert recall < 0.05


def test_precision_and_recall_of_one_or_two_examples_are_defined() -> None:
    assert generative.precision_recall(torch.zeros(1, 2), torch.ones(1, 2)) == (0, 0)
    assert generative.precision_recall(torch.eye(2), torch.eye(2)) == (1, 1)


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((1, 28, 28), "pixels averaged to 8x8"),
        ((3, 32, 16), "pixels averaged to 8x8"),
        ((1, 8, 8), "pixels, 8x8"),
        ((1, 4, 12), "pixels averaged to 8x4"),
        ((2,), "points"),
    ],
)
def test_without_a_classifier_pixels_or_coordinates_are_compared(shape: tuple[int, ...], name: str) -> None:
    noise = torch.Generator().manual_seed(0)
    real, fake = (torch.rand(300, *shape, generator=noise) for _ in range(2))
    quality = Quality()
    found = quality.measure(real, fake)
    assert quality.name == name
    assert set(found) == {"frechet", "precision", "recall"}
    assert found["frechet"] < 0.1 * quality.measure(real, fake + 1)["frechet"]


def test_pixels_are_averaged_over_equal_blocks_if_the_size_is_divisible_by_8() -> None:
    images = torch.rand(3, 2, 32, 32)
    (found, _), by_hand = Quality().features(images), images.view(3, 2, 8, 4, 8, 4).mean((3, 5))
    assert torch.allclose(found, by_hand.flatten(1))


def test_scores_do_not_depend_on_autocast_or_the_precision_of_examples() -> None:
    class Network(nn.Module):
        name = "a network"

        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.last = nn.Linear(16, 8), nn.Linear(8, 4)

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.hidden(images.flatten(1)).relu()
            return hidden, self.last(hidden)

    real, fake = torch.rand(600, 1, 4, 4), torch.rand(600, 1, 4, 4).bfloat16()
    quality = Quality(Network())
    plain = quality.measure(real, fake)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert quality.measure(real, fake) == plain
    assert quality.measure(real, fake.float()) == plain
    assert set(plain) == set(Quality.metrics)
    assert quality.name == "a network"

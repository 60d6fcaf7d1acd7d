"""Mixup and CutMix, compared with their formulas and with the beta distribution of SciPy."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from dltrain.datasets.augmentation import Augmentation
from dltrain.datasets.blending import CutMix, Mixup, make_blend, symmetric_beta
from dltrain.keyed_random import key, mix, uniform
from dltrain.tasks.classification import Classification

COUNT, CLASSES = 64, 10


def batch(height: int = 6, width: int = 8) -> dict[str, Tensor]:
    """Return a batch in which each pixel has the index of its example as value; classes 0 to 9 repeat."""
    index = torch.arange(COUNT).float().view(-1, 1, 1, 1)
    return {"inputs": index.expand(-1, 3, height, width).clone(), "targets": torch.arange(COUNT) % CLASSES}


def keys(epoch: int = 0) -> Tensor:
    return mix(torch.arange(COUNT) + key(0, epoch))


@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.2, 0.5, 1.0, 4.0])
def test_mixing_weights_have_the_beta_distribution(alpha: float) -> None:
    first, second = uniform(mix(torch.arange(20_000)), 2).unbind(1)
    share = symmetric_beta(first, second, alpha).double().numpy()
    assert np.isfinite(share).all()
    points = np.linspace(0.001, 0.999, 200)
    distance = np.abs((share[None] <= points[:, None]).mean(1) - stats.beta(alpha, alpha).cdf(points)).max()
    assert distance < 1.95 / 20_000**0.5


def test_mixup_is_the_weighted_mean_of_two_examples_and_of_their_classes() -> None:
    whole = batch()
    found = Mixup(0.4, CLASSES)(whole, keys())
    assert found["targets"].shape == (COUNT, CLASSES)
    torch.testing.assert_close(found["targets"].sum(1), torch.ones(COUNT))
    first, second, order = uniform(keys(), 3).unbind(1)
    share, partner = symmetric_beta(first, second, 0.4), order.argsort()
    assert sorted(partner.tolist()) == list(range(COUNT))
    for n, (own, other) in enumerate(enumerate(partner.tolist())):
        expected = share[n] * own + (1 - share[n]) * other
        torch.testing.assert_close(found["inputs"][n], expected.expand(3, 6, 8), atol=1e-4, rtol=1e-5)
        classes = share[n] * F.one_hot(torch.tensor(own % 10), 10) + (1 - share[n]) * F.one_hot(
            torch.tensor(other % 10), 10
        )
        torch.testing.assert_close(found["targets"][n], classes, atol=1e-6, rtol=1e-5)


def test_cutmix_pastes_one_rectangle_and_weights_the_classes_by_area() -> None:
    found = CutMix(1.0, CLASSES)(batch(16, 20), keys())
    areas = []
    for n in range(COUNT):
        picture = found["inputs"][n]
        assert (picture == picture[0]).all()
        pasted = picture[0] != n
        rows, columns = pasted.any(1), pasted.any(0)
        assert torch.equal(pasted, rows[:, None] & columns)
        assert picture[0][pasted].unique().numel() <= 1
        area = pasted.float().mean()
        other = int(picture[0][pasted][0]) if pasted.any() else n
        if other % 10 != n % 10:
            torch.testing.assert_close(found["targets"][n, n % 10], 1 - area)
            torch.testing.assert_close(found["targets"][n, other % 10], area)
        areas.append(float(area))
    assert min(areas) < 0.1 and max(areas) > 0.5


def test_mixing_depends_only_on_the_random_keys() -> None:
    blend = CutMix(1.0, CLASSES)
    one, again, other = (blend(batch(), keys(epoch))["inputs"] for epoch in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_mixing_keeps_the_memory_format() -> None:
    whole = batch()
    whole["inputs"] = whole["inputs"].contiguous(memory_format=torch.channels_last)
    for blend in (Mixup(1.0, CLASSES), CutMix(1.0, CLASSES)):
        assert blend(whole, keys())["inputs"].is_contiguous(memory_format=torch.channels_last)


def test_only_data_with_classes_are_mixed() -> None:
    assert make_blend(Augmentation(), CLASSES) is None
    assert make_blend(Augmentation(mixup=0.2), None) is None
    assert isinstance(make_blend(Augmentation(cutmix=0.2), CLASSES), CutMix)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_mixed_targets_is_the_weighted_mean_of_the_losses_of_both_classes(smoothing: float) -> None:
    outputs, own, other = torch.randn(8, CLASSES), torch.arange(8), torch.arange(8).flip(0)
    share = torch.rand(8)
    mixed = share[:, None] * F.one_hot(own, CLASSES) + (1 - share[:, None]) * F.one_hot(other, CLASSES)
    loss = Classification(CLASSES, label_smoothing=smoothing).criterion(outputs, {"targets": mixed})
    first, second = (F.cross_entropy(outputs, t, reduction="none", label_smoothing=smoothing) for t in (own, other))
    torch.testing.assert_close(loss.total, (share * first + (1 - share) * second).mean())
    assert loss.weight == 8

"""Mode coverage, compared with a calculation by hand, and the coverage of real points."""

import math

import pytest
import torch

from dltrain.datasets.synthetic import Ring
from dltrain.metrics.mode_coverage import modes_found


def test_mode_coverage_equals_a_calculation_by_hand() -> None:
    # Two classes around (0, 0) and (10, 0) with a standard deviation of 1 along both axes.
    cross = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]) * math.sqrt(1.5)
    real, labels = torch.cat([cross, cross + torch.tensor([10.0, 0])]), torch.arange(2).repeat_interleave(4)
    near_first, near_second, nowhere = [2.9, 0.0], [10.0, -2.9], [3.1, 0.0]
    fake = torch.tensor([near_first, near_first, near_first, near_second, nowhere])
    found = modes_found(real, labels, fake, 2)
    assert found == pytest.approx({"modes": 2, "high_quality": 4 / 5, "coverage": 1 / 2 + 1 / 5})
    assert modes_found(real, labels, fake[:3], 2) == pytest.approx({"modes": 1, "high_quality": 1, "coverage": 0.5})
    assert modes_found(real, labels, fake[4:], 2) == pytest.approx({"modes": 0, "high_quality": 0, "coverage": 0})


def test_real_points_cover_every_mode_and_empty_classes_are_ignored() -> None:
    ring = Ring().load()
    train, val = ring.train.rows, ring.val.rows  # type: ignore[union-attr]
    found = modes_found(val["inputs"], val["targets"], train["inputs"][:2000], 8)
    assert found["modes"] == 8 and found["high_quality"] > 0.98 and found["coverage"] > 0.98
    assert modes_found(val["inputs"], val["targets"], train["inputs"][:2000], 9)["modes"] == 8

"""Logic gates compared with Python's operators; statistics of the points on the ring."""

import operator

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from dltrain.data.loader import Batches
from dltrain.datasets.synthetic import RING_SIZES, Gates, Ring
from dltrain.errors import ConfigError

OPERATORS = {
    "and": operator.and_,
    "or": operator.or_,
    "nand": lambda a, b: 1 - (a & b),
    "nor": lambda a, b: 1 - (a | b),
    "xor": operator.xor,
    "xnor": lambda a, b: 1 - (a ^ b),
}


@pytest.mark.parametrize("gate", OPERATORS)
def test_every_split_is_the_truth_table_of_the_gate(gate):
    splits = Gates(gate).load()
    for source in (splits.train, splits.val, splits.test):
        batch = next(iter(Batches(source, 4)))
        assert batch["inputs"].shape == (4, 2) and len(torch.unique(batch["inputs"], dim=0)) == 4
        pairs = zip(batch["inputs"].int().tolist(), batch["targets"].tolist(), strict=True)
        assert all(OPERATORS[gate](*inputs) == target for inputs, target in pairs)


def test_an_unknown_gate_is_rejected_with_the_closest_name():
    with pytest.raises(ConfigError, match=r"data\.gate: expected one of .*got xr\. Did you mean xor"):
        Gates("xr")


def all_points(data: Ring) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of all splits in double precision, and their classes."""
    splits = data.load()
    rows = [source.rows for source in (splits.train, splits.val, splits.test)]
    points, classes = (torch.cat([row[name] for row in rows]).numpy() for name in ("inputs", "targets"))
    return points.astype(np.float64), classes


def test_every_split_has_the_expected_size_and_balanced_classes() -> None:
    splits = Ring().load()
    for source, count in zip((splits.train, splits.val, splits.test), RING_SIZES.values(), strict=True):
        assert torch.bincount(source.rows["targets"]).tolist() == [count // 8] * 8


def test_the_means_lie_on_the_circle_and_the_noise_is_normal_and_uncorrelated() -> None:
    points, classes = all_points(Ring(radius=3.0, std=0.5))
    angles = 2 * np.pi * classes / 8
    noise = (points - 3.0 * np.stack([np.cos(angles), np.sin(angles)], 1)) / 0.5
    for axis in range(2):
        assert kstest(noise[:, axis], "norm").pvalue > 0.01
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.02
    assert abs(np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]) < 0.02


def test_points_do_not_depend_on_the_seed_of_torch() -> None:
    torch.manual_seed(1)
    first, _ = all_points(Ring())
    torch.manual_seed(2)
    second, _ = all_points(Ring())
    assert (first == second).all()


def test_no_point_is_in_two_splits() -> None:
    points, _ = all_points(Ring())
    assert len(np.unique(points, axis=0)) == len(points)


def test_each_mode_is_a_class_named_by_its_angle() -> None:
    data = Ring(modes=3)
    assert data.spec.classes == 3 and data.spec.class_names == ("0°", "120°", "240°")
    _, classes = all_points(data)
    assert set(classes) == {0, 1, 2}


def test_every_epoch_of_the_ring_has_all_training_points() -> None:
    data = Ring(batch_size=300)
    batches = Batches(data.load().train, data.batch_size, training=True)
    assert sum(len(batch["inputs"]) for batch in batches.epoch(0)) == RING_SIZES["train"]


@pytest.mark.parametrize("parameter", [{"modes": 0}, {"radius": 0.0}, {"std": -1.0}])
def test_invalid_parameters_of_the_ring_are_rejected_with_their_key(parameter: dict[str, float]) -> None:
    (key,) = parameter
    with pytest.raises(ConfigError, match=f"data.{key}"):
        Ring(**parameter)  # type: ignore[arg-type]

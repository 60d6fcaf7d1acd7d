"""Logic gates against Python's operators, and the ring against the distribution of its points."""

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
def test_a_gate_is_its_truth_table_in_every_split(gate):
    splits = Gates(gate).load()
    for source in (splits.train, splits.val, splits.test):
        batch = next(iter(Batches(source, 4)))
        assert batch["inputs"].shape == (4, 2) and len(torch.unique(batch["inputs"], dim=0)) == 4
        pairs = zip(batch["inputs"].int().tolist(), batch["targets"].tolist(), strict=True)
        assert all(OPERATORS[gate](*inputs) == target for inputs, target in pairs)


def test_an_unknown_gate_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"data\.gate: expected one of .*got xr\. Did you mean xor"):
        Gates("xr")


def all_points(data: Ring) -> tuple[np.ndarray, np.ndarray]:
    """All points and their classes, in double precision."""
    splits = data.load()
    rows = [source.rows for source in (splits.train, splits.val, splits.test)]
    points, classes = (torch.cat([row[name] for row in rows]).numpy() for name in ("inputs", "targets"))
    return points.astype(np.float64), classes


def test_every_split_has_its_size_and_equally_many_points_of_each_class() -> None:
    splits = Ring().load()
    for source, count in zip((splits.train, splits.val, splits.test), RING_SIZES.values(), strict=True):
        assert torch.bincount(source.rows["targets"]).tolist() == [count // 8] * 8


def test_the_means_lie_on_the_circle_and_the_rest_is_normal_along_both_axes() -> None:
    points, classes = all_points(Ring(radius=3.0, std=0.5))
    angles = 2 * np.pi * classes / 8
    rest = (points - 3.0 * np.stack([np.cos(angles), np.sin(angles)], 1)) / 0.5
    for axis in range(2):
        assert kstest(rest[:, axis], "norm").pvalue > 0.01
    assert abs(np.corrcoef(rest.T)[0, 1]) < 0.02
    assert abs(np.corrcoef(rest[:-1, 0], rest[1:, 0])[0, 1]) < 0.02


def test_the_points_are_the_same_whatever_seed_torch_has() -> None:
    torch.manual_seed(1)
    first, _ = all_points(Ring())
    torch.manual_seed(2)
    second, _ = all_points(Ring())
    assert (first == second).all()


def test_no_point_is_in_two_splits() -> None:
    points, _ = all_points(Ring())
    assert len(np.unique(points, axis=0)) == len(points)


def test_as_many_modes_as_asked_for_each_named_by_its_angle() -> None:
    data = Ring(modes=3)
    assert data.spec.classes == 3 and data.spec.class_names == ("0°", "120°", "240°")
    _, classes = all_points(data)
    assert set(classes) == {0, 1, 2}


def test_an_epoch_of_batches_has_all_points() -> None:
    data = Ring(batch_size=300)
    batches = Batches(data.load().train, data.batch_size, training=True)
    assert sum(len(batch["inputs"]) for batch in batches.epoch(0)) == RING_SIZES["train"]


@pytest.mark.parametrize("wrong", [{"modes": 0}, {"radius": 0.0}, {"std": -1.0}])
def test_a_ring_that_makes_no_sense_is_refused_with_its_key(wrong: dict[str, float]) -> None:
    (key,) = wrong
    with pytest.raises(ConfigError, match=f"data.{key}"):
        Ring(**wrong)  # type: ignore[arg-type]

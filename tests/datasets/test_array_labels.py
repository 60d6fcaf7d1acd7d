"""Labels in arrays: repeated integers and one-hot rows are classes, other numbers are regression targets."""

import numpy as np
import pytest

from dltrain.data.loader import Batches
from dltrain.datasets.npz import Npz
from dltrain.errors import ConfigError

CLASS_INDICES = np.arange(20) % 3


def make_data(folder, y, y_test=None):
    y_test = y[:4] if y_test is None else y_test
    x = np.arange(20.0)[:, None]
    np.savez(folder / "a.npz", x_train=x, y_train=y, x_test=x[: len(y_test)], y_test=y_test)
    return Npz(str(folder / "a.npz"))


def targets(data):
    return next(iter(Batches(data.load().test, 4)))["targets"].tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
@pytest.mark.parametrize(
    ("numbers", "label_line"),
    [
        ([0, 1, 2], None),
        ([1, 2, 3], "labels: 1, 2, 3 are mapped to class indices 0 to 2; class names are the labels"),
        ([3, 7, 200], "labels: 3, 7, 200 are mapped to class indices 0 to 2; class names are the labels"),
    ],
)
@pytest.mark.parametrize("axes", [1, 2])
def test_repeated_integers_are_classes_named_by_the_integers(numbers, label_line, dtype, axes, tmp_path):
    y = np.array(numbers, dtype=dtype)[CLASS_INDICES]
    data = make_data(tmp_path, y if axes == 1 else y[:, None])
    assert data.spec.class_names == tuple(map(str, numbers)) and targets(data) == [0, 1, 2, 0]
    description = data.describe()
    assert f"classes in y_train: {numbers[0]} (7), {numbers[1]} (7), {numbers[2]} (6)" in description
    assert [line for line in description if line.startswith("labels:")] == ([label_line] if label_line else [])


def test_minus_one_and_one_are_classes(tmp_path):
    data = make_data(tmp_path, np.where(CLASS_INDICES, 1, -1))
    assert data.spec.class_names == ("-1", "1") and targets(data) == [0, 1, 1, 0]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_one_hot_rows_are_classes(dtype, tmp_path):
    data = make_data(tmp_path, np.eye(4)[CLASS_INDICES].astype(dtype))
    assert data.spec.class_names == ("0", "1", "2", "3") and targets(data) == [0, 1, 2, 0]
    description = data.describe()
    assert "labels: one-hot, 4 columns" in description and "no training example of class 3" in description


def test_integral_and_one_hot_floats_can_also_be_regression_targets(tmp_path):
    for y, count in ((CLASS_INDICES + 1.0, 1), (np.eye(3)[CLASS_INDICES], 3)):
        data = make_data(tmp_path, y)
        assert data.spec.targets == count
        assert "labels are floats: task=regression predicts them as numbers" in data.describe()
        source = data.load().test
        np.testing.assert_array_equal(source.rows["targets"], y[:4].reshape(4, count))
        batch = next(iter(Batches(source, 4)))
        np.testing.assert_array_equal(batch["values"], y[:4].reshape(4, count))
        assert set(source.prepare({"inputs": batch["inputs"]})) == {"inputs"}


@pytest.mark.parametrize(
    ("y", "count"),
    [
        (np.arange(20) * 7, 1),  # no number repeats
        (np.arange(20) * 7.0, 1),
        (CLASS_INDICES + 0.5, 1),
        (CLASS_INDICES - 1.0, 1),
        (np.eye(3)[CLASS_INDICES] * 2, 3),
        (np.eye(3)[CLASS_INDICES] + np.eye(3)[(CLASS_INDICES + 1) % 3], 3),
    ],
)
def test_other_numbers_are_regression_targets(y, count, tmp_path):
    data = make_data(tmp_path, y)
    assert (data.spec.targets, data.spec.classes) == (count, None)
    np.testing.assert_array_equal(targets(data), y[:4].reshape(4, count))
    assert f"labels: {count} number{'s' * (count != 1)} to predict per example" in data.describe()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        # -1 often means that there is no label.
        (CLASS_INDICES - 1, r"class numbers of at least 0 .* got int64 with shape \(20,\) from -1 to 1"),
        (np.eye(3, dtype=int)[CLASS_INDICES] * 2, "one-hot vectors"),
        (np.where(CLASS_INDICES, np.nan, 1.0), r"finite numbers in y_train \(.*\), got nan at \[1\]"),
    ],
)
def test_invalid_labels_are_rejected(y, message, tmp_path):
    with pytest.raises(ConfigError, match=f"^data.path: expected .*{message}"):
        make_data(tmp_path, y).load()

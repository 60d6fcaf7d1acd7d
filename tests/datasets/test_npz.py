"""Arrays in .npz files: images, sequences and vectors, labels, splits and rejected files."""

import numpy as np
import pytest

from dltrain.data.loader import Batches
from dltrain.datasets.npz import Npz
from dltrain.errors import ConfigError


def save(path, x, y, **changed):
    arrays = {"x_train": x, "y_train": y, "x_test": x[:4], "y_test": y[:4], **changed}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return str(path)


def facts(data):
    return {name: value for name, value in vars(data.spec).items() if value is not None}


CLASSES = np.arange(20) % 3
NAMED = {"classes": 3, "class_names": ("0", "1", "2")}


@pytest.mark.parametrize("shape", [(20, 6, 8, 3), (20, 3, 6, 8), (20, 6, 8)])
def test_uint8_arrays_are_images_whether_channels_are_first_or_last_or_absent(shape, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = Npz(save(tmp_path / "a.npz", x, CLASSES))
    first = x[:, None] if x.ndim == 3 else x if shape[1] == 3 else x.transpose(0, 3, 1, 2)
    channels = first.shape[1]
    assert data.spec.shape == (channels, 6, 8) and data.spec.size == channels * 48
    assert (data.spec.channels, data.spec.height, data.spec.width) == (channels, 6, 8)
    assert (data.spec.features, data.spec.length) == (channels * 8, 6)
    batch = next(iter(Batches(data.load().test, 4)))
    np.testing.assert_allclose(batch["inputs"], first[:4] / 127.5 - 1, atol=1e-5)
    assert batch["targets"].tolist() == [0, 1, 2, 0]


def test_floats_with_four_axes_are_images_with_values_from_0_to_1(tmp_path):
    x = np.random.default_rng(0).random((20, 5, 5, 1))
    batch = next(iter(Batches(Npz(save(tmp_path / "a.npz", x, CLASSES), mean=0.2, std=0.4).load().test, 4)))
    np.testing.assert_allclose(batch["inputs"], (x[:4].transpose(0, 3, 1, 2) - 0.2) / 0.4, atol=1e-5)


def test_floats_with_three_axes_are_sequences(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 7, 2))
    data = Npz(save(tmp_path / "a.npz", x, CLASSES))
    assert facts(data) == {"shape": (7, 2), "size": 14, "features": 2, "length": 7, **NAMED}
    np.testing.assert_allclose(next(iter(Batches(data.load().test, 4)))["inputs"], x[:4], rtol=1e-6)


@pytest.mark.parametrize("kind", [np.float64, np.int64, np.bool_])
def test_vectors_provide_a_size_but_no_features_or_length(kind, tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 7)).astype(kind)
    data = Npz(save(tmp_path / "a.npz", x, CLASSES))
    assert facts(data) == {"shape": (7,), "size": 7, **NAMED}
    np.testing.assert_allclose(next(iter(Batches(data.load().test, 4)))["inputs"], x[:4], rtol=1e-6)


@pytest.mark.parametrize(("y", "targets"), [(np.linspace(0, 1, 20), 1), (np.ones((20, 3)), 3)])
def test_fractional_labels_and_vectors_that_are_not_one_hot_are_regression_targets(y, targets, tmp_path):
    data = Npz(save(tmp_path / "a.npz", np.ones((20, 7)), y))
    assert (data.spec.targets, data.spec.classes) == (targets, None)
    found = next(iter(Batches(data.load().test, 4)))["targets"].numpy()
    np.testing.assert_allclose(found, y[:4].reshape(4, targets), rtol=1e-6)
    assert found.dtype == np.float32


def test_a_class_found_only_in_the_test_data_gets_an_output_and_is_reported(tmp_path):
    data = Npz(save(tmp_path / "a.npz", np.ones((20, 7)), CLASSES, y_test=np.array([0, 1, 2, 5])))
    assert data.spec.class_names == ("0", "1", "2", "5")
    data.load()
    assert "no training example of class 5 (only in y_test)" in data.describe()


def test_validation_examples_are_taken_from_the_training_arrays(tmp_path):
    x = np.arange(20.0)[:, None]
    path = save(tmp_path / "a.npz", x, CLASSES)
    splits = Npz(path, validation=0.25).load()
    found = [part.rows["inputs"].flatten().tolist() for part in (splits.train, splits.val)]
    assert [len(part) for part in found] == [15, 5] and sorted(found[0] + found[1]) == x[:, 0].tolist()
    assert Npz(path, validation=0).load().val is None


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"y_test": None}, "no y_test"),
        ({"y_test": np.arange(3)}, "as many examples"),
        ({"x_test": np.ones((4, 8))}, "examples of shape (7,) in x_test, as in training"),
        ({"x_test": np.float64(1)}, "x_test with the examples along its first axis"),
        ({"y_train": np.int64(1)}, "y_train with the examples along its first axis"),
        ({"x_test": np.array([["a"] * 7] * 4)}, "numbers in x_test"),
        ({"x_test": np.full((4, 7), np.nan)}, "finite numbers in x_test"),
        ({"y_test": np.ones((4, 2))}, "1 value per label in y_test, as in training"),
        ({"y_train": CLASSES - 1}, "class numbers of at least 0"),
        ({"y_train": np.array(["a"] * 20)}, "class numbers of at least 0"),
        ({"x_train": np.ones((20, 2, 2, 2, 2))}, "(20, 2, 2, 2, 2)"),
    ],
)
def test_invalid_or_inconsistent_arrays_are_rejected(changed, part, tmp_path):
    path = save(tmp_path / "a.npz", np.ones((20, 7)), CLASSES, **changed)
    with pytest.raises(ConfigError) as caught:
        Npz(path).load()
    assert part in str(caught.value) and str(caught.value).startswith("data.path")


@pytest.mark.parametrize("shape", [(4, 64), (4, 2, 8, 8, 1)])
def test_test_arrays_that_are_not_images_are_rejected_if_the_training_arrays_are_images(shape, tmp_path):
    path = save(tmp_path / "a.npz", np.ones((20, 8, 8), np.uint8), CLASSES, x_test=np.ones(shape, np.uint8))
    with pytest.raises(ConfigError, match=r"examples of shape \(1, 8, 8\) in x_test, as in training"):
        Npz(path).load()


def test_evaluated_arrays_that_do_not_fit_the_trained_model_are_rejected(tmp_path):
    fitted = Npz(save(tmp_path / "a.npz", np.ones((20, 7)), CLASSES)).fit()
    with pytest.raises(ConfigError, match=r"examples of shape \(7,\) in x_train, as in training"):
        Npz(save(tmp_path / "b.npz", np.ones((20, 8)), CLASSES), fitted=fitted).evaluation()
    with pytest.raises(ConfigError, match="numbers in y_train"):
        Npz(save(tmp_path / "b.npz", np.ones((20, 7)), CLASSES.astype(str)), fitted=fitted).evaluation()


def test_a_file_that_is_not_an_npz_archive_is_rejected(tmp_path):
    (tmp_path / "a.npz").write_text("hello")
    with pytest.raises(ConfigError, match=r"complete \.npz"):
        Npz(str(tmp_path / "a.npz"))

"""Digits, MNIST, Fashion-MNIST and CIFAR-10: files, splits and normalization."""

import pickle
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from dltrain.data.loader import Batches
from dltrain.datasets.cifar10 import CIFAR10
from dltrain.datasets.digits import Digits
from dltrain.datasets.mnist import MNIST, FashionMNIST
from dltrain.errors import ConfigError

CACHE = Path("~/.cache/dltrain").expanduser()


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = (0x0800 + array.ndim).to_bytes(4, "big") + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.tobytes())


def write_mnist(root, folder="MNIST", train=40, test=20):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", train), ("t10k", test)):
        arrays[part] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 10
        write_idx(root / folder / "raw" / f"{part}-images-idx3-ubyte", arrays[part][0])
        write_idx(root / folder / "raw" / f"{part}-labels-idx1-ubyte", arrays[part][1])
    return arrays


def cifar_arrays(train=50, test=10):
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (train, 32, 32, 3), dtype=np.uint8),
        "y_train": (np.arange(train) % 10).astype(np.uint8),
        "x_test": rng.integers(0, 256, (test, 32, 32, 3), dtype=np.uint8),
        "y_test": (np.arange(test) % 10).astype(np.uint8),
    }


def as_sorted(rows):
    pairs = zip(rows["pixels"].flatten(1).tolist(), rows["labels"].tolist(), strict=True)
    return sorted((tuple(pixels), label) for pixels, label in pairs)


def test_the_splits_of_digits_contain_each_scikit_learn_digit_once():
    splits = Digits().load()
    parts = (splits.train, splits.val, splits.test)
    assert [len(part) for part in parts] == [1299, 248, 250]
    reference = load_digits()
    expected = sorted((tuple(x.astype(int)), y) for x, y in zip(reference.data, reference.target, strict=True))
    assert sorted(pair for part in parts for pair in as_sorted(part.rows)) == expected


def test_changing_digits_in_place_does_not_change_digits_loaded_later():
    changed = Digits().load()
    expected = [as_sorted(part.rows) for part in (changed.train, changed.val, changed.test)]
    for part in (changed.train, changed.val, changed.test):
        for values in part.rows.values():
            values.zero_()
    splits = Digits().load()
    assert [as_sorted(part.rows) for part in (splits.train, splits.val, splits.test)] == expected


def test_the_splits_of_digits_are_stratified():
    counts = np.bincount(load_digits().target)
    splits = Digits().load()
    for part in (splits.train, splits.val, splits.test):
        found = torch.bincount(part.rows["labels"].long()).numpy()
        assert np.abs(found - counts * len(part) / 1797).max() <= 1.5


def test_the_training_digits_have_mean_0_and_standard_deviation_1():
    inputs = next(iter(Batches(Digits(batch_size=1).load().train, 2000)))["inputs"]
    assert float(inputs.mean()) == pytest.approx(0, abs=0.01) and float(inputs.std()) == pytest.approx(1, abs=0.01)


def test_the_test_digits_do_not_depend_on_the_validation_fraction():
    some, none = Digits().load(), Digits(validation=0).load()
    assert none.val is None and len(none.train) == 1547
    assert torch.equal(some.test.rows["pixels"], none.test.rows["pixels"])


@pytest.mark.parametrize(("data", "folder"), [(MNIST, "MNIST"), (FashionMNIST, "FashionMNIST")])
def test_pixels_and_labels_equal_the_arrays_written_to_idx_files(data, folder, tmp_path):
    arrays = write_mnist(tmp_path, folder)
    splits = data(root=str(tmp_path), validation=0.25).load()
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [30, 10, 20]
    pixels, labels = arrays["t10k"]
    assert np.array_equal(splits.test.rows["pixels"].numpy()[:, 0], pixels)
    assert np.array_equal(splits.test.rows["labels"].numpy(), labels)
    written = {"pixels": torch.from_numpy(arrays["train"][0]), "labels": torch.from_numpy(arrays["train"][1])}
    assert sorted(as_sorted(splits.train.rows) + as_sorted(splits.val.rows)) == as_sorted(written)
    batch = next(iter(Batches(splits.test, 4)))
    assert batch["inputs"].shape == (4, 1, 28, 28) and batch["targets"].tolist() == [0, 1, 2, 3]


def test_without_validation_the_training_split_has_all_images_of_the_training_files(tmp_path):
    write_mnist(tmp_path)
    splits = MNIST(root=str(tmp_path), validation=0).load()
    assert splits.val is None and len(splits.train) == 40


@pytest.mark.parametrize(("data", "name"), [(MNIST, "mnist"), (FashionMNIST, "fashion_mnist"), (CIFAR10, "cifar10")])
def test_missing_files_are_rejected_with_a_hint_on_how_to_download_them(data, name, tmp_path):
    images = data(root=str(tmp_path / "nowhere"))
    assert images.spec.classes == 10
    with pytest.raises(ConfigError) as caught:
        images.load()
    message = str(caught.value)
    assert "Add data.download=true" in message
    assert message.startswith("data.root:") and str(tmp_path / "nowhere") in message


def test_the_error_for_a_truncated_idx_file_names_the_file(tmp_path):
    write_mnist(tmp_path)
    truncated = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    truncated.write_bytes(truncated.read_bytes()[:-5])
    with pytest.raises(ConfigError, match="t10k-images-idx3-ubyte"):
        MNIST(root=str(tmp_path)).load()


def test_mnist_labels_that_are_not_classes_are_rejected(tmp_path):
    write_mnist(tmp_path)
    write_idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte", np.arange(40, dtype=np.uint8))
    with pytest.raises(ConfigError, match=r"data.root: expected labels from 0 to 9 in .*train-labels.*, got 39"):
        MNIST(root=str(tmp_path)).load()


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "x_train",
            np.zeros((50, 3, 32, 32), np.uint8),
            r"uint8 \(N, 32, 32, 3\) as x_train .*, got uint8 \(50, 3, 32, 32\)",
        ),
        ("x_test", np.zeros((10, 32, 32, 3), np.float32), r"uint8 .* as x_test .*, got float32"),
        ("y_train", np.zeros(49, np.uint8), r"one whole number in y_train .* for each of 50 images, got uint8 \(49,\)"),
        ("y_test", np.zeros((10, 10), np.uint8), r"one whole number in y_test .*, got uint8 \(10, 10\)"),
        ("y_test", np.full((10, 1), 256), "labels from 0 to 9 in y_test .*, got 256"),
        ("y_test", np.full(10, -1), "labels from 0 to 9 in y_test .*, got -1"),
    ],
)
def test_cifar10_rejects_invalid_arrays(name, array, message, tmp_path):
    (tmp_path / "cifar10").mkdir()
    np.savez(tmp_path / "cifar10" / "cifar10.npz", **{**cifar_arrays(), name: array})
    with pytest.raises(ConfigError, match=f"data.root: expected {message}"):
        CIFAR10(root=str(tmp_path)).load()


def test_cifar10_converts_its_arrays_to_channels_first(tmp_path):
    arrays = cifar_arrays()
    (tmp_path / "cifar10").mkdir()
    np.savez(tmp_path / "cifar10" / "cifar10.npz", **arrays)
    splits = CIFAR10(root=str(tmp_path), validation=0.2).load()
    assert (len(splits.train), len(splits.val)) == (40, 10)
    batch = next(iter(Batches(splits.test, 10)))
    expected = arrays["x_test"].transpose(0, 3, 1, 2) / 127.5 - 1
    np.testing.assert_allclose(batch["inputs"], expected, atol=1e-5)
    assert batch["targets"].tolist() == arrays["y_test"].tolist()


@pytest.mark.slow
def test_cifar10_reads_the_folder_of_torchvision(tmp_path, monkeypatch):
    from torchvision import datasets

    arrays = cifar_arrays()
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, md5((folder / name).read_bytes()).hexdigest()]

    def part(pixels, labels):
        return {"data": pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1), "labels": labels.tolist()}

    x, y = arrays["x_train"], arrays["y_train"]
    train = [write(f"data_batch_{n}", part(x[n * 10 : n * 10 + 10], y[n * 10 : n * 10 + 10])) for n in range(5)]
    test = [write("test_batch", part(arrays["x_test"], arrays["y_test"]))]
    meta = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", train)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", test)
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    splits = CIFAR10(root=str(tmp_path), validation=0).load()
    assert np.array_equal(splits.train.rows["pixels"].numpy(), x.transpose(0, 3, 1, 2))
    assert np.array_equal(splits.test.rows["labels"].numpy(), arrays["y_test"])
    (folder / "test_batch").write_bytes(b"torn")
    with pytest.raises(ConfigError, match=r"got missing or damaged files\. data\.download=true downloads them again"):
        CIFAR10(root=str(tmp_path)).load()


@pytest.mark.slow
def test_the_error_for_a_failed_download_names_the_key(tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(ConfigError, match=r"data\.download"):
        MNIST(root=str(tmp_path), download=True).load()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "normalization", "train"),
    [
        (MNIST, {"mean": 0.1307, "std": 0.3081}, 54_000),
        (FashionMNIST, {"mean": 0.2860, "std": 0.3530}, 54_000),
        (CIFAR10, {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]}, 45_000),
    ],
)
def test_the_downloaded_data_sets_have_the_published_sizes_and_are_normalized(data, normalization, train):
    try:
        splits = data(root=str(CACHE), **normalization).load()
    except ConfigError:
        pytest.skip("the real data sets are not on this machine; data.download=true fetches them")
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [train, train // 9, 10_000]
    inputs = splits.train.prepare(splits.train.rows)["inputs"]
    assert inputs.mean((0, 2, 3)).tolist() == pytest.approx([0] * inputs.shape[1], abs=0.01)
    assert inputs.std((0, 2, 3)).tolist() == pytest.approx([1] * inputs.shape[1], abs=0.01)

"""Data sets with labels for only some of the training examples."""

import pytest
import torch

from dltrain.cli.main import main
from dltrain.data.loader import Batches
from dltrain.datasets.digits import Digits
from dltrain.datasets.mnist import MNIST, FashionMNIST
from dltrain.errors import ConfigError


def pixels(source):
    return sorted(map(tuple, source.rows["pixels"].flatten(1).tolist()))


def test_all_examples_are_labeled_by_default():
    splits = Digits().load()
    assert len(splits.train) == 1299 and splits.unlabeled is None


@pytest.mark.parametrize("count", [1, 10, 107, 1299])
def test_num_labels_limits_only_the_labeled_examples(count):
    whole, some = Digits().load(), Digits(num_labels=count).load()
    assert len(some.train) == count and len(some.unlabeled) == 1299
    assert set(some.unlabeled.rows) == {"pixels"}
    assert pixels(some.unlabeled) == pixels(whole.train)
    known = {(tuple(p.flatten().tolist()), int(label)) for p, label in zip(*whole.train.rows.values(), strict=True)}
    assert {(tuple(p.flatten().tolist()), int(n)) for p, n in zip(*some.train.rows.values(), strict=True)} <= known
    for part in ("val", "test"):
        assert torch.equal(getattr(some, part).rows["labels"], getattr(whole, part).rows["labels"])


def test_unlabeled_batches_have_only_inputs_and_are_augmented_like_labeled_batches():
    splits = Digits(num_labels=20, augment=["crop"]).load()
    assert {frozenset(batch) for batch in Batches(splits.unlabeled, 64, training=True)} == {frozenset({"inputs"})}
    assert splits.unlabeled.augment is splits.train.augment is not None


def test_labeled_examples_are_stratified_and_the_same_each_time_they_are_loaded():
    one, other = (Digits(num_labels=100).load().train.rows for _ in range(2))
    assert torch.equal(one["pixels"], other["pixels"])
    shares = torch.bincount(Digits().load().train.rows["labels"].long(), minlength=10) * 100 / 1299
    assert (torch.bincount(one["labels"].long(), minlength=10) - shares).abs().max() <= 1.5


@pytest.mark.parametrize("data", [MNIST, FashionMNIST])
@pytest.mark.parametrize(("validation", "training_examples"), [(0.0, 60), (0.1, 54)])
def test_mnist_and_fashion_mnist_support_num_labels(data, validation, training_examples, data_root):
    splits = data(root=str(data_root), num_labels=20, validation=validation).load()
    assert len(splits.train) == 20 and len(splits.unlabeled) == training_examples
    assert torch.bincount(splits.train.rows["labels"].long()).tolist() == pytest.approx([2] * 10, abs=1)


def test_more_labels_than_training_examples_are_rejected(data_root):
    with pytest.raises(ConfigError, match=r"data\.num_labels: expected a whole number from 1 to 54, the .* got 55"):
        MNIST(root=str(data_root), num_labels=55).load()


@pytest.mark.parametrize("value", ["0", "2.5"])
def test_an_invalid_number_of_labels_is_rejected_with_a_one_line_error(value, capsys):
    assert main(["model=mlp", "data=digits", f"data.num_labels={value}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"dltrain: data.num_labels: expected a whole number of at least 1, got {value}"]

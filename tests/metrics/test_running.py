"""Means over batches; confusion matrices and F1 scores, compared with scikit-learn and torchmetrics."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassF1Score

from dltrain.metrics.running import Mean, confusion, macro_f1

SIZES = [7, 7, 7, 2]


def test_a_mean_is_exact_when_the_last_batch_is_short() -> None:
    values = torch.randn(sum(SIZES), generator=torch.Generator().manual_seed(0)) + 1000
    mean = Mean()
    for part in values.split(SIZES):
        mean.add(len(part), loss=part.mean(), square=part.square().mean())
    read = mean.read()
    assert read["loss"] == pytest.approx(values.double().mean().item(), rel=1e-7)
    assert read["square"] == pytest.approx(values.double().square().mean().item(), rel=1e-7)


def test_a_mean_accepts_tensors_as_weights() -> None:
    mean = Mean()
    mean.add(torch.tensor(3), loss=torch.tensor(1.0))
    mean.add(torch.tensor(1), loss=torch.tensor(5.0))
    assert mean.read() == {"loss": 2.0}


def test_each_metric_may_have_different_weights() -> None:
    mean = Mean()
    for loss, count, error, numbers in ((1.0, 2, 10.0, 6), (4.0, 1, 40.0, 3)):
        mean.add(count, loss=torch.tensor(loss))
        mean.add(numbers, mae=torch.tensor(error))
    assert mean.read() == pytest.approx({"loss": 2.0, "mae": 20.0})


def test_a_mean_without_values_has_no_metrics() -> None:
    assert Mean().read() == {}


def test_a_mean_over_ten_million_examples_is_precise() -> None:
    mean = Mean()
    mean.add(10_000_000, loss=torch.tensor(1.0))
    mean.add(1, loss=torch.tensor(2.0))
    assert mean.read()["loss"] == pytest.approx(1 + 1 / 10_000_001, abs=1e-12)


def test_a_mean_keeps_no_graph_alive() -> None:
    weight, mean = torch.ones((), requires_grad=True), Mean()
    mean.add(1, loss=weight * 2)
    assert not mean._sums["loss"].requires_grad


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_confusion_and_macro_f1_equal_scikit_learn_and_torchmetrics(seed: int) -> None:
    random = np.random.default_rng(seed)
    classes = 6
    truth, predicted = random.integers(0, classes, 97), random.integers(0, classes, 97)
    counts = confusion(torch.from_numpy(truth), torch.from_numpy(predicted), classes)
    assert (counts.numpy() == confusion_matrix(truth, predicted, labels=range(classes))).all()
    peer = MulticlassConfusionMatrix(classes)(torch.from_numpy(predicted), torch.from_numpy(truth))
    assert torch.equal(counts, peer)
    assert macro_f1(counts) == pytest.approx(f1_score(truth, predicted, average="macro"), rel=1e-12)
    f1 = MulticlassF1Score(classes, average="macro")(torch.from_numpy(predicted), torch.from_numpy(truth))
    assert macro_f1(counts) == pytest.approx(f1.item(), rel=1e-6)


def test_macro_f1_includes_classes_that_are_only_predicted_and_excludes_absent_classes() -> None:
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    counts = confusion(torch.from_numpy(truth), torch.from_numpy(predicted), 5)
    assert macro_f1(counts) == pytest.approx(f1_score(truth, predicted, average="macro", zero_division=0))

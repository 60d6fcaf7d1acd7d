"""The linear baseline for texts, compared with scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Generator, Tensor

from dltrain.tasks.bag_of_words import Features, LinearModel, Texts, fit, mistakes
from dltrain.tasks.base import Batch
from dltrain.tasks.classification import Classification
from dltrain.tasks.regression import Regression

WORDS, CLASSES = 30, 3


def texts(count: int, seed: int, classes: int = CLASSES) -> list[Batch]:
    """Return batches of random texts; words and numeric targets depend on the class. The first text is empty."""
    random = Generator().manual_seed(seed)
    lengths = torch.randint(1, 13, (count,), generator=random)
    lengths[0] = 0
    labels = torch.randint(0, classes, (count,), generator=random)
    tokens = torch.randint(1, WORDS, (count, 16), generator=random)
    typical = torch.rand(count, 16, generator=random) < 0.3
    tokens = torch.where(typical, 1 + labels[:, None], tokens)
    numbers = labels[:, None] + 0.1 * torch.randn(count, 1, generator=random)
    fields = {"inputs": tokens, "lengths": lengths, "targets": labels, "values": numbers}
    return [
        dict(zip(fields, parts, strict=True))
        for parts in zip(*(value.split(7) for value in fields.values()), strict=True)
    ]


def classes_of(batch: Batch) -> Tensor:
    return batch["targets"]


def numbers_of(batch: Batch) -> Tensor:
    return batch["values"]


def words(batches: list[Batch]) -> list[str]:
    """Return each text as a string with one word per token."""
    return [
        " ".join(f"w{token}" for token in row[:length])
        for batch in batches
        for row, length in zip(batch["inputs"].tolist(), batch["lengths"].tolist(), strict=True)
    ]


def dense(features: Features, batches: list[Batch]) -> np.ndarray:
    matrix = features(Texts(batches, classes_of))
    found = np.zeros(matrix.shape)
    found[matrix.rows.numpy(), matrix.columns.numpy()] = matrix.values[:, 0].numpy()
    return found


@pytest.mark.parametrize("pairs", [False, True])
def test_tf_idf_features_equal_those_of_scikit_learn(pairs: bool) -> None:
    train, test = texts(60, 0), texts(40, 1)
    features = Features(Texts(train, classes_of), WORDS, pairs)
    theirs = TfidfVectorizer(ngram_range=(1, 2) if pairs else (1, 1), min_df=2 if pairs else 1, token_pattern=r"\S+")
    expected = theirs.fit(words(train)).transform(words(test)).toarray()
    found = dense(features, test)
    assert found.shape == expected.shape
    np.testing.assert_allclose(np.sort(found, axis=1), np.sort(expected, axis=1), atol=1e-12)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-12)


@pytest.mark.parametrize("penalty", [0.1, 3.0])
def test_class_probabilities_equal_logistic_regression_of_scikit_learn(penalty: float) -> None:
    train = Texts(texts(90, 0), classes_of)
    features = Features(train, WORDS, False)
    matrix, x = features(train), dense(features, texts(90, 0))
    theirs = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=1000).fit(x, train.targets.numpy())
    weights = fit(matrix, train.targets, penalty, torch.zeros(x.shape[1] + 1, CLASSES, dtype=torch.float64))
    found = (matrix.times(weights[:-1]) + weights[-1]).softmax(1)
    np.testing.assert_allclose(found.numpy(), theirs.predict_proba(x), atol=1e-3)


@pytest.mark.parametrize("penalty", [0.1, 3.0])
def test_predicted_numbers_equal_ridge_regression_of_scikit_learn(penalty: float) -> None:
    train = Texts(texts(90, 0), numbers_of)
    features = Features(train, WORDS, True)
    matrix, x = features(train), dense(features, texts(90, 0))
    theirs = Ridge(alpha=penalty).fit(x, train.targets.numpy())
    weights = fit(matrix, train.targets, penalty, torch.zeros(x.shape[1] + 1, 1, dtype=torch.float64))
    np.testing.assert_allclose(matrix.times(weights[:-1]) + weights[-1], theirs.predict(x).reshape(-1, 1), atol=1e-3)


def test_the_features_and_the_penalty_with_the_best_validation_accuracy_are_selected() -> None:
    train, val = texts(90, 0), texts(60, 1)
    model = LinearModel(train, val, WORDS, classes_of, CLASSES)
    held_out, found = Texts(val, classes_of), []
    for pairs in (False, True):
        features = Features(Texts(train, classes_of), WORDS, pairs)
        matrix = features(Texts(train, classes_of))
        for penalty in (0.1, 0.3, 1.0, 3.0, 10.0):
            start = torch.zeros(matrix.shape[1] + 1, CLASSES, dtype=torch.float64)
            weights = fit(matrix, Texts(train, classes_of).targets, penalty, start)
            found.append(mistakes(features(held_out).times(weights[:-1]) + weights[-1], held_out.targets))
    assert mistakes(torch.cat([model(batch) for batch in val]), held_out.targets) == min(found)
    assert model.description.startswith("baseline: TF-IDF of ")


def test_classification_and_regression_report_their_metrics_for_the_text_baseline() -> None:
    class Constant(torch.nn.Module):
        def __init__(self, outputs: int) -> None:
            super().__init__()
            self.outputs = outputs

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            return torch.zeros(len(x), self.outputs)

    train, val = texts(90, 0), texts(60, 1)
    task = Classification(CLASSES, vocabulary=WORDS)
    assert task.fit_baselines(train, val) is not None
    found = task.evaluate(Constant(CLASSES), val)
    outputs, targets = (torch.cat(part) for part in zip(*((task.linear(b), b["targets"]) for b in val), strict=True))
    (scores,) = found.baselines.values()
    assert scores.keys() == found.metrics.keys() and scores["accuracy"] > found.metrics["accuracy"]
    assert scores["accuracy"] == pytest.approx(float((outputs.argmax(1) == targets).double().mean()))
    rating = Regression(1, vocabulary=WORDS)
    assert rating.fit_baselines(train, val) is not None
    scaled = [{**batch, "scale": torch.full((len(batch["values"]), 1), 10.0)} for batch in val]
    found = rating.evaluate(Constant(1), scaled)
    (scores,) = found.baselines.values()
    errors = torch.cat([rating.linear(batch) - batch["values"] for batch in val]) * 10
    assert scores["mae"] == pytest.approx(float(errors.abs().mean()), rel=1e-5) and scores["mae"] < found.metrics["mae"]


def test_only_texts_have_the_bag_of_words_baseline() -> None:
    task = Classification(CLASSES)
    assert task.fit_baselines([], None) is None and task.linear is None

"""Linear models on TF-IDF features: the baseline of tasks on texts."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dltrain.tasks.base import Batch

MAX_EXAMPLES = 50_000  # maximum number of training texts to read, rounded up to whole batches
PENALTIES = [0.1, 0.3, 1.0, 3.0, 10.0]  # 1 / C of LogisticRegression and alpha of Ridge in scikit-learn
DEFAULT_PENALTY = 1.0  # without validation texts
MIN_COUNT = 2  # a token pair is a feature if at least this many training texts contain it
ITERATIONS = 100


class Texts:
    """Tokens and targets of a split, on the CPU.

    Args:
        batches: Batches with ``inputs`` (B, T) and ``lengths`` (B,).
        target: Function that returns the targets of a batch.
        limit: Number of texts to read, rounded up to whole batches; None for all.
    """

    def __init__(self, batches: Iterable[Batch], target: Callable[[Batch], Tensor], limit: int | None = None) -> None:
        tokens, lengths, targets, count = list[Tensor](), list[Tensor](), list[Tensor](), 0
        for batch in batches:
            own = torch.arange(batch["inputs"].shape[1]) < batch["lengths"][:, None]
            tokens.append(batch["inputs"].cpu()[own])
            lengths.append(batch["lengths"])
            targets.append(target(batch).cpu())
            count += len(lengths[-1])
            if limit is not None and count >= limit:
                break
        self.tokens, self.targets = torch.cat(tokens).numpy(), torch.cat(targets)
        self.texts = np.repeat(np.arange(count), torch.cat(lengths).numpy())
        self.count = count


class Features:
    """TF-IDF features of tokens and optionally token pairs: count times inverse document frequency, scaled to norm 1.

    Args:
        train: Texts that determine the terms and their document frequencies.
        vocabulary: Number of different tokens.
        pairs: Also use pairs of neighboring tokens that occur in at least two training texts.

    Source: Sparck Jones 1972; smoothed as in scikit-learn, ln((1 + n) / (1 + document frequency)) + 1.
    """

    def __init__(self, train: Texts, vocabulary: int, pairs: bool) -> None:
        self.vocabulary, self.pairs = vocabulary, pairs
        self.terms = np.empty(0, dtype=np.int64)
        terms = self._count(train)[1]
        self.terms, frequency = np.unique(terms, return_counts=True)
        kept = (self.terms < vocabulary) | (frequency >= MIN_COUNT)
        self.terms, frequency = self.terms[kept], frequency[kept]
        self.weights = np.log((1 + train.count) / (1 + frequency)) + 1

    def __call__(self, found: Texts) -> "Sparse":
        """Return the features of texts."""
        texts, terms, counts = self._count(found)
        places = np.searchsorted(self.terms, terms).clip(max=len(self.terms) - 1)
        known = self.terms[places] == terms
        texts, places, values = texts[known], places[known], counts[known] * self.weights[places[known]]
        norms = np.sqrt(np.bincount(texts, values**2, minlength=found.count))
        rows, columns, entries = map(torch.from_numpy, (texts, places, (values / norms[texts])[:, None]))
        return Sparse(rows, columns, entries, (found.count, len(self.terms)))

    def _count(self, found: Texts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return arrays of texts, terms and counts, one entry per distinct term of a text, sorted by text and term."""
        texts, terms = found.texts, found.tokens.astype(np.int64)
        if self.pairs:
            together = texts[1:] == texts[:-1]
            pair = (self.vocabulary * (1 + terms[:-1]) + terms[1:])[together]
            texts, terms = np.concatenate([texts, texts[1:][together]]), np.concatenate([terms, pair])
        size = self.vocabulary * (self.vocabulary + 1)
        keys, counts = np.unique(texts.astype(np.int64) * size + terms, return_counts=True)
        return keys // size, keys % size, counts.astype(np.float64)


class Sparse(NamedTuple):
    """Sparse float64 matrix; it and its transpose can be multiplied by a dense matrix.

    It replaces torch's sparse tensors, which print a warning that they are in beta.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor  # (entries, 1)
    shape: tuple[int, int]

    def times(self, dense: Tensor) -> Tensor:
        """Return the product with a dense matrix."""
        out = dense.new_zeros(self.shape[0], dense.shape[1])
        return out.index_add_(0, self.rows, self.values * dense[self.columns])

    def transposed_times(self, dense: Tensor) -> Tensor:
        """Return the product of the transpose with a dense matrix."""
        out = dense.new_zeros(self.shape[1], dense.shape[1])
        return out.index_add_(0, self.columns, self.values * dense[self.rows])


class LinearModel:
    """Linear model on TF-IDF features with an L2 penalty, in float64 on the CPU.

    Args:
        train: Training texts; about the first 50,000 are read.
        val: Validation texts to choose the penalty and whether to use token pairs; None for a penalty of 1 and
            single tokens only.
        vocabulary: Number of different tokens.
        target: Function that returns the targets of a batch: classes (B,) for logistic regression, or values
            (B, targets) for ridge regression.
        classes: Number of classes; None for ridge regression.
    """

    def __init__(
        self,
        train: Iterable[Batch],
        val: Iterable[Batch] | None,
        vocabulary: int,
        target: Callable[[Batch], Tensor],
        classes: int | None,
    ) -> None:
        self.target = target
        texts, held_out = Texts(train, target, MAX_EXAMPLES), None if val is None else Texts(val, target)
        best = float("inf")
        for pairs in (False,) if held_out is None else (False, True):
            features = Features(texts, vocabulary, pairs)
            matrix = features(texts)
            other = matrix if held_out is None else features(held_out)
            weights = torch.zeros(matrix.shape[1] + 1, classes or texts.targets.shape[1], dtype=torch.float64)
            for penalty in (DEFAULT_PENALTY,) if held_out is None else sorted(PENALTIES, reverse=True):
                weights = fit(matrix, texts.targets, penalty, weights)
                error = mistakes(other.times(weights[:-1]) + weights[-1], (held_out or texts).targets)
                if error < best:
                    best, self.features, self.weights, self.penalty = error, features, weights, penalty

    def __call__(self, batch: Batch) -> Tensor:
        """Return the outputs (B, outputs) for a batch, in float64 on the CPU."""
        return self.features(Texts([batch], self.target)).times(self.weights[:-1]) + self.weights[-1]

    @property
    def description(self) -> str:
        """Note for the user about the chosen features and penalty."""
        terms = f"tokens{' and pairs of tokens' * self.features.pairs}"
        return f"baseline: TF-IDF of {len(self.features.terms):,} {terms}, penalty {self.penalty:g}"


def mistakes(outputs: Tensor, targets: Tensor) -> float:
    """Return the fraction of wrong classes, or the mean absolute error of values."""
    if targets.dim() == 1:
        return float((outputs.argmax(1) != targets).double().mean())
    return float((outputs - targets).abs().mean())


def fit(matrix: Sparse, targets: Tensor, penalty: float, start: Tensor) -> Tensor:
    """Return the weights that minimize the mean loss plus ``penalty / (2 * texts)`` times the sum of their squares.

    The loss is the cross-entropy of classes, or half the squared error of values. The last row is the bias, which is
    not penalized.

    Args:
        matrix: Features.
        targets: Classes (texts,) or values (texts, targets).
        start: Initial weights.
    """
    weights, count = start.clone().requires_grad_(), len(targets)
    weights.grad = torch.zeros_like(start)
    numbers = targets.dim() == 2
    onehot = targets.double() if numbers else torch.nn.functional.one_hot(targets, start.shape[1]).double()
    optimizer = torch.optim.LBFGS([weights], max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe")

    @torch.no_grad()
    def closure() -> Tensor:
        outputs = matrix.times(weights[:-1]) + weights[-1]
        error = (outputs if numbers else outputs.softmax(1)) - onehot
        loss = 0.5 * error.square().sum() if numbers else -(outputs.log_softmax(1) * onehot).sum()
        assert weights.grad is not None
        weights.grad[:-1] = (matrix.transposed_times(error) + penalty * weights[:-1]) / count
        weights.grad[-1] = error.sum(0) / count
        return (loss + 0.5 * penalty * weights[:-1].square().sum()) / count

    optimizer.step(closure)
    return weights.detach()

"""Ridge regression fitted on batches: the linear baseline of forecasting."""

from collections.abc import Iterable

import torch
from torch import Tensor

from dltrain.tasks.base import Batch

MAX_SIZE = 2_048  # maximum number of inputs, and of outputs, per example
MAX_EXAMPLES = 10_000  # maximum number of examples used per split
PENALTIES = [10.0 ** (n / 2) for n in range(-14, 3)]  # per training example
DEFAULT_PENALTY = 0.01  # per training example, if there are no validation examples


class Ridge:
    """Linear regression of flattened targets on flattened inputs, with an L2 penalty on the weights.

    The fit is computed in float64 on the CPU, so that it does not depend on the device or the precision.

    Args:
        train: Shuffled batches; the first 10,000 examples are used.
        val: Batches whose first 10,000 examples select the penalty with the smallest squared error; None for a penalty
            of 0.01 per training example, which suits inputs with a standard deviation of about 1.

    The attribute ``deviation``, (outputs,), has the root mean squared error of each output on the examples of ``val``,
    or of ``train`` if ``val`` is None.

    Source: Hoerl and Kennard 1970, "Ridge regression: biased estimation for nonorthogonal problems".
    """

    def __init__(self, train: Iterable[Batch], val: Iterable[Batch] | None) -> None:
        fitted = Moments(train)
        variances, axes = torch.linalg.eigh(fitted.inputs)
        products = axes.T @ fitted.products
        models = (
            fitted.affine(axes @ (products / (variances.clamp(min=0) + penalty)[:, None]))
            for penalty in (PENALTIES if val is not None else [DEFAULT_PENALTY])
        )
        held = fitted if val is None else Moments(val)
        self.weights, self.bias = best = min(models, key=held.relative_error)
        self.deviation = held.deviation(best)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the predictions: (B, ...) -> (B, outputs), in float64 on the CPU."""
        return flat_double(inputs) @ self.weights + self.bias


class Moments:
    """Means of inputs and targets, covariances of the inputs with themselves and the targets, and target variances."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        count, sums, targets, squares, products, powers = 0, *[torch.zeros(())] * 5
        for batch in batches:
            x, y = (flat_double(batch[name])[: MAX_EXAMPLES - count] for name in ("inputs", "targets"))
            count += len(x)
            sums, targets = sums + x.sum(0), targets + y.sum(0)
            squares, products, powers = squares + x.T @ x, products + x.T @ y, powers + y.square().sum(0)
            if count == MAX_EXAMPLES:
                break
        self.input_mean, self.target_mean = sums / count, targets / count
        self.inputs = squares / count - torch.outer(self.input_mean, self.input_mean)
        self.products = products / count - torch.outer(self.input_mean, self.target_mean)
        self.target_variance = powers / count - self.target_mean.square()

    def affine(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights and the bias for which the mean input predicts the mean target."""
        return weights, self.target_mean - self.input_mean @ weights

    def deviation(self, model: tuple[Tensor, Tensor]) -> Tensor:
        """Return the root mean squared error of each output, (outputs,)."""
        weights, bias = model
        offset = self.input_mean @ weights + bias - self.target_mean
        variance = self.target_variance + (weights * (self.inputs @ weights - 2 * self.products)).sum(0)
        return (variance.clamp(min=0) + offset.square()).sqrt()

    def relative_error(self, model: tuple[Tensor, Tensor]) -> float:
        """Return the sum of squared errors per example, up to a constant that is the same for all models."""
        weights, bias = model
        offset = self.input_mean @ weights + bias - self.target_mean
        return float((weights * (self.inputs @ weights - 2 * self.products)).sum() + offset.square().sum())


def flat_double(values: Tensor) -> Tensor:
    """Return (B, ...) as (B, values) in float64 on the CPU, because some devices lack float64."""
    return values.cpu().double().flatten(1)

"""What would be lost where numbers are rounded to float32: small moves of large numbers, and small deviations."""

import numpy as np
import torch
from torch import Tensor

# Below this part of a mean, a deviation is what rounding to float64 leaves of a number that never changes.
ROUNDING = 1e-12
SMALLEST = float(np.finfo(np.float32).tiny)


def exact_pairs(values: np.ndarray) -> Tensor:
    """Series (rows, columns) in float64 as float32 (2 x columns, rows): the rounded values, then what rounding took.

    Two float32 hold a float64's digits also on devices that have no float64, so that small moves of large numbers
    survive; see `dltrain.datasets.windows.Normalise`.
    """
    rounded = values.astype(np.float32)
    rest = (values - rounded).astype(np.float32)
    return torch.from_numpy(np.concatenate([rounded, rest], axis=1).T.copy())


def exact_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of two tensors as a pair: rounded, and what rounding took. Source: Knuth, TAOCP 2, section 4.2.2."""
    rounded = a + b
    of_b = rounded - a
    return rounded, (a - (rounded - of_b)) + (b - of_b)


def deviation(values: np.ndarray) -> np.ndarray:
    """The standard deviation of each column (rows, columns) in float64, or 1 where nothing but rounding moves it."""
    return not_zero(values.std(axis=0), values)


def not_zero(scale: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A scale (columns,), or 1 for columns of ``values`` (rows, columns) that never change: they keep their units."""
    moves = values.max(axis=0) > values.min(axis=0)
    least = np.maximum(ROUNDING * np.abs(values.mean(axis=0)), SMALLEST)
    return np.where(moves & (scale > least), scale, 1.0)

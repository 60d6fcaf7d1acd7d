"""Numerics of normalization: nearly float64 precision on devices that have only float32, and nonzero scales."""

import numpy as np
import torch
from torch import Tensor

# Below this fraction of the mean, a scale is only rounding error of float64.
ROUNDING = 1e-12
SMALLEST = float(np.finfo(np.float32).tiny)


def split_float64(values: np.ndarray) -> Tensor:
    """Split float64 (rows, columns) into float32 (2 * columns, rows): rounded values, then the rounding errors.

    The pair keeps about 48 bits on every device, so that small changes of large values are not lost; see
    `dltrain.datasets.windows.Normalize`.
    """
    rounded = values.astype(np.float32)
    remainder = (values - rounded).astype(np.float32)
    return torch.from_numpy(np.concatenate([rounded, remainder], axis=1).T.copy())


def columns_first(values: np.ndarray) -> Tensor:
    """Return float64 (rows, columns) as float32 (columns, rows)."""
    return torch.from_numpy(values.astype(np.float32).T.copy())


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rounded sum and its exact rounding error. Source: Knuth, TAOCP 2, section 4.2.2."""
    rounded = a + b
    of_b = rounded - a
    return rounded, (a - (rounded - of_b)) + (b - of_b)


def nonzero_std(values: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each column of (rows, columns) in float64; 1 for constant columns."""
    return replace_zero(values.std(axis=0), values)


def replace_zero(scale: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return scales (columns,) with 1 where a scale is zero up to rounding or the column of ``values`` is constant.

    Args:
        values: Values (rows, columns) from which the scales were computed.
    """
    varies = values.max(axis=0) > values.min(axis=0)
    threshold = np.maximum(ROUNDING * np.abs(values.mean(axis=0)), SMALLEST)
    return np.where(varies & (scale > threshold), scale, 1.0)

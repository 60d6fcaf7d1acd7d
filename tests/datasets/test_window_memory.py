"""The memory of time series windows grows with the number of rows, not with the window length."""

import csv

import pytest
import torch

from dltrain.data.selection import Selection
from dltrain.datasets.time_series import TimeSeries

ROWS = 2_000


@pytest.mark.parametrize("series", [1, 2])
def test_windows_are_views_of_the_rows(series, tmp_path):
    path, stored = tmp_path / "a.csv", []
    with path.open("w", newline="") as file:
        rows = ([f"{row:04d}-01-01", name, row % 7 + 0.5] for name in "ab"[:series] for row in range(1000, 1000 + ROWS))
        csv.writer(file).writerows([["year", "name", "value"], *rows])
    group = {"group": "name"} if series > 1 else {}
    for window in (10, 200):
        fields = TimeSeries(path=str(path), column="value", window=window, **group).load().train.rows
        tensors = [part for field in fields.values() for part in parts(field)]
        stored.append(sum(tensor.untyped_storage().nbytes() for tensor in tensors))
    assert stored[1] <= stored[0] < 40 * series * ROWS, "at most 40 bytes per row"


def parts(field: torch.Tensor | Selection) -> list[torch.Tensor]:
    return [field.values, field.rows] if isinstance(field, Selection) else [field]

"""Selected rows of a tensor as one field of a split, without a copy."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Selection:
    """Selected rows of a tensor, such as the windows that lie within one series; copied only when they are read.

    Args:
        values: All rows, (n, ...); may be a view of overlapping windows.
        rows: Indices of the selected rows, int64 (examples,).
    """

    values: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, examples: Tensor | slice) -> Tensor:
        """Return a copy of the rows of these examples."""
        return self.values[self.rows[examples]]

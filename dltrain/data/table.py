"""A user's own table in a CSV file: numbers and words in columns, one of which is predicted."""

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.data.arguments import at_least, file, fractions, one_of
from dltrain.data.batches import Batch
from dltrain.data.delimited import Table, holes_in, is_hole, numbers, read, refuse_holes
from dltrain.data.spec import Source, Spec, Splits
from dltrain.data.splitting import permutation, share
from dltrain.errors import ConfigError, problem

FEW_CLASSES = 20
MOST_WORDS = 1000


class CsvTable:
    """A CSV file with one example per row; which rows are held out is random but always the same.

    Columns of numbers are standardised with the mean and deviation of the training part. Columns of words become one
    column of 0 and 1 per word of the training part; another word, and a hole under ``holes=mean``, is a row of zeros.
    A column of words to predict is a set of classes; of numbers, it is a number; of at most 20 different whole
    numbers, it is both: ``targets`` counts the classes and ``values`` holds the numbers.

    Args:
        path: The file; its first line names the columns.
        column: What is predicted; None takes the last column.
        holes: What to do with empty cells, NA and NaN: ``refuse``, or ``mean`` of the training part. A hole in the
            predicted column is always refused.
        validation: Fraction of the rows that is held out for validation.
        test: Fraction of the rows that is held out for the test.
        batch_size: Examples per step.
        workers: Not needed here: the table stays in memory.
    """

    def __init__(
        self,
        path: str,
        column: str | None = None,
        holes: str = "refuse",
        validation: float = 0.15,
        test: float = 0.15,
        batch_size: int = 64,
        workers: int = 0,
    ) -> None:
        fractions(validation, test)
        self.fill = one_of("data.holes", holes, ("refuse", "mean")) == "mean"
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        table = read(file(path, "an existing CSV file"))
        self.parts = _parts(table, validation, test)
        self.target = table.place(column or table.header[-1])
        self.inputs = self._inputs(table)
        self.rows, facts = _targets(table, self.target)
        size = self.inputs.shape[1]
        self.spec = Spec(shape=(size,), size=size, target_names=(table.header[self.target],), **facts)

    def load(self) -> Splits:
        """Cut the rows into the three parts."""
        rows = {"inputs": self.inputs, **self.rows}
        sources = [Source({name: value[part] for name, value in rows.items()}, Ready()) for part in self.parts]
        train, val, test = sources
        return Splits(train, val if len(val) else None, test)

    def _inputs(self, table: Table) -> Tensor:
        """All columns but the predicted one, (rows, size) in float32."""
        places = [place for place in range(len(table.header)) if place != self.target]
        if not places:
            raise ConfigError(problem("data.path", "a column besides the predicted one", table.header[self.target]))
        if not self.fill:
            refuse_holes(table, places, "data.holes=mean")
        train = self.parts[0].numpy()
        blocks = [_standardised(table, place, train) if table.numeric(place) else _one_hot(table, place, train)
                  for place in places]
        return torch.from_numpy(np.concatenate(blocks, axis=1).astype(np.float32))


class Ready(nn.Module):
    """Rows that are stored as the task reads them."""

    def forward(self, rows: Batch) -> Batch:
        """Pass the rows on; small whole numbers are widened to int64."""
        return dict(rows)

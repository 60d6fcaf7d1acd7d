"""Logical functions of two inputs: what one threshold unit can compute, and what it cannot."""

from collections.abc import Iterator

import torch

from dltrain.data.checks import at_least, one_of
from dltrain.data.inputs import Given
from dltrain.data.spec import Inputs, Spec, Splits
from dltrain.datasets.array_inputs import array_inputs
from dltrain.datasets.table import as_they_are

INPUTS = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
GATES = {
    "and": [0, 0, 0, 1],
    "or": [0, 1, 1, 1],
    "nand": [1, 1, 1, 0],
    "nor": [1, 0, 0, 0],
    "xor": [0, 1, 1, 0],
    "xnor": [1, 0, 0, 1],
}


class Gates:
    """The four lines of a truth table.

    They are all that there is: the same four examples train, validate and test, and a test accuracy says what a model
    can represent and has learned, not what it would make of anything new.

    Args:
        gate: ``and``, ``or``, ``nand``, ``nor``, which one line divides, and ``xor``, ``xnor``, which none does.
        batch_size: Examples per step.
        workers: Not needed here.

    Source: McCulloch, Pitts 1943, "A logical calculus of the ideas immanent in nervous activity"; Minsky, Papert 1969,
    "Perceptrons".
    """

    def __init__(self, gate: str = "xor", batch_size: int = 1, workers: int = 0) -> None:
        self.gate = one_of("data.gate", gate, GATES)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.spec = Spec(shape=(2,), size=2, classes=2, class_names=("false", "true"))

    def load(self) -> Splits:
        """The truth table, three times."""
        rows = {"inputs": torch.tensor(INPUTS), "targets": torch.tensor(GATES[self.gate])}
        return as_they_are(rows, rows, rows)

    def inputs(self, given: Given) -> Iterator[Inputs]:
        """Read a user's arrays of two numbers each."""
        return array_inputs(given, (2,))

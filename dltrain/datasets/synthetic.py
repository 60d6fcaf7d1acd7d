"""Small data sets that are computed instead of read: logic gates and a ring of Gaussians."""

import math
from collections.abc import Iterator

import torch
from torch import nn

from dltrain.data.checks import at_least, one_of
from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Inputs, Source, Spec, Splits
from dltrain.datasets.array_inputs import read_arrays
from dltrain.errors import ConfigError, format_error
from dltrain.keyed_random import normal

GATE_INPUTS = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
GATES = {
    "and": [0, 0, 0, 1],
    "or": [0, 1, 1, 1],
    "nand": [1, 1, 1, 0],
    "nor": [1, 0, 0, 0],
    "xor": [0, 1, 1, 0],
    "xnor": [1, 0, 0, 1],
}
RING_SIZES = {"train": 10_000, "val": 2_000, "test": 2_000}


class Gates:
    """The four rows of a truth table of two inputs.

    The same four examples are the training, validation and test splits: the accuracy shows what a model can
    represent and learn, not how it generalizes.

    Args:
        gate: ``and``, ``or``, ``nand``, ``nor`` (linearly separable), ``xor`` or ``xnor`` (not linearly separable).
        batch_size: Examples per batch, at least 1.
        workers: Unused: the rows stay in memory.

    Source: McCulloch, Pitts 1943, "A logical calculus of the ideas immanent in nervous activity"; Minsky, Papert 1969,
    "Perceptrons".
    """

    def __init__(self, gate: str = "xor", batch_size: int = 1, workers: int = 0) -> None:
        self.gate = one_of("data.gate", gate, GATES)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.prepare = nn.Identity()
        self.spec = Spec(shape=(2,), size=2, classes=2, class_names=("false", "true"))

    def load(self) -> Splits:
        """Return the truth table as all three splits."""
        rows = {"inputs": torch.tensor(GATE_INPUTS), "targets": torch.tensor(GATES[self.gate])}
        source = Source(rows, nn.Identity())
        return Splits(source, source, source)

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read arrays of pairs of numbers."""
        return read_arrays(files, (2,))


class Ring:
    """Points of Gaussians whose means lie evenly on a circle; the class is the index of the Gaussian.

    The points do not depend on a seed: every run uses the same 10,000 training, 2,000 validation and 2,000 test points,
    whose class counts differ by at most one. On other CPUs, the last digits of some points may differ.

    Args:
        modes: Number of Gaussians, at least 1.
        radius: Radius of the circle, above 0.
        std: Standard deviation of each Gaussian along both axes, above 0.
        batch_size: Examples per batch, at least 1.
        workers: Unused: the points stay in memory.

    Source: Metz et al. 2017, "Unrolled generative adversarial networks", section 3.1 and appendix A.
    """

    def __init__(
        self, modes: int = 8, radius: float = 2.0, std: float = 0.02, batch_size: int = 256, workers: int = 0
    ) -> None:
        self.modes = at_least("data.modes", modes, 1)
        self.radius, self.std = _above_zero("data.radius", radius), _above_zero("data.std", std)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        names = tuple(f"{360 * mode / modes:.4g}°" for mode in range(modes))
        self.prepare = nn.Identity()
        self.spec = Spec(shape=(2,), size=2, classes=modes, class_names=names)

    def load(self) -> Splits:
        """Compute all points, and return the splits."""
        classes = torch.arange(sum(RING_SIZES.values())) % self.modes
        angles = classes * (2 * math.pi / self.modes)
        means = self.radius * torch.stack([angles.cos(), angles.sin()], 1)
        points = means + self.std * normal(torch.arange(len(classes)), 2)
        parts = zip(*(values.split(list(RING_SIZES.values())) for values in (points, classes)), strict=True)
        settings = f"ring {self.modes} {self.radius} {self.std}"
        sources = (Source({"inputs": x, "targets": y}, nn.Identity(), fingerprinted=settings) for x, y in parts)
        return Splits(*sources)

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read arrays of points."""
        return read_arrays(files, (2,))


def _above_zero(key: str, value: float) -> float:
    if not value > 0:
        raise ConfigError(format_error(key, "a number above 0", value))
    return value

"""A ring of Gaussians in the plane: how many of them a generative model finds can be counted."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from dltrain.data.checks import at_least
from dltrain.data.inputs import Given
from dltrain.data.loader import uniform
from dltrain.data.spec import Inputs, Spec, Splits
from dltrain.datasets.array_inputs import array_inputs
from dltrain.datasets.table import as_they_are
from dltrain.errors import ConfigError, format_error

EXAMPLES = {"train": 10_000, "val": 2_000, "test": 2_000}


class Ring:
    """Points of several normal distributions whose means lie evenly on a circle; the class is which of them.

    All points are named by their number alone, so that every run and every machine sees the same 10,000 to train on,
    2,000 to choose by and 2,000 to test on, with equally many of each class.

    Args:
        modes: Number of distributions, at least 1.
        radius: Of the circle.
        std: Deviation of each distribution along both axes.
        batch_size: Examples per step.
        workers: Not needed here: all points stay in memory.

    Source: Metz et al. 2017, "Unrolled generative adversarial networks", section 3.1 and appendix A.
    """

    def __init__(
        self, modes: int = 8, radius: float = 2.0, std: float = 0.02, batch_size: int = 256, workers: int = 0
    ) -> None:
        self.modes = at_least("data.modes", modes, 1)
        self.radius, self.std = _positive("data.radius", radius), _positive("data.std", std)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        names = tuple(f"{360 * mode / modes:.4g}°" for mode in range(modes))
        self.spec = Spec(shape=(2,), size=2, classes=modes, class_names=names)

    def load(self) -> Splits:
        """Draw all points and cut them into splits."""
        classes = torch.arange(sum(EXAMPLES.values())) % self.modes
        angles = classes * (2 * math.pi / self.modes)
        points = self.radius * torch.stack([angles.cos(), angles.sin()], 1) + self.std * normal(len(classes))
        cut = zip(*(values.split(list(EXAMPLES.values())) for values in (points, classes)), strict=True)
        return as_they_are(*({"inputs": inputs, "targets": targets} for inputs, targets in cut))

    def inputs(self, given: Given) -> Iterator[Inputs]:
        """Read a user's arrays of points."""
        return array_inputs(given, (2,))


def normal(count: int) -> Tensor:
    """Pairs of standard normal numbers, the same on every machine: float32 (count, 2).

    Source: Box and Muller 1958, "A note on the generation of random normal deviates".
    """
    radius, turn = uniform(torch.arange(count), 2).unbind(1)
    radius, turn = (-2 * (1 - radius).log()).sqrt(), 2 * math.pi * turn
    return torch.stack([radius * turn.cos(), radius * turn.sin()], 1)


def _positive(key: str, value: float) -> float:
    if not value > 0:
        raise ConfigError(format_error(key, "a number above 0", value))
    return value

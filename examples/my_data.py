"""Custom data: points on the arms of a spiral, labeled with the number of their arm."""

import csv
from collections.abc import Iterator
from itertools import pairwise
from math import pi

import torch
from torch import Tensor, nn

from dltrain.data.inputs import InputFiles
from dltrain.data.spec import Inputs, Source, Spec, Splits
from dltrain.errors import ConfigError, format_error


class Prepare(nn.Module):
    """Module that converts rows to the fields of a batch."""

    def forward(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``points`` (B, 2) as ``inputs`` and, if known, ``labels`` (B,) as ``targets``."""
        batch = {"inputs": rows["points"]}
        return batch | {"targets": rows["labels"]} if "labels" in rows else batch


class Spirals:
    """Arms of a spiral, one class each.

    Args:
        arms: Number of arms.
        examples: Total number of points in the three splits.
        batch_size: Examples per batch.
        workers: Worker processes; unused, because no files are decoded.
    """

    def __init__(self, arms: int = 3, examples: int = 3000, batch_size: int = 64, workers: int = 0) -> None:
        self.arms, self.examples = arms, examples
        self.batch_size, self.workers = batch_size, workers
        names = tuple(f"arm {number}" for number in range(arms))
        self.spec = Spec(shape=(2,), size=2, classes=arms, class_names=names)

    def load(self) -> Splits:
        """Return 60 % of the points for training, 20 % each for validation and test."""
        noise = torch.Generator().manual_seed(0)
        labels = torch.arange(self.examples) % self.arms
        radius = torch.rand(self.examples, generator=noise)
        angle = 2 * pi * (labels / self.arms + radius) + 0.1 * torch.randn(self.examples, generator=noise)
        points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
        cuts = [0, int(0.6 * self.examples), int(0.8 * self.examples), self.examples]
        train, val, test = (
            Source({"points": points[start:end], "labels": labels[start:end]}, Prepare())
            for start, end in pairwise(cuts)
        )
        return Splits(train, val, test)

    def inputs(self, files: InputFiles) -> Iterator[Inputs]:
        """Read points for ``dltrain predict``: CSV files with two numbers per line."""
        expected = "CSV files with two numbers per line"
        for file in files.expand(expected):
            try:
                with file.open_text() as lines:
                    points = torch.tensor([[float(x), float(y)] for x, y in csv.reader(lines)]).view(-1, 2)
            except (ValueError, csv.Error) as error:
                raise ConfigError(format_error(f"INPUT {file.number}", expected, file.path, f"{error}.")) from None
            names = [{"input": file.path.name, "line": number + 1} for number in range(len(points))]
            yield Inputs({"points": points}, names)

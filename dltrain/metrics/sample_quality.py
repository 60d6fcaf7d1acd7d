"""How good made-up examples are, beside real ones."""

from collections.abc import Iterator
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from dltrain.metrics import generative

SIDE = 8  # pictures are averaged to at most so many pixels each way
ROWS = 512  # pictures that go through the network at a time
NEIGHBOURS = 2000  # precision and recall compare every example with every other


class Network(Protocol):
    """A trained classifier through which pictures are looked at."""

    name: str

    def __call__(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, F) and logits (B, classes) of pictures from 0 to 1."""


class Quality:
    """Compares made-up examples with real ones by features: those of a classifier, or the examples as they are.

    Args:
        classes: Number of classes of the data; None where they have none.
        network: The classifier; `Task.look_through` sets it.
    """

    figures: ClassVar[tuple[str, ...]] = ("frechet", "precision", "recall", "classifier_score")

    def __init__(self, classes: int | None = None, network: Network | None = None) -> None:
        self.classes, self.network = classes, network
        self.raw = "points"  # what is compared without a network, as far as it has been seen

    @property
    def name(self) -> str:
        """What the features are; figures with other features cannot be compared."""
        return self.raw if self.network is None else self.network.name

    def measure(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        """The scores of made-up examples.

        Args:
            real: Examples of the data; pictures from 0 to 1.
            fake: As many made-up ones.

        Returns:
            frechet (0 is best), precision and recall (1 is best; of the first 2,000 of both), and with a classifier
            classifier_score (the number of classes is best).
        """
        (real, _), (fake, logits) = self.features(real), self.features(fake)
        precision, recall = generative.precision_recall(real[:NEIGHBOURS], fake[:NEIGHBOURS])
        found = {"frechet": generative.frechet(real, fake), "precision": precision, "recall": recall}
        return found if logits is None else {**found, "classifier_score": generative.classifier_score(logits)}

    def features(self, examples: Tensor) -> tuple[Tensor, Tensor | None]:
        """What is compared, one row per example on the CPU, and the classifier's logits if there is one."""
        examples = examples.detach().float()
        if self.network is None:
            return self._plain(examples).flatten(1).cpu(), None
        features, logits = zip(*self._seen(examples), strict=True)
        return torch.cat(features), torch.cat(logits)

    def _seen(self, pictures: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Some pictures at a time; in full precision, whatever the model that made them computes in."""
        assert self.network is not None
        for rows in pictures.split(ROWS):
            with torch.autocast(rows.device.type, enabled=False), torch.no_grad():
                features, logits = self.network(rows)
            yield features.cpu(), logits.cpu()

    def _plain(self, examples: Tensor) -> Tensor:
        if examples.dim() != 4:
            self.raw = "points"
            return examples
        height, width = (min(SIDE, side) for side in examples.shape[2:])
        averaged = (height, width) != tuple(examples.shape[2:])
        self.raw = f"pixels averaged to {width}x{height}" if averaged else f"pixels, {width}x{height}"
        return F.adaptive_avg_pool2d(examples, (height, width))

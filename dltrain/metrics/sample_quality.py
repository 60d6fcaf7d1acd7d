"""Quality of generated samples in comparison with real examples."""

from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from dltrain.metrics import generative

MAX_SIDE = 8  # images are averaged to at most this many pixels per side
BATCH_SIZE = 512  # images per pass through the network
MAX_COMPARED = 2000  # examples for precision and recall, which compare all pairs


class Network(Protocol):
    """A trained classifier that computes features of images."""

    name: str

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, F) and logits (B, classes) of images in [0, 1]."""


class Quality:
    """Scores of generated samples, from the features of a classifier or from the examples themselves.

    Args:
        network: Classifier, which may also be set later.
    """

    metrics: ClassVar[tuple[str, ...]] = ("frechet", "precision", "recall", "classifier_score")

    def __init__(self, network: Network | None = None) -> None:
        self.network = network
        self._raw_name = "points"  # name of the features without a network; `features` updates it

    @property
    def name(self) -> str:
        """Name of the features; scores of different features are not comparable."""
        return self._raw_name if self.network is None else self.network.name

    def measure(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        """Return scores of generated samples in comparison with real examples; images are in [0, 1].

        The scores are ``frechet`` (0 is best), ``precision`` and ``recall`` (1 is best) and, with a classifier,
        ``classifier_score`` (the number of classes is best). ``precision`` and ``recall`` are computed from the first
        2,000 real and the first 2,000 generated examples only.
        """
        (real, _), (fake, logits) = self.features(real), self.features(fake)
        precision, recall = generative.precision_recall(real[:MAX_COMPARED], fake[:MAX_COMPARED])
        scores = {"frechet": generative.frechet(real, fake), "precision": precision, "recall": recall}
        return scores if logits is None else {**scores, "classifier_score": generative.classifier_score(logits)}

    def features(self, examples: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features on the CPU, one row per example, and the logits of the classifier if there is one."""
        examples = examples.detach().float()
        if self.network is None:
            return self._downsample(examples).flatten(1).cpu(), None
        parts = []
        for rows in examples.split(BATCH_SIZE):
            with torch.autocast(rows.device.type, enabled=False), torch.no_grad():
                features, logits = self.network(rows)
            parts.append((features.cpu(), logits.cpu()))
        all_features, all_logits = zip(*parts, strict=True)
        return torch.cat(all_features), torch.cat(all_logits)

    def _downsample(self, examples: Tensor) -> Tensor:
        if examples.dim() != 4:
            self._raw_name = "points"
            return examples
        height, width = (min(MAX_SIDE, side) for side in examples.shape[2:])
        averaged = (height, width) != tuple(examples.shape[2:])
        self._raw_name = f"pixels averaged to {width}x{height}" if averaged else f"pixels, {width}x{height}"
        return F.adaptive_avg_pool2d(examples, (height, width))

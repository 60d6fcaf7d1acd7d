"""Base class of tasks that train an encoder and a decoder, with plots of codes and reconstructions."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dltrain.plots import charts, grids
from dltrain.tasks import sampling
from dltrain.tasks.base import Evaluation, GenerateRequest, Media, Stage, Task, check_parts
from dltrain.tasks.pixel_range import PixelRange

GRID_COLUMNS = 8  # maximum number of images per row of a grid
NUM_RECONSTRUCTED = 16  # maximum number of examples that are shown next to their reconstructions
NUM_CODES = 2_000  # maximum number of codes in the scatter plot


@dataclass(eq=False)
class Autoencoding(Task):
    """Base class of tasks for a model with ``encoder(x, labels)`` and ``decoder(code, labels)``.

    Images are compared in [0, 1] from black to white; a sigmoid maps the decoder's output to this range. Other data are
    compared in the scale of the model's inputs.

    Args:
        low, high: Model inputs for black and white, one number per channel; None for data without bounds.
    """

    metric = "loss"
    statistics: ClassVar[int]  # encoder outputs per latent variable

    shape: list[int]
    size: int
    low: list[float] | None = None
    high: list[float] | None = None
    class_names: list[str] | None = None

    def __post_init__(self) -> None:
        self.pixel_range = PixelRange(self.low, self.high)

    @property
    def has_images(self) -> bool:
        """Whether the examples are images."""
        return self.pixel_range.bounded and len(self.shape) == 3

    def facts(self) -> dict[str, Any]:
        """Return the spec values for the model: the number of encoder outputs per latent variable."""
        return {"statistics": self.statistics}

    def stages(self, model: nn.Module) -> list[Stage]:
        """Return one stage that trains encoder and decoder."""
        check_parts(model, ("encoder", "decoder"), "a model with an encoder and a decoder, such as vae or autoencoder")
        return super().stages(model)

    def to_data_range(self, outputs: Tensor) -> Tensor:
        """Map the decoder's output to [0, 1] for images, and to the scale of the model's inputs for other data."""
        return outputs.sigmoid() if self.pixel_range.bounded else outputs

    @abstractmethod
    def codes(self, model: nn.Module, inputs: Tensor, labels: Tensor | None) -> Tensor:
        """Return the code of each example, (B, latent): a point, or the mean of a Gaussian."""

    @abstractmethod
    def sample_codes(self, model: nn.Module, request: GenerateRequest, count: int) -> Tensor:
        """Draw codes of new examples, (count, latent)."""

    def sample_endpoints(self, model: nn.Module, request: GenerateRequest, count: int) -> Tensor:
        """Draw codes for the ends of interpolation paths, (count, latent)."""
        return self.sample_codes(model, request, count)

    def generate(self, model: nn.Module, request: GenerateRequest) -> Tensor:
        """Return decoded random codes, decoded interpolation paths, or reconstructions of given examples.

        If no class is requested, a conditional model draws a random class for each random code or path, and
        reconstructs given examples without a class.
        """
        if request.given is not None:
            given = request.given.to(request.device)
            labels = sampling.requested_labels(model, request, len(given), draw=False)
            return self.to_data_range(decode(model, self.codes(model, given, labels), labels))
        paths, steps = sampling.path_layout(request)
        labels = sampling.requested_labels(model, request, paths)
        if request.interpolate:
            start, end = self.sample_endpoints(model, request, 2 * paths).chunk(2)
            codes = sampling.lerp_path(start, end, steps)
            labels = None if labels is None else labels.repeat_interleave(steps)
        else:
            codes = self.sample_codes(model, request, paths)
        return self.to_data_range(decode(model, codes, labels))[: request.count]

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return images next to their reconstructions, and a scatter plot of codes with at least two dimensions."""
        collected: CollectedExamples = evaluation.extra["collected"]
        media = []
        if self.has_images:
            versions = len(collected.examples)
            interleaved = torch.stack(collected.examples, 1).flatten(0, 1)
            media.append(Media("reconstructions", grids.images(interleaved, GRID_COLUMNS // versions * versions)))
        if collected.codes.shape[1] > 1:
            media.append(Media("codes", self._plot_codes(collected)))
        return media

    def _plot_codes(self, collected: "CollectedExamples") -> Tensor:
        """Draw 2-D codes, or the first two principal components of codes with more dimensions."""
        points, title = collected.codes, "codes"
        if points.shape[1] > 2:
            title = f"2 of {points.shape[1]} principal components"
            points = points @ principal_axes(points)[:, :2]
        labels = collected.labels if self.class_names and len(collected.labels) else None
        return charts.scatter(points, labels, self.class_names or [], title)


class CollectedExamples:
    """First examples of a split, original and reconstructed, and the first codes, for plots."""

    def __init__(self) -> None:
        self.examples: list[Tensor] = []
        self.codes, self.labels = torch.empty(0), torch.empty(0, dtype=torch.int64)

    def add_examples(self, *versions: Tensor) -> None:
        """Keep the first `NUM_RECONSTRUCTED` examples of each version, such as original and reconstructed."""
        self.examples = [version[:NUM_RECONSTRUCTED].cpu() for version in versions]

    def add_codes(self, codes: Tensor, labels: Tensor | None) -> None:
        """Add the codes of a batch and their classes, if any, up to `NUM_CODES` codes in total."""
        if len(self.codes) < NUM_CODES:
            self.codes = torch.cat([self.codes, codes.cpu()])[:NUM_CODES]
            if labels is not None:
                self.labels = torch.cat([self.labels, labels.cpu()])[:NUM_CODES]


def encode(model: nn.Module, inputs: Tensor, labels: Tensor | None) -> Tensor:
    """Return the encoder's output, (B, statistics * latent), in full precision."""
    return model.encoder(inputs, labels).float()  # type: ignore[operator]


def decode(model: nn.Module, codes: Tensor, labels: Tensor | None) -> Tensor:
    """Return the decoder's output, (B, *shape), in full precision."""
    return model.decoder(codes, labels).float()  # type: ignore[operator]


def principal_axes(rows: Tensor) -> Tensor:
    """Return the principal axes as columns, by decreasing variance.

    The sign of each axis makes its entry with the largest absolute value positive.
    """
    centered = (rows - rows.mean(0)).double()
    axes = torch.linalg.eigh(centered.T @ centered).eigenvectors.flip(1)
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return (axes * largest.sign()).to(rows.dtype)

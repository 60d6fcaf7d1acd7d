"""What the tasks of encoder and decoder share: how they read examples, and pictures of what they have learned."""

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError, format_error
from dltrain.plots import charts, grids
from dltrain.tasks.base import Batch, Evaluation, GenerateRequest, Media, Stage, Task
from dltrain.tasks.pixel_range import PixelRange
from dltrain.tasks.told import chosen, classes_of

PARTS = ("encoder", "decoder")
COLUMNS = 8  # of a sheet of pictures
REMADE = 16  # examples that are shown beside what was made of them
MAPPED = 2_000  # codes that are drawn on the map


class Autoencoding(Task):
    """A model with an ``encoder(x, labels)`` and a ``decoder(code, labels)`` that makes examples again.

    Pictures are compared on the scale from 0 (black) to 1 (white), and the decoder's raw numbers are squashed to it by
    a sigmoid; other data are taken as the model reads them.

    Args:
        shape: Of one example.
        size: Numbers in one example.
        low: What a model reads for black, one number per channel; None for data without bounds.
        high: What it reads for white, likewise.
        class_names: One name per class, for the map of the code.
    """

    metric: ClassVar[str] = "loss"
    better: ClassVar[Literal["min", "max"]] = "min"
    statistics: ClassVar[int]  # numbers the encoder gives for each latent variable

    def __init__(
        self,
        shape: list[int],
        size: int,
        low: list[float] | None = None,
        high: list[float] | None = None,
        class_names: list[str] | None = None,
    ) -> None:
        self.shape, self.size = tuple(shape), size
        self.pixel_range = PixelRange(low, high)
        self.class_names = list(class_names or [])

    @property
    def pictures(self) -> bool:
        """Whether examples can be looked at."""
        return self.pixel_range.bounded and len(self.shape) == 3

    def facts(self) -> dict[str, Any]:
        """How many numbers the encoder gives for each latent variable."""
        return {"statistics": self.statistics}

    def stages(self, model: nn.Module) -> list[Stage]:
        """One, in which encoder and decoder learn together.

        Raises:
            ConfigError: For a model without these parts.
        """
        if not set(PARTS) <= set(getattr(model, "parts", ())):
            expected = "a model with an encoder and a decoder, such as vae or autoencoder"
            raise ConfigError(format_error("model", expected, type(model).__name__))
        return super().stages(model)

    def seen(self, outputs: Tensor) -> Tensor:
        """What the decoder's raw numbers look like: pictures from 0 to 1, other data as a model reads them."""
        return outputs.sigmoid() if self.pixel_range.bounded else outputs

    @abstractmethod
    def codes(self, model: nn.Module, inputs: Tensor, labels: Tensor | None) -> Tensor:
        """The code of each example, (B, latent): a point, or the mean of a Gaussian."""

    @abstractmethod
    def drawn(self, model: nn.Module, request: GenerateRequest, labels: Tensor | None, count: int) -> Tensor:
        """Codes of examples that do not exist, (count, latent)."""

    def ends(self, model: nn.Module, request: GenerateRequest, labels: Tensor | None, count: int) -> Tensor:
        """Codes between which a way leads, (count, latent)."""
        return self.drawn(model, request, labels, count)

    def generate(self, model: nn.Module, request: GenerateRequest) -> Tensor:
        """Decoded codes, or ways of at most eight steps between two codes each, or given examples made again.

        A conditional model for which no class is wished draws one for each example, or for each way; of a given example
        it is told none.

        Raises:
            ConfigError: When a class is wished for that the model does not know.
        """
        if request.given is not None:
            given, labels = (
                request.given.to(request.device),
                chosen(classes_told(model), request, len(request.given), known=False),
            )
            return self.seen(decode(model, self.codes(model, given, labels), labels))
        steps = min(COLUMNS, request.count) if request.interpolate else 1
        ways = math.ceil(request.count / steps)
        labels = chosen(classes_told(model), request, ways)
        if request.interpolate:
            both = None if labels is None else labels.repeat(2)
            start, end = self.ends(model, request, both, 2 * ways).chunk(2)
            codes = between(start, end, steps)
            labels = None if labels is None else labels.repeat_interleave(steps)
        else:
            codes = self.drawn(model, request, labels, ways)
        return self.seen(decode(model, codes, labels))[: request.count]

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Examples beside what was made of them, and the map of the code, coloured by class."""
        memory: Memory = evaluation.extra["memory"]
        shown = []
        if self.pictures:
            versions = len(memory.remade)
            sheet = grids.images(alternating(*memory.remade), COLUMNS // versions * versions)
            shown.append(Media("reconstructions", sheet))
        if memory.codes.shape[1] > 1:
            shown.append(Media("codes", latent_map(memory.codes, memory.labels, self.class_names)))
        return shown


class Memory:
    """The first examples of a split in several versions (as they are, as they are made again), and the first codes."""

    def __init__(self) -> None:
        self.remade: list[Tensor] = []
        self.parts: list[tuple[Tensor, Tensor | None]] = []
        self.count = 0

    def keep(self, *versions: Tensor) -> None:
        """The first batch as it is, and what has become of it."""
        self.remade = [version[:REMADE].cpu() for version in versions]

    def add(self, codes: Tensor, labels: Tensor | None) -> None:
        """The codes of a batch, as far as there is room."""
        if self.count < MAPPED:
            self.parts.append((codes.cpu(), None if labels is None else labels.cpu()))
            self.count += len(codes)

    @property
    def codes(self) -> Tensor:
        """Codes, one row each."""
        return torch.cat([codes for codes, _ in self.parts])[:MAPPED]

    @property
    def labels(self) -> Tensor | None:
        """Their classes, where there are any."""
        labels = [found for _, found in self.parts if found is not None]
        return torch.cat(labels)[:MAPPED] if labels else None


def encode(model: nn.Module, inputs: Tensor, labels: Tensor | None) -> Tensor:
    """What the encoder says about each example, (B, statistics * latent), in full precision."""
    return model.encoder(inputs, labels).float()  # type: ignore[operator]


def decode(model: nn.Module, codes: Tensor, labels: Tensor | None) -> Tensor:
    """The decoder's raw numbers for each code, (B, *shape), in full precision."""
    return model.decoder(codes, labels).float()  # type: ignore[operator]


def classes_told(model: nn.Module) -> int:
    """How many classes encoder and decoder are told; 0 for none."""
    return model.decoder.classes  # type: ignore[return-value, union-attr]


def alternating(*versions: Tensor) -> Tensor:
    """The first row of each, the second row of each, and so on."""
    return torch.stack(versions, 1).flatten(0, 1)


def between(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Points on straight lines, both ends included: (N, D), (N, D) -> (N * steps, D)."""
    share = torch.linspace(0, 1, steps, device=start.device)[:, None]
    return torch.lerp(start[:, None], end[:, None], share).flatten(0, 1)


def latent_map(codes: Tensor, labels: Tensor | None, names: Sequence[str]) -> Tensor:
    """Codes in the plane: as they are where there are two variables, else along their first two principal axes."""
    plain = codes.shape[1] == 2
    points = codes if plain else codes @ principal(codes)[:, :2]
    title = "codes" if plain else f"codes, 2 of {codes.shape[1]} principal axes"
    return charts.scatter(points, labels if names else None, names, title)


def principal(rows: Tensor) -> Tensor:
    """Principal axes as columns, the largest variance first; each points where its largest entry is positive."""
    centred = (rows - rows.mean(0)).double()
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return (axes * largest.sign()).to(rows.dtype)


def gathered(batches: Iterable[Batch], most: int) -> tuple[Tensor, Tensor | None]:
    """The first inputs of some batches, and their classes where there are any."""
    inputs, labels, count = [], [], 0
    for batch in batches:
        inputs.append(batch["inputs"])
        labels.append(classes_of(batch))
        count += len(inputs[-1])
        if count >= most:
            break
    known = [found for found in labels if found is not None]
    return torch.cat(inputs)[:most], torch.cat(known)[:most] if known else None

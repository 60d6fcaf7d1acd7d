"""Detection: a box and a class for each object in an image."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError
from dltrain.metrics import average_precision
from dltrain.metrics.average_precision import AveragePrecision
from dltrain.metrics.running import Mean
from dltrain.plots import grids
from dltrain.plots.boxes import draw_enlarged
from dltrain.tasks.base import Batch, Evaluation, Line, Loss, Media, Task
from dltrain.tasks.model_call import call_model, example_inputs
from dltrain.tasks.pixel_range import PixelRange

NUM_SHOWN = 4  # images that are drawn
SIDE = 256  # maximum side in pixels to which small images are enlarged

Detections = dict[str, Tensor]  # boxes (N, 4), scores (N,) and labels (N,) in an image


@dataclass(eq=False)
class Detection(Task):
    """Detection with a model that returns ``losses``, their ``weight`` and, in evaluation, ``detections``.

    A batch has ``boxes`` (B, M, 4), which are left, top, right and bottom in pixels of the input, and ``kinds`` int64
    (B, M), which are class numbers from 1, negative for crowds, and 0 for padding. It may have ``frame`` (B, 4), which
    maps boxes to pixels of the file; see `to_file`. The metrics are the COCO metrics.

    Args:
        object_classes: Number of classes of objects.
        object_class_names: Names of these classes.
        min_score: Minimum score of the objects that are predicted and drawn; metrics count all detections.
        low, high: Model inputs for black and white, one number per channel.

    Raises:
        ConfigError: The package that computes the metrics is not installed.
    """

    metric: ClassVar[str] = "map"
    better: ClassVar[Literal["min", "max"]] = "max"

    object_classes: int
    object_class_names: list[str] | None = None
    min_score: float = 0.5
    low: list[float] | None = None
    high: list[float] | None = None

    def __post_init__(self) -> None:
        if not average_precision.is_available():
            reason = "faster-coco-eval, which computes mean average precision, is not installed"
            raise ConfigError(f"task=detection: not supported because {reason}. Run pip install 'dltrain[detection]'.")
        # Unlike in classification, one class is enough, because the model also learns the background.
        self.names = list(self.object_class_names or ()) or [str(number) for number in range(self.object_classes)]
        self.pixel_range = PixelRange(self.low, self.high)

    def facts(self) -> dict[str, Any]:
        """Return the spec values for the model: one output per class of objects, and one for the background."""
        return {"object_outputs": self.object_classes + 1}

    def example(self, facts: Any, batch_size: int = 2) -> Batch:
        """Return a training batch on the meta device, with one box in each image."""
        batch = example_inputs(facts, batch_size)
        boxes = torch.empty(batch_size, 1, 4, device="meta")
        return {**batch, "boxes": boxes, "kinds": torch.empty(batch_size, 1, dtype=torch.int64, device="meta")}

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Return the sum of the model's losses."""
        outputs = call_model(model, batch)
        return Loss(sum(outputs["losses"].values()), outputs["weight"], outputs["losses"])

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return the loss, its parts, and the COCO metrics of boxes in pixels of the files; keep images for `show`."""
        mean, precision, shown = Mean(), AveragePrecision(self.names), dict[str, Any]()
        for batch in batches:
            outputs = call_model(model, batch)
            mean.add(outputs["weight"], loss=sum(outputs["losses"].values()), **outputs["losses"])
            found = [_to_cpu(each) for each in outputs["detections"]]
            fields = {name: value.cpu() for name, value in batch.items() if name in ("boxes", "kinds", "frame")}
            frames = fields.get("frame", [None] * len(found))
            for boxes, kinds, frame, each in zip(fields["boxes"], fields["kinds"], frames, found, strict=True):
                moved = {**each, "boxes": to_file(each["boxes"], frame)}
                precision.add(to_file(boxes, frame), kinds, moved)
            if not shown:
                inputs = batch["inputs"][:NUM_SHOWN].detach()
                shown = {"inputs": inputs, "found": found, "boxes": fields["boxes"], "kinds": fields["kinds"]}
        return Evaluation(precision.read() | mean.read(), extra={"shown": shown})

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """Return the objects in each image or tile of an image: class, score and box in pixels of the file."""
        found = [_to_cpu(each) for each in call_model(model, batch)["detections"]]
        frames = batch["frame"].cpu() if "frame" in batch else [None] * len(found)
        return [{"objects": self._objects(each, frame)} for each, frame in zip(found, frames, strict=True)]

    def predictions(self, model: nn.Module, batches: Iterable[Batch]) -> Iterator[Line]:
        """Yield the objects of each image by decreasing score, merged from its tiles (``parts`` tiles per image)."""
        objects, left = list[dict[str, Any]](), 0
        for batch in batches:
            lines = self.predict(model, batch)
            for line, parts in zip(
                lines, batch["parts"].tolist() if "parts" in batch else [1] * len(lines), strict=True
            ):
                left = left or parts
                objects += line["objects"]
                left -= 1
                if not left:
                    yield {"objects": sorted(objects, key=lambda found: -found["score"])}
                    objects = []

    def _objects(self, found: Detections, frame: Tensor | None) -> list[dict[str, Any]]:
        rows = zip(
            to_file(found["boxes"], frame).tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True
        )
        return [
            {"class": self.names[label - 1], "score": score, "box": box}
            for box, score, label in rows
            if score >= self.min_score
        ]

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return images with their ground-truth boxes next to the same images with the detected boxes."""
        shown, drawn = evaluation.extra["shown"], list[Tensor]()
        unit = self.pixel_range.to_unit(shown["inputs"]).float().cpu()
        unit = unit if unit.shape[1] == 3 else unit.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        for image, boxes, kinds, found in zip(unit, shown["boxes"], shown["kinds"], shown["found"], strict=False):
            true, good = kinds != 0, found["scores"] >= self.min_score
            numbers = (kinds[true].abs() - 1).tolist()
            drawn.append(draw_enlarged(image, boxes[true], numbers, [""] * len(numbers), SIDE))
            labels, scores = (found["labels"][good] - 1).tolist(), found["scores"][good].tolist()
            captions = [f"{self.names[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
            drawn.append(draw_enlarged(image, found["boxes"][good], labels, captions, SIDE))
        return [Media("boxes", grids.images(torch.stack(drawn), columns=2))]


def to_file(boxes: Tensor, frame: Tensor | None) -> Tensor:
    """Map boxes (N, 4) from the input to pixels of the file; `frame` has left, top, horizontal and vertical scale."""
    return boxes if frame is None else boxes * frame[[2, 3, 2, 3]] + frame[[0, 1, 0, 1]]


def _to_cpu(found: Detections) -> Detections:
    return {name: value.float().cpu() if value.is_floating_point() else value.cpu() for name, value in found.items()}

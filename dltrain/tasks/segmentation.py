"""Segmentation: the class of each pixel of an image."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.metrics.running import Mean, confusion
from dltrain.plots import charts, grids
from dltrain.tasks.base import Batch, Evaluation, Line, Loss, Media
from dltrain.tasks.classification import name_classes
from dltrain.tasks.pixel_range import PixelRange
from dltrain.tasks.supervised import Supervised

IGNORED = -1  # target of pixels that loss and metrics ignore
NUM_SHOWN = 4  # maximum number of images that are logged
TINT = 0.5  # fraction of a class's color in a pixel of a shown mask; class 0 is not tinted


@dataclass(eq=False)
class Segmentation(Supervised):
    """Segmentation: cross-entropy of each pixel, optionally mixed with a Dice loss.

    Outputs are (B, classes, height, width). ``targets`` (B, height, width) are class indices in int64; pixels with the
    target -1 are ignored. All metrics are computed over the pixels of a whole split.

    Args:
        low, high: Model inputs for black and white, one number per channel.
        dice: Weight of the Dice loss, in [0, 1]; the cross-entropy has the weight 1 - ``dice``.

    Source: Milletari et al. 2016, "V-Net", section 3, for the Dice loss.
    Differs: the denominator of the Dice loss sums probabilities, not their squares.
    """

    metric: ClassVar[str] = "miou"
    better: ClassVar[Literal["min", "max"]] = "max"

    pixel_classes: int
    pixel_class_names: list[str] | None = None
    low: list[float] | None = None
    high: list[float] | None = None
    dice: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.dice <= 1:
            raise ConfigError(format_error("task.dice", "a number from 0 to 1", self.dice))
        self.names = name_classes(self.pixel_classes, self.pixel_class_names)
        self.pixel_range = PixelRange(self.low, self.high)

    def facts(self) -> dict[str, Any]:
        """Return the spec values for the model: one output per class at each pixel."""
        return {"pixel_outputs": self.pixel_classes}

    def criterion(self, outputs: Tensor, batch: Batch) -> Loss:
        """Return the mean loss over the pixels that are not ignored.

        The Dice loss of each image is weighted by its number of pixels that are not ignored.
        """
        outputs, targets = outputs.float(), batch["targets"]
        counts = (targets != IGNORED).flatten(1).sum(1)
        rows = outputs.movedim(1, -1).flatten(0, -2)
        total = F.cross_entropy(rows, targets.flatten(), ignore_index=IGNORED, reduction="sum")
        if self.dice:
            total = total.lerp((soft_dice_loss(outputs, targets) * counts).sum(), self.dice)
        return Loss(total / counts.sum().clamp(min=1), counts.sum())

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return loss, mean IoU, mean Dice, pixel accuracy and the IoU of each class; keep images for `show`."""
        mean, counts, shown = Mean(), None, list[Tensor]()
        for batch in batches:
            outputs = self.model_outputs(model, batch)
            predicted, targets = outputs.argmax(1), batch["targets"]
            loss = self.criterion(outputs, batch)
            mean.add(loss.weight, loss=loss.total)
            known = targets != IGNORED
            batch_counts = confusion(targets[known], predicted[known], self.pixel_classes)
            counts = batch_counts if counts is None else counts + batch_counts
            shown = shown or [part[:NUM_SHOWN] for part in (self.model_inputs(batch), targets, predicted)]
        assert counts is not None, "a split has at least one example"
        metrics = mean.read() | overlap_metrics(counts.cpu(), self.names)
        return Evaluation(metrics, extra={"confusion": counts.cpu(), "shown": shown})

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """Return the fraction of the pixels in each class, and the mask of class indices."""
        masks = self.model_outputs(model, batch).argmax(1)
        shares = F.one_hot(masks, self.pixel_classes).float().mean((1, 2)).tolist()
        return [
            {"shares": dict(zip(self.names, row, strict=True)), "mask": mask}
            for row, mask in zip(shares, masks.to(torch.uint8), strict=True)
        ]

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return images next to their ground-truth and predicted masks, and the confusion matrix."""
        images, targets, predicted = evaluation.extra["shown"]
        unit = self.pixel_range.to_unit(images).float().cpu()
        unit = unit if unit.shape[1] == 3 else unit.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        rows = torch.stack([unit, *(overlay(unit, masks.cpu()) for masks in (targets, predicted))], 1)
        return [
            Media("masks", grids.images(rows.flatten(0, 1), columns=3)),
            Media("confusion", charts.confusion(evaluation.extra["confusion"], self.names)),
        ]


def soft_dice_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the Dice loss of each image: 1 minus the mean Dice coefficient over the classes in its targets.

    Shape:
        outputs (B, classes, height, width), targets (B, height, width) -> (B,)
    """
    known = (targets != IGNORED)[:, None]
    shares = outputs.softmax(1) * known
    own = torch.zeros_like(shares).scatter(1, targets.clamp(min=0)[:, None], known.to(shares.dtype))
    both, hits = (part.flatten(2).sum(2) for part in (own + shares, own * shares))
    occurs = own.flatten(2).any(2)
    dice = 2 * hits / both.where(occurs, 1)
    return 1 - (dice * occurs).sum(1) / occurs.sum(1).clamp(min=1)


def overlap_metrics(counts: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Return mean IoU, mean Dice, pixel accuracy and the IoU of each class from a confusion matrix.

    Means are over the classes that occur in targets or predictions; the IoU of other classes is left out.
    """
    counts = counts.double()
    hits, total = counts.diag(), counts.sum(0) + counts.sum(1)
    occurs = total > 0
    iou, dice = hits / (total - hits), 2 * hits / total
    found = {"miou": iou[occurs].mean(), "dice": dice[occurs].mean(), "pixel_accuracy": hits.sum() / counts.sum()}
    each = {f"iou {name}": value for name, value, there in zip(names, iou, occurs, strict=True) if there}
    return {name: float(value) for name, value in (found | each).items()}


def overlay(images: Tensor, masks: Tensor) -> Tensor:
    """Return images (B, 3, height, width) in [0, 1], tinted by class; ignored pixels are white."""
    colors = charts.class_colors(int(masks.max()) + 1)
    tinted = images.lerp(colors[masks.clamp(min=0)].movedim(-1, 1), TINT)
    tinted = torch.where((masks > 0)[:, None], tinted, images)
    return torch.where((masks == IGNORED)[:, None], 1.0, tinted)

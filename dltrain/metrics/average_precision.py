"""Average precision of boxes as defined by COCO, computed by faster-coco-eval."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

PACKAGE = "faster_coco_eval"
STATS = ("map", "map50", "map75", "map_small", "map_medium", "map_large", "mar1", "mar10", "mar100")
UNUSED = ("mar1", "mar10")


def is_available() -> bool:
    """Return whether faster-coco-eval is installed."""
    return find_spec(PACKAGE) is not None


class AveragePrecision:
    """Ground-truth and detected boxes of a split, and the average precision of the detections.

    Metrics are means over the classes that occur and over IoU thresholds from 0.5 to 0.95 in steps of 0.05: ``map`` for
    all boxes; ``map_small`` up to 32 x 32 pixels, ``map_medium`` up to 96 x 96 pixels and ``map_large`` above, each
    only if there are ground-truth boxes of this size; ``mar100`` is the recall with at most 100 detections per image.
    ``map50`` and ``map75`` are ``map`` at the thresholds 0.5 and 0.75.

    Args:
        names: Names of the classes 1, 2, ...

    Source: Lin et al. 2014, "Microsoft COCO: Common objects in context", and the evaluation code of COCO.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.images: list[dict[str, Any]] = []
        self.truth: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []

    def add(self, boxes: Tensor, kinds: Tensor, found: dict[str, Tensor]) -> None:
        """Add an image.

        Args:
            boxes: Ground-truth boxes as left, top, right and bottom in pixels of the file, (M, 4).
            kinds: Class of each box, from 1, (M,); 0 for padding. A negative class marks a crowd region of that
                class: detections inside it are ignored.
            found: ``boxes`` (N, 4), ``scores`` (N,) and ``labels`` (N,).
        """
        image = len(self.images) + 1
        self.images.append({"id": image})
        for box, kind in zip(_to_xywh(boxes), kinds.tolist(), strict=True):
            if kind and box[2] > 0 and box[3] > 0:
                shared = {"image_id": image, "category_id": abs(kind), "iscrowd": int(kind < 0)}
                self.truth.append({"id": len(self.truth) + 1, "bbox": box, "area": box[2] * box[3], **shared})
        scores, labels = found["scores"].tolist(), found["labels"].tolist()
        for box, score, label in zip(_to_xywh(found["boxes"]), scores, labels, strict=True):
            self.found.append({"image_id": image, "category_id": label, "bbox": box, "score": score})

    def read(self) -> dict[str, float]:
        """Return the metrics and, with several classes, the AP of each class that occurs.

        If there are no ground-truth boxes except crowds, the metrics are ``map``, ``map50`` and ``map75``, all 0.
        """
        if not any(not box["iscrowd"] for box in self.truth):
            return {"map": 0.0, "map50": 0.0, "map75": 0.0}
        precision, stats = self._evaluate()
        named = {name: float(value) for name, value in zip(STATS, stats, strict=False)}
        metrics = {name: value for name, value in named.items() if name not in UNUSED and value >= 0}
        each = {f"ap {name}": precision[:, :, number, 0, 2] for number, name in enumerate(self.names)}
        known = {name: float(values[values > -1].mean()) for name, values in each.items() if (values > -1).any()}
        return metrics | (known if len(self.names) > 1 else {})

    def _evaluate(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the precision (thresholds, recalls, classes, box sizes, maximum detections) and the statistics."""
        from faster_coco_eval import COCO, COCOeval_faster

        kinds = [{"id": number, "name": name} for number, name in enumerate(self.names, 1)]
        shared = {"images": self.images, "categories": kinds}
        truth = COCO({**shared, "annotations": self.truth})
        found = truth.loadRes(self.found) if self.found else COCO({**shared, "annotations": []})
        evaluation = COCOeval_faster(truth, found, "bbox", print_function=_ignore)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return evaluation.eval["precision"], np.asarray(evaluation.stats)


def _to_xywh(boxes: Tensor) -> list[list[float]]:
    """Return boxes as left, top, width and height."""
    corners, ends = boxes.double().split(2, dim=-1)
    return torch.cat([corners, ends - corners], dim=-1).tolist()


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Print nothing."""

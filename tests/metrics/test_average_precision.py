"""Average precision, compared with pycocotools and with values calculated by hand."""

import contextlib
import io

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from dltrain.metrics.average_precision import STATS, AveragePrecision

NAMES = ["car", "dog", "cup"]
Image = tuple[Tensor, Tensor, dict[str, Tensor]]


def some_boxes(count: int, draw: torch.Generator) -> Tensor:
    corner = 300 * torch.rand(count, 2, generator=draw)
    return torch.cat([corner, corner + 4 + 150 * torch.rand(count, 2, generator=draw) ** 2], 1)


def some_images(count: int = 20, crowds: bool = True) -> list[Image]:
    """Return ground-truth boxes, classes and noisy detections of images; some images have no objects.

    A negative class marks a crowd. If `crowds` is true, every fifth image has one.
    """
    draw, images = torch.Generator().manual_seed(0), []
    for number in range(count):
        boxes = some_boxes(number % 6, draw)
        kinds = torch.randint(1, 4, (len(boxes),), generator=draw)
        if crowds and number % 5 == 4:
            kinds[0] = -kinds[0]
        shifted = boxes + 6 * torch.randn(boxes.shape, generator=draw)
        found = torch.cat([shifted, boxes + torch.randn(boxes.shape, generator=draw), some_boxes(3, draw)])
        found[:, 2:] = torch.maximum(found[:, 2:], found[:, :2] + 1)
        labels = torch.cat([kinds.abs(), kinds.abs(), torch.randint(1, 4, (3,), generator=draw)])
        scores = torch.rand(len(found), generator=draw)
        images.append((boxes, kinds, {"boxes": found, "scores": scores, "labels": labels}))
    return images


def measure(images: list[Image]) -> dict[str, float]:
    precision = AveragePrecision(NAMES)
    for boxes, kinds, found in images:
        precision.add(boxes, kinds, found)
    return precision.read()


def oracle(images: list[Image]) -> tuple[list[float], list[float]]:
    """Return the twelve statistics of pycocotools and the AP of each class."""

    def entries(boxes: Tensor) -> list[list[float]]:
        return [[x, y, right - x, bottom - y] for x, y, right, bottom in boxes.double().tolist()]

    truth, results = [], []
    for number, (boxes, kinds, found) in enumerate(images, 1):
        for box, kind in zip(entries(boxes), kinds.tolist(), strict=True):
            crowd = {"iscrowd": int(kind < 0), "area": box[2] * box[3], "id": len(truth) + 1}
            truth.append({"image_id": number, "category_id": abs(kind), "bbox": box, **crowd})
        for box, score, label in zip(
            entries(found["boxes"]), found["scores"].tolist(), found["labels"].tolist(), strict=True
        ):
            results.append({"image_id": number, "category_id": label, "bbox": box, "score": score})
    known = COCO()
    kinds = [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)]
    known.dataset = {"images": [{"id": n + 1} for n in range(len(images))], "categories": kinds, "annotations": truth}
    with contextlib.redirect_stdout(io.StringIO()):
        known.createIndex()
        evaluation = COCOeval(known, known.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    each = [float(precision[:, :, kind][precision[:, :, kind] > -1].mean()) for kind in range(len(NAMES))]
    return evaluation.stats.tolist(), each


@pytest.mark.parametrize("crowds", [False, True])
def test_metrics_and_the_ap_of_each_class_equal_pycocotools(crowds: bool) -> None:
    images = some_images(crowds=crowds)
    found, (stats, each) = measure(images), oracle(images)
    assert 0.2 < found["map"] < 0.8
    reported = [name for name in STATS if name not in ("mar1", "mar10")]
    assert set(reported) <= set(found)
    for name, value in zip(STATS, stats, strict=False):
        assert name not in reported or found[name] == pytest.approx(value, abs=1e-6), name
    assert [found[f"ap {name}"] for name in NAMES] == pytest.approx(each, abs=1e-6)


def test_a_box_with_an_iou_of_0_8_counts_at_7_of_10_thresholds() -> None:
    true, found = torch.tensor([[0.0, 0.0, 50.0, 40.0]]), torch.tensor([[0.0, 0.0, 50.0, 32.001]])
    metrics = measure(
        [(true, torch.tensor([1]), {"boxes": found, "scores": torch.ones(1), "labels": torch.tensor([1])})]
    )
    assert metrics["map"] == pytest.approx(0.7) and metrics["map50"] == metrics["map75"] == 1
    assert metrics["map_medium"] == pytest.approx(0.7) and "map_small" not in metrics


def test_padding_does_not_count_as_an_object() -> None:
    images = some_images()
    padded = [
        (torch.cat([b, torch.zeros(2, 4)]), torch.cat([k, torch.zeros(2, dtype=torch.int64)]), f) for b, k, f in images
    ]
    assert measure(padded) == measure(images)


def test_without_detections_the_precision_is_0() -> None:
    nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    metrics = measure([(boxes, kinds, nothing) for boxes, kinds, _ in some_images()])
    assert metrics["map"] == metrics["mar100"] == 0


def test_without_ground_truth_boxes_the_precision_is_0() -> None:
    metrics = measure([(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64), found) for *_, found in some_images(3)])
    assert metrics == {"map": 0.0, "map50": 0.0, "map75": 0.0}

"""Detection: losses, metrics in pixels of the image files, predictions and drawn boxes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError
from dltrain.metrics import average_precision
from dltrain.tasks.detection import Detection, to_file

NAMES = ["cat", "dog"]


class ShiftedTruth(nn.Module):
    """Detector that returns ground-truth boxes shifted by `shift` pixels, and multiples of the mean input as losses."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor, boxes: Tensor, kinds: Tensor) -> dict[str, Any]:
        rows = [{"boxes": b[k > 0] + self.shift, "labels": k[k > 0]} for b, k in zip(boxes, kinds, strict=True)]
        found = [{**row, "scores": torch.linspace(0.9, 0.3, len(row["labels"]))} for row in rows]
        losses = {"classes": x.mean(), "boxes": 2 * x.mean()}
        return {"losses": losses, "weight": (kinds > 0).sum(), "detections": found}


def batch(count: int = 4) -> dict[str, Tensor]:
    """Return images of 20 x 20 pixels with up to three boxes; one pixel covers 2 x 3 pixels of the file."""
    draw = torch.Generator().manual_seed(0)
    corner = torch.randint(0, 8, (count, 3, 2), generator=draw).float()
    kinds = torch.tensor([[1, 2, 2], [1, 2, 0], [2, 0, 0], [0, 0, 0]])[:count]
    boxes = torch.cat([corner, corner + 8], -1) * (kinds > 0)[..., None]
    frame = torch.tensor([[5.0, 7.0, 2.0, 3.0]]).expand(count, -1)
    return {"inputs": torch.rand(count, 1, 20, 20, generator=draw), "boxes": boxes, "kinds": kinds, "frame": frame}


def task() -> Detection:
    return Detection(2, NAMES, low=[0.0], high=[1.0])


def test_the_loss_is_the_sum_of_the_losses_of_the_model() -> None:
    examples = batch()
    loss = task().loss(ShiftedTruth(), examples, 0.0)
    torch.testing.assert_close(loss.total, 3 * examples["inputs"].mean())
    assert set(loss.parts) == {"classes", "boxes"} and int(loss.weight) == 6


def test_metrics_of_a_perfect_detector_are_1_and_losses_are_weighted_means() -> None:
    examples = batch()
    parts = [{name: value[n : n + 2] for name, value in examples.items()} for n in (0, 2)]
    metrics = task().evaluate(ShiftedTruth(), parts).metrics
    assert metrics["map"] == metrics["map50"] == metrics["mar100"] == metrics["ap cat"] == pytest.approx(1)
    means = [part["inputs"].mean().item() for part in parts]
    assert metrics["loss"] == pytest.approx(3 * (5 * means[0] + means[1]) / 6, rel=1e-5)


def test_metrics_are_measured_in_pixels_of_the_files() -> None:
    metrics = task().evaluate(ShiftedTruth(1.0), [batch()]).metrics
    # Boxes of 8 x 8 pixels are 16 x 24 in the file; shifted by one pixel they have an IoU of 49 / 79.
    assert metrics["map50"] == pytest.approx(1) and metrics["map"] == pytest.approx(0.3)
    large = {**batch(), "frame": torch.tensor([[0.0, 0.0, 20.0, 20.0]]).expand(4, -1)}
    assert "map_small" in metrics and "map_large" in task().evaluate(ShiftedTruth(), [large]).metrics


def test_boxes_are_mapped_to_the_file() -> None:
    found = to_file(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([10.0, 20.0, 2.0, 0.5]))
    assert found.tolist() == [[12.0, 21.0, 16.0, 22.0]]


def test_a_prediction_lists_the_objects_above_the_minimum_score_by_descending_score() -> None:
    examples = batch()
    lines = list(task().predictions(ShiftedTruth(), [examples]))
    assert [len(line["objects"]) for line in lines] == [2, 1, 1, 0]
    first = lines[0]["objects"][0]
    expected = (
        examples["boxes"][0, 0] * torch.tensor([2.0, 3.0, 2.0, 3.0]) + torch.tensor([5.0, 7.0, 5.0, 7.0])
    ).tolist()
    assert first == {"class": "cat", "score": pytest.approx(0.9), "box": expected}


def test_a_prediction_lists_the_objects_in_all_tiles_of_an_image() -> None:
    examples = {**batch(), "parts": torch.tensor([3, 3, 3, 1])}
    parts = [{name: value[n : n + 2] for name, value in examples.items()} for n in (0, 2)]
    lines = list(task().predictions(ShiftedTruth(), parts))
    assert [len(line["objects"]) for line in lines] == [4, 0]
    scores = [found["score"] for found in lines[0]["objects"]]
    assert scores == sorted(scores, reverse=True)


def test_ground_truth_boxes_are_shown_next_to_detected_boxes() -> None:
    examples = batch()
    evaluation = task().evaluate(ShiftedTruth(), [examples])
    (media,) = task().show(ShiftedTruth(), evaluation)
    assert media.tag == "boxes" and media.image is not None and media.image.shape[0] == 3
    scale = 256 // 20
    height, width = (4 * (20 * scale + 2) + 2, 2 * (20 * scale + 2) + 2)
    assert media.image.shape[1:] == (height, width)
    left, right = media.image[:, :, : width // 2], media.image[:, :, width // 2 :]
    colored = [(side.amax(0) != side.amin(0)).any(1).float().mean() for side in (left, right)]
    assert all(share > 0.2 for share in colored), "boxes are drawn in color on gray images"


def test_the_task_is_rejected_with_an_install_hint_if_the_package_of_the_metrics_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(average_precision, "PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match=r"task=detection: not supported because .*dltrain\[detection\]"):
        task()

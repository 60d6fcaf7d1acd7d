"""Segmentation, compared with torchmetrics, torch's losses and calculations by hand."""

import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.tasks.segmentation import Segmentation, overlap_metrics, overlay

CLASSES = 4
NAMES = ["rest", "cell", "wall", "core"]


class Answers(nn.Module):
    """Return the inputs as outputs."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def example(count: int = 9, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return outputs (count, 4, 6, 5) and targets (count, 6, 5) with some ignored pixels."""
    draw = torch.Generator().manual_seed(seed)
    targets = torch.randint(-1, CLASSES - 1, (count, 6, 5), generator=draw)
    return torch.randn(count, CLASSES, 6, 5, generator=draw), targets


def evaluate(outputs: Tensor, targets: Tensor, size: int = 4) -> dict[str, float]:
    batches = [{"inputs": x, "targets": y} for x, y in zip(outputs.split(size), targets.split(size), strict=True)]
    return Segmentation(CLASSES, NAMES).evaluate(Answers(), batches).metrics


def test_the_loss_equals_torch_cross_entropy_without_ignored_pixels() -> None:
    outputs, targets = example()
    loss = Segmentation(CLASSES).loss(Answers(), {"inputs": outputs, "targets": targets}, 0.0)
    torch.testing.assert_close(loss.total, F.cross_entropy(outputs, targets, ignore_index=-1))
    assert int(loss.weight) == int((targets >= 0).sum())


def test_the_weighted_mean_loss_of_micro_batches_equals_the_loss_of_the_batch() -> None:
    outputs, targets = example()
    task = Segmentation(CLASSES)
    whole = task.criterion(outputs, {"targets": targets})
    parts = [task.criterion(x, {"targets": y}) for x, y in zip(outputs.split(2), targets.split(2), strict=True)]
    mean = sum(part.total * part.weight for part in parts) / sum(part.weight for part in parts)
    torch.testing.assert_close(mean, whole.total)


def test_a_batch_with_only_ignored_pixels_has_loss_and_weight_0() -> None:
    outputs, targets = example()
    loss = Segmentation(CLASSES).criterion(outputs.requires_grad_(), {"targets": torch.full_like(targets, -1)})
    loss.total.backward()
    assert loss.total.item() == 0 and int(loss.weight) == 0 and not outputs.grad.any()


def test_metrics_equal_those_of_torchmetrics() -> None:
    outputs, targets = example()
    found, predicted = evaluate(outputs, targets), outputs.argmax(1)
    known = {"num_classes": CLASSES, "ignore_index": -1}
    each = torchmetrics.JaccardIndex("multiclass", average="none", **known)(predicted, targets)
    assert [found[f"iou {name}"] for name in NAMES] == pytest.approx(each.tolist())
    assert found["miou"] == pytest.approx(float(each.mean()))
    dice = torchmetrics.F1Score("multiclass", average="macro", **known)(predicted.flatten(), targets.flatten())
    assert found["dice"] == pytest.approx(float(dice))
    accuracy = torchmetrics.Accuracy("multiclass", average="micro", **known)(predicted.flatten(), targets.flatten())
    assert found["pixel_accuracy"] == pytest.approx(float(accuracy))
    assert found["loss"] == pytest.approx(float(F.cross_entropy(outputs, targets, ignore_index=-1)), rel=1e-5)


def test_metrics_do_not_depend_on_the_batch_size() -> None:
    outputs, targets = example()
    assert evaluate(outputs, targets, 2) == pytest.approx(evaluate(outputs, targets, 9))


def test_classes_without_pixels_are_excluded_from_mean_metrics() -> None:
    counts = torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    found = overlap_metrics(counts, ["a", "b", "c"])
    assert found == pytest.approx(
        {"miou": (3 / 4 + 4 / 5) / 2, "dice": (6 / 7 + 8 / 9) / 2, "pixel_accuracy": 7 / 8, "iou a": 0.75, "iou b": 0.8}
    )


def test_a_prediction_has_a_mask_and_the_share_of_pixels_of_each_class() -> None:
    outputs, _ = example()
    lines = Segmentation(CLASSES, NAMES).predict(Answers(), {"inputs": outputs})
    for line, expected in zip(lines, outputs.argmax(1), strict=True):
        assert line["mask"].dtype == torch.uint8 and torch.equal(line["mask"].long(), expected)
        shares = [(expected == number).float().mean().item() for number in range(CLASSES)]
        assert list(line["shares"].values()) == pytest.approx(shares) and list(line["shares"]) == NAMES


def test_an_overlay_tints_classes_and_draws_ignored_pixels_white() -> None:
    masks = torch.tensor([[[0, 1], [2, -1]]])
    found = overlay(torch.full((1, 3, 2, 2), 0.25), masks)[0]
    assert found[:, 0, 0].tolist() == [0.25] * 3 and found[:, 1, 1].tolist() == [1] * 3
    orange = torch.tensor([0xE6, 0x9F, 0x00]) / 255
    torch.testing.assert_close(found[:, 0, 1], 0.5 * orange + 0.125)


def test_images_are_shown_next_to_their_masks() -> None:
    _, targets = example()
    model = nn.Sequential(nn.Conv2d(1, CLASSES, 1))
    task = Segmentation(CLASSES, NAMES, low=[0.0], high=[1.0])
    evaluation = task.evaluate(model, [{"inputs": torch.rand(9, 1, 6, 5), "targets": targets}])
    shown = {media.tag: media.image for media in task.show(model, evaluation)}
    assert set(shown) == {"masks", "confusion"} and all(image.shape[0] == 3 for image in shown.values())

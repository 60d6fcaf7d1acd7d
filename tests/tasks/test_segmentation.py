"""Segmentation, compared with torchmetrics, PyTorch and calculations by hand."""

import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.tasks.segmentation import Segmentation, overlap_metrics, overlay, soft_dice_loss

CLASSES = 4
NAMES = ["rest", "cell", "wall", "core"]


def example(count: int = 9, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return outputs (count, 4, 6, 5) and targets (count, 6, 5) with some ignored pixels."""
    draw = torch.Generator().manual_seed(seed)
    targets = torch.randint(-1, CLASSES - 1, (count, 6, 5), generator=draw)
    return torch.randn(count, CLASSES, 6, 5, generator=draw), targets


def evaluate(outputs: Tensor, targets: Tensor, size: int = 4) -> dict[str, float]:
    batches = [{"inputs": x, "targets": y} for x, y in zip(outputs.split(size), targets.split(size), strict=True)]
    return Segmentation(CLASSES, NAMES).evaluate(nn.Identity(), batches).metrics


def test_the_loss_equals_torch_cross_entropy_without_ignored_pixels() -> None:
    outputs, targets = example()
    loss = Segmentation(CLASSES).loss(nn.Identity(), {"inputs": outputs, "targets": targets}, 0.0)
    torch.testing.assert_close(loss.total, F.cross_entropy(outputs, targets, ignore_index=-1))
    assert int(loss.weight) == int((targets >= 0).sum())


@pytest.mark.parametrize("dice", [0.0, 0.5])
def test_the_weighted_mean_loss_of_micro_batches_equals_the_loss_of_the_batch(dice: float) -> None:
    outputs, targets = example()
    task = Segmentation(CLASSES, dice=dice)
    whole = task.criterion(outputs, {"targets": targets})
    parts = [task.criterion(x, {"targets": y}) for x, y in zip(outputs.split(2), targets.split(2), strict=True)]
    mean = sum(part.total * part.weight for part in parts) / sum(part.weight for part in parts)
    torch.testing.assert_close(mean, whole.total)


@pytest.mark.parametrize("dice", [0.0, 0.5])
def test_a_batch_with_only_ignored_pixels_has_loss_and_weight_0(dice: float) -> None:
    outputs, targets = example()
    loss = Segmentation(CLASSES, dice=dice).criterion(
        outputs.requires_grad_(), {"targets": torch.full_like(targets, -1)}
    )
    loss.total.backward()
    assert loss.total.item() == 0 and int(loss.weight) == 0 and not outputs.grad.any()


def test_the_dice_loss_of_predictions_with_probability_1_is_one_minus_the_dice_of_torchmetrics() -> None:
    outputs, targets = example()
    targets, predicted = targets.clamp(min=0), outputs.argmax(1)
    certain = F.one_hot(predicted, CLASSES).movedim(-1, 1) * 1000.0
    for prediction, mask, found in zip(predicted, targets, soft_dice_loss(certain, targets), strict=True):
        each = torchmetrics.F1Score("multiclass", num_classes=CLASSES, average="none")(
            prediction.flatten(), mask.flatten()
        )
        assert found.item() == pytest.approx(1 - each[mask.unique()].mean().item(), abs=1e-6)


def test_the_dice_loss_equals_its_formula_and_ignored_pixels_change_nothing() -> None:
    outputs, targets = example(3)
    expected = []
    for prediction, mask in zip(outputs.double().softmax(1), targets, strict=True):
        known = mask >= 0
        scores = []
        for number in mask[known].unique():
            probability, own = prediction[number][known], (mask[known] == number).double()
            scores.append(2 * (probability * own).sum() / (probability.sum() + own.sum()))
        expected.append(1 - sum(scores) / len(scores))
    found = soft_dice_loss(outputs, targets)
    torch.testing.assert_close(found.double(), torch.stack(expected), rtol=1e-6, atol=1e-6)
    changed = torch.where((targets < 0)[:, None], 9.0, outputs)
    torch.testing.assert_close(soft_dice_loss(changed, targets), found)


def test_the_dice_loss_reads_no_value_back_from_the_device() -> None:
    outputs, targets = (part.to("meta") for part in example())
    assert soft_dice_loss(outputs, targets).shape == (9,)


def test_the_loss_is_the_weighted_mean_of_cross_entropy_and_dice_loss() -> None:
    outputs, targets = example()
    entropy, mixed, dice = (
        Segmentation(CLASSES, dice=share).criterion(outputs, {"targets": targets}).total for share in (0, 0.25, 1)
    )
    torch.testing.assert_close(mixed, 0.75 * entropy + 0.25 * dice)
    counts = (targets >= 0).flatten(1).sum(1)
    torch.testing.assert_close(dice, (soft_dice_loss(outputs, targets) * counts).sum() / counts.sum())


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


def test_a_prediction_has_a_mask_and_the_fraction_of_pixels_of_each_class() -> None:
    outputs, _ = example()
    lines = Segmentation(CLASSES, NAMES).predict(nn.Identity(), {"inputs": outputs})
    for line, expected in zip(lines, outputs.argmax(1), strict=True):
        assert line["mask"].dtype == torch.uint8 and torch.equal(line["mask"].long(), expected)
        shares = [(expected == number).float().mean().item() for number in range(CLASSES)]
        assert list(line["shares"].values()) == pytest.approx(shares) and list(line["shares"]) == NAMES


def test_an_overlay_draws_any_number_of_classes() -> None:
    masks = torch.arange(256).view(1, 16, 16)
    assert overlay(torch.zeros(1, 3, 16, 16), masks).flatten(2).sum(1)[0, 1:].min() > 0


def test_an_overlay_tints_all_classes_except_0_and_draws_ignored_pixels_white() -> None:
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

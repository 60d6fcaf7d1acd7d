"""Classification, compared with scikit-learn and torchmetrics on batches of different sizes."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from dltrain.tasks.classification import NUM_WORST, Classification

CLASSES = 5
SIZES = [16, 16, 16, 3]


def examples(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits with a majority of correct predictions, and targets."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(CLASSES, (sum(SIZES),), generator=generator)
    logits = torch.randn(len(targets), CLASSES, generator=generator) + 1.5 * F.one_hot(targets, CLASSES)
    return logits, targets


def batches(inputs: Tensor, targets: Tensor) -> list[dict[str, Tensor]]:
    parts = zip(inputs.split(SIZES), targets.split(SIZES), strict=True)
    return [{"inputs": i, "targets": t} for i, t in parts]


def test_metrics_over_batches_of_different_sizes_equal_scikit_learn_and_torchmetrics() -> None:
    logits, targets = examples()
    # The inputs are the logits and the model is the identity, so that only the task is tested.
    evaluation = Classification(CLASSES).evaluate(nn.Identity(), batches(logits, targets))
    truth, predicted = targets.numpy(), logits.argmax(1).numpy()
    metrics = evaluation.metrics
    assert metrics["accuracy"] == pytest.approx(accuracy_score(truth, predicted), rel=1e-6)
    assert metrics["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"), rel=1e-6)
    assert metrics["loss"] == pytest.approx(log_loss(truth, logits.double().softmax(1).numpy()), rel=1e-5)
    assert (evaluation.extra["confusion"].numpy() == confusion_matrix(truth, predicted)).all()
    reference = MulticlassAccuracy(CLASSES, average="micro")
    for batch in batches(logits, targets):
        reference.update(batch["inputs"], batch["targets"])
    assert metrics["accuracy"] == pytest.approx(reference.compute().item(), rel=1e-6)


def test_label_smoothing_is_used_only_in_training() -> None:
    logits, targets = examples()
    task = Classification(CLASSES, label_smoothing=0.1)
    loss = task.loss(nn.Identity(), {"inputs": logits, "targets": targets}, 0.0)
    smoothed_targets = 0.9 * F.one_hot(targets, CLASSES) + 0.1 / CLASSES
    expected = -(smoothed_targets.double() * logits.double().log_softmax(1)).sum(1).mean()
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.weight == len(targets)
    smoothed = task.evaluate(nn.Identity(), batches(logits, targets)).metrics
    assert smoothed == Classification(CLASSES).evaluate(nn.Identity(), batches(logits, targets)).metrics


def test_the_worst_mistakes_of_all_batches_are_sorted() -> None:
    logits, targets = examples(3)
    evaluation = Classification(CLASSES).evaluate(nn.Identity(), batches(logits, targets))
    losses = F.cross_entropy(logits, targets, reduction="none").numpy()
    wrong = np.flatnonzero(logits.argmax(1).numpy() != targets.numpy())
    order = wrong[np.argsort(-losses[wrong])][:NUM_WORST]
    assert len(order) > 3
    inputs, _, _, worst_losses = evaluation.extra["worst"]
    count = int((worst_losses > 0).sum())
    assert count == len(order)
    assert torch.equal(inputs[:count], logits[torch.from_numpy(order)])


def test_the_worst_mistakes_are_shown_only_for_images() -> None:
    logits, targets = examples(4)
    task = Classification(CLASSES, ["ant", "bee", "cat", "dog", "emu"])
    vectors = task.evaluate(nn.Identity(), batches(logits, targets))
    assert [item.tag for item in task.show(nn.Identity(), vectors)] == ["confusion"]
    flat, images = nn.Flatten(), logits.view(-1, 1, 1, CLASSES)
    shown = task.show(flat, task.evaluate(flat, batches(images, targets)))
    assert [item.tag for item in shown] == ["confusion", "worst_mistakes"]
    assert all(item.image is not None and item.image.dtype == torch.uint8 for item in shown)


def test_no_images_are_shown_without_mistakes() -> None:
    _, targets = examples()
    perfect = (10.0 * F.one_hot(targets, CLASSES)).view(-1, 1, 1, CLASSES)
    task = Classification(CLASSES)
    evaluation = task.evaluate(nn.Flatten(), batches(perfect, targets))
    assert evaluation.metrics["accuracy"] == 1
    assert [item.tag for item in task.show(nn.Flatten(), evaluation)] == ["confusion"]


def test_the_task_provides_one_output_per_class() -> None:
    assert Classification(7).facts() == {"outputs": 7, "each_step": False, "causal": False}

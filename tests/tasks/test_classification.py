"""Classification, compared with scikit-learn and torchmetrics on batches of different sizes."""

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from dltrain.errors import ConfigError
from dltrain.tasks.classification import NUM_WORST, Classification

CLASSES = 5
SIZES = [16, 16, 16, 3]


def examples(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits that predict most targets correctly, and the targets."""
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


def test_scores_of_each_class_and_top_5_accuracy_equal_scikit_learn() -> None:
    classes, generator = 9, torch.Generator().manual_seed(1)
    targets = torch.randint(classes - 2, (sum(SIZES),), generator=generator)  # two classes without examples
    logits = torch.randn(len(targets), classes, generator=generator)
    logits[:, -1] = -9.0  # never predicted
    evaluation = Classification(classes).evaluate(nn.Identity(), batches(logits, targets))
    truth, predicted = targets.numpy(), logits.argmax(1).numpy()
    top = top_k_accuracy_score(truth, logits.numpy(), k=5, labels=range(classes))
    assert evaluation.metrics["top5_accuracy"] == pytest.approx(top, rel=1e-6)
    expected = precision_recall_fscore_support(truth, predicted, labels=range(classes), zero_division=0)
    found = [[scores[key] for scores in evaluation.per_class.values()] for key in ("precision", "recall", "f1")]
    np.testing.assert_allclose(found, expected[:3], rtol=1e-12)
    assert [scores["examples"] for scores in evaluation.per_class.values()] == expected[3].tolist()
    assert list(evaluation.per_class) == [str(number) for number in range(classes)]


def test_there_is_no_top_5_accuracy_for_five_classes() -> None:
    evaluation = Classification(CLASSES).evaluate(nn.Identity(), batches(*examples()))
    assert "top5_accuracy" not in evaluation.metrics


def test_balanced_weights_equal_scikit_learn() -> None:
    targets = torch.tensor([0] * 30 + [1] * 6 + [3] * 15)  # class 2 has no examples
    task = Classification(4, ["ant", "bee", "cat", "dog"], class_weights="balanced")
    note = task.fit_targets(targets.split(SIZES))
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=targets.numpy())
    assert task.weights is not None
    torch.testing.assert_close(task.weights[[0, 1, 3]], torch.tensor(expected, dtype=torch.float32))
    assert task.weights[2] == 0
    assert note == "class weights: ant 0.567, bee 2.83, cat 0, dog 1.13"


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_weighted_loss_equals_torch_and_the_weighted_mean_over_batches(smoothing: float) -> None:
    logits, targets = examples()
    weights = [0.5, 2.0, 0.0, 1.0, 3.0]
    task = Classification(CLASSES, label_smoothing=smoothing, class_weights=weights)
    loss = task.loss(nn.Identity(), {"inputs": logits, "targets": targets}, 0.0)
    expected = F.cross_entropy(logits, targets, torch.tensor(weights), label_smoothing=smoothing)
    torch.testing.assert_close(loss.total, expected)
    parts = [task.loss(nn.Identity(), batch, 0.0) for batch in batches(logits, targets)]
    whole = sum(part.total * part.weight for part in parts) / sum(part.weight for part in parts)
    torch.testing.assert_close(whole, expected)
    shares = {"inputs": logits, "targets": F.one_hot(targets, CLASSES).float()}
    torch.testing.assert_close(task.loss(nn.Identity(), shares, 0.0).total, expected)
    metrics = task.evaluate(nn.Identity(), batches(logits, targets)).metrics
    assert metrics == Classification(CLASSES).evaluate(nn.Identity(), batches(logits, targets)).metrics


@pytest.mark.parametrize(
    "weights", ["even", [1.0, 2.0], [1.0, -1.0, 1.0, 1.0, 1.0], [0.0] * CLASSES, [], [float("nan")] * CLASSES]
)
def test_invalid_class_weights_are_rejected(weights: str | list[float]) -> None:
    with pytest.raises(ConfigError, match=r"task.class_weights: expected balanced, or 5 finite numbers of at least 0"):
        Classification(CLASSES, class_weights=weights)


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


def test_the_worst_mistakes_of_all_batches_are_sorted_by_descending_loss() -> None:
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


def test_show_returns_the_confusion_matrix_and_the_worst_mistakes_of_images() -> None:
    logits, targets = examples(4)
    task = Classification(CLASSES, ["ant", "bee", "cat", "dog", "emu"])
    vectors = task.evaluate(nn.Identity(), batches(logits, targets))
    assert [item.tag for item in task.show(nn.Identity(), vectors)] == ["confusion"]
    flat, images = nn.Flatten(), logits.view(-1, 1, 1, CLASSES)
    shown = task.show(flat, task.evaluate(flat, batches(images, targets)))
    assert [item.tag for item in shown] == ["confusion", "worst_mistakes"]
    assert all(item.image is not None and item.image.dtype == torch.uint8 for item in shown)


def test_without_mistakes_only_the_confusion_matrix_is_shown() -> None:
    _, targets = examples()
    perfect = (10.0 * F.one_hot(targets, CLASSES)).view(-1, 1, 1, CLASSES)
    task = Classification(CLASSES)
    evaluation = task.evaluate(nn.Flatten(), batches(perfect, targets))
    assert evaluation.metrics["accuracy"] == 1
    assert [item.tag for item in task.show(nn.Flatten(), evaluation)] == ["confusion"]


def test_the_task_provides_one_output_per_class() -> None:
    assert Classification(7).facts() == {"outputs": 7, "each_step": False, "causal": False}


def test_test_time_flip_averages_the_outputs_of_an_image_and_its_mirror_image_but_not_in_training() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
    images, targets = torch.randn(5, 1, 3, 4), torch.tensor([0, 1, 2, 0, 1])
    batch, task = {"inputs": images, "targets": targets}, Classification(3, test_time_flip=True)
    weight, bias = model[1].weight.detach(), model[1].bias.detach()
    # The mean of both outputs equals the output of a linear layer with the mean of the original and mirrored weights.
    mirrored = (weight + weight.view(3, 1, 3, 4).flip(3).flatten(1)) / 2
    scores = F.linear(images.flatten(1), mirrored, bias)
    found = torch.tensor([list(line["probabilities"].values()) for line in task.predict(model, batch)])
    torch.testing.assert_close(found, scores.softmax(1))
    assert task.evaluate(model, [batch]).metrics["loss"] == pytest.approx(float(F.cross_entropy(scores, targets)))
    assert torch.equal(task.loss(model, batch, 0.0).total, F.cross_entropy(model(images), targets))
    with pytest.raises(ConfigError, match=r"task\.test_time_flip: not supported because the inputs are not images"):
        task.predict(model, {"inputs": images.flatten(1)})

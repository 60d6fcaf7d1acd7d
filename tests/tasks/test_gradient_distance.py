"""Gradient norms by distance from the last step, compared with closed forms and with autograd on single texts."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError
from dltrain.models.feedforward import MLP
from dltrain.models.recurrent import Recurrent
from dltrain.plots.distance import distance_chart
from dltrain.tasks.base import Batch, Evaluation
from dltrain.tasks.classification import Classification
from dltrain.tasks.gradient_distance import KEY, TaskOverSteps, gradient_norms
from dltrain.tasks.language_modeling import LanguageModeling
from dltrain.tasks.regression import Regression
from dltrain.training.device import Device
from dltrain.training.evaluation import run_in_eval_mode

FP32 = Device(torch.device("cpu"), "fp32", False, False, False)
LENGTHS = torch.tensor([5, 1, 9, 3])


def linear_rnn(weight: float) -> Recurrent:
    """Return the RNN h' = weight * h + 0.5 * x with the output 3 * h; its ReLU does not change positive states."""
    model = Recurrent("rnn", 1, 1, hidden_size=1, num_layers=1, activation="relu")
    values = {"weight_ih": 0.5, "weight_hh": weight, "bias": 0.0}
    for name, p in model.layers.named_parameters():
        nn.init.constant_(p, next(value for key, value in values.items() if name.startswith(key)))
    nn.init.constant_(model.head.weight, 3.0)
    nn.init.zeros_(model.head.bias)
    return model


@pytest.mark.parametrize("weight", [0.5, 0.9, 1.0, 1.1])
def test_the_norm_for_a_linear_rnn_is_proportional_to_a_power_of_its_weight(weight: float) -> None:
    model, task = linear_rnn(weight), Regression(1, gradient_distance=True)
    batch = {"inputs": torch.rand(6, 20, 1) + 0.1, "targets": torch.randn(6, 1)}
    error = (model(batch["inputs"]) - batch["targets"]).abs().mean().item()
    powers = torch.tensor([weight**distance for distance in range(20)])
    torch.testing.assert_close(gradient_norms(task, model, batch), 2 * error * 3 * 0.5 * powers)


def test_padding_is_left_out_and_distances_count_from_the_last_step_of_each_text() -> None:
    torch.manual_seed(0)
    model, task = Recurrent("gru", 11, 3, hidden_size=8, vocabulary=11), Classification(3, gradient_distance=True)
    tokens, classes = torch.randint(0, 11, (4, 9)), torch.tensor([0, 1, 2, 1])
    found = gradient_norms(task, model, {"inputs": tokens, "targets": classes, "lengths": LENGTHS})
    norms = torch.full((4, 9), torch.nan)
    for row, length in enumerate(LENGTHS.tolist()):
        steps = model.steps.embedding.weight[tokens[row, :length]].detach()[None].requires_grad_()
        states, _ = model.layers(steps)
        nn.functional.cross_entropy(model.head(states[:, -1]), classes[row : row + 1]).backward()
        norms[row, :length] = steps.grad[0].norm(dim=1).flip(0)
    torch.testing.assert_close(found, norms.nanmean(0))


def test_gradient_norms_of_a_language_model_use_only_the_loss_of_the_last_token() -> None:
    torch.manual_seed(0)
    model = Recurrent("lstm", 11, 11, hidden_size=8, vocabulary=11, each_step=True, causal=True)
    batch = {"inputs": torch.randint(0, 11, (4, 9)), "targets": torch.randint(0, 11, (4, 9))}
    found = gradient_norms(LanguageModeling(11, 9, gradient_distance=True), model, batch)
    steps = model.steps.embedding.weight[batch["inputs"]].detach().requires_grad_()
    last = model.head(model.layers(steps)[0][:, -1])
    nn.functional.cross_entropy(last, batch["targets"][:, -1], reduction="sum").backward()
    torch.testing.assert_close(found, steps.grad.norm(dim=2).mean(0).flip(0))


class Counted:
    """Iterable of batches that counts how many batches are read."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches, self.read = batches, 0

    def __iter__(self) -> Iterable[Batch]:
        for batch in self.batches:
            self.read += 1
            yield batch


def evaluated(task: TaskOverSteps, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
    return run_in_eval_mode(task.goal.evaluate, model, FP32, batches)


def test_gradient_distance_adds_a_plot_and_changes_neither_metrics_nor_model() -> None:
    torch.manual_seed(0)
    model = Recurrent("lstm", 3, 2, hidden_size=8, dropout=0.5)
    with torch.inference_mode():
        batches = [{"inputs": torch.randn(8, 12, 3), "targets": torch.randn(8, 2)} for _ in range(3)]
    before, source = [p.clone() for p in model.parameters()], Counted(batches)
    plain = evaluated(Regression(2), model, batches)
    task = Regression(2, gradient_distance=True)
    evaluation = evaluated(task, model, source)
    assert evaluation.metrics == plain.metrics and source.read == 3
    media = run_in_eval_mode(task.goal.show, model, FP32, evaluation)
    picture, text = (item for item in media if item.tag == KEY)
    assert isinstance(picture.image, Tensor) and picture.image.shape[0] == 3
    assert text.text.splitlines()[0] == "| steps before the last step | norm of the gradient |"
    assert [row.split(" ")[1] for row in text.text.splitlines()[2:]] == ["0", "1", "2", "4", "8", "11"]
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert not model.steps._forward_hooks


def test_a_model_without_a_steps_module_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"^task\.gradient_distance: not supported because MLP has no module `steps`"):
        Classification(3, gradient_distance=True).begin(MLP(12, 3))
    Classification(3).begin(MLP(12, 3))


def test_norms_of_0_can_be_drawn_and_different_norms_have_different_charts() -> None:
    with_zero, zeros = (distance_chart(torch.tensor(norms)) for norms in ([1.0, 0.0, 1e-9], [0.0, 0.0, 0.0]))
    assert with_zero.shape == zeros.shape and with_zero.shape[0] == 3
    assert not torch.equal(with_zero, zeros)

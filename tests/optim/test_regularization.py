"""Penalties, weight decay and clipping, compared with torch, scikit-learn and closed forms."""

import math
from functools import partial

import pytest
import torch
import yaml
from sklearn.linear_model import Lasso
from small_network import (
    CONF,
    assert_same_parameters,
    groups_in_torch,
    loss_of,
    network,
    optimizer_of,
    train,
    train_in_torch,
)
from torch import nn

from dltrain.optim.optimizer import Optimizer
from dltrain.optim.regularization import Regularization
from dltrain.optim.schedules import Constant, Cosine
from dltrain.tasks.base import Loss


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("biases", [False, True])
def test_l2_equals_torch_weight_decay_under_sgd(momentum: float, biases: bool) -> None:
    ours, theirs = network(), network()
    make = partial(torch.optim.SGD, lr=0.1, momentum=momentum)
    train(ours, optimizer_of(ours, make, l2=0.05, decay_biases=biases), 10)
    groups = [{"params": list(theirs.parameters()), "weight_decay": 0.05}] if biases else groups_in_torch(theirs, 0.05)
    train_in_torch(theirs, torch.optim.SGD(groups, lr=0.1, momentum=momentum), 10)
    assert_same_parameters(ours, theirs, rtol=1e-6, atol=1e-7)


def test_weight_decay_excludes_biases_and_norm_scales() -> None:
    ours, theirs = network(), network()
    train(ours, optimizer_of(ours, partial(torch.optim.AdamW, lr=0.01, weight_decay=0.5)), 10)
    train_in_torch(theirs, torch.optim.AdamW(groups_in_torch(theirs, 0.5), lr=0.01, fused=True), 10)
    assert_same_parameters(ours, theirs)


def test_decoupled_decay_of_adam_equals_torch_adamw_with_a_schedule() -> None:
    ours, theirs = network(), network()
    optimizer = optimizer_of(ours, partial(torch.optim.Adam, lr=0.01), Cosine(), weight_decay=0.5)
    train(ours, optimizer, 20)
    reference = torch.optim.AdamW(groups_in_torch(theirs, 0.5), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(reference, 100)
    for _ in range(20):
        train_in_torch(theirs, reference, 1)
        scheduler.step()
    assert_same_parameters(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["l1", "l2", "weight_decay"])
@pytest.mark.parametrize("biases", [False, True])
def test_biases_and_norm_scales_are_penalized_only_with_decay_biases(kind: str, biases: bool) -> None:
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    optimizer = optimizer_of(model, decay_biases=biases, **{kind: 0.5})
    optimizer.backward(Loss(sum((p * 0).sum() for p in model.parameters()), 1))  # type: ignore[arg-type]
    optimizer.step(0)
    for parameter in model.parameters():
        expected = 0.95 if parameter.ndim > 1 or biases else 1.0
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, expected))


def test_l1_finds_the_coefficients_of_scikit_learn_lasso() -> None:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(200, 20, generator=generator)
    truth = torch.zeros(20)
    truth[[2, 7, 11]] = torch.tensor([1.5, -2.0, 0.8])
    targets = inputs @ truth + 0.1 * torch.randn(200, generator=generator)
    lasso = Lasso(alpha=0.1, fit_intercept=False).fit(inputs.numpy(), targets.numpy())
    model = nn.Linear(20, 1, bias=False)
    optimizer = Optimizer(
        partial(torch.optim.SGD, lr=0.1), list(model.parameters()), Cosine(), 400, Regularization(l1=0.1)
    )
    for step in range(400):
        # The objective of Lasso has half the mean squared error.
        optimizer.backward(Loss((model(inputs)[:, 0] - targets).square().mean() / 2, 200))
        optimizer.step(step)
    found = model.weight.detach()[0]
    expected = torch.tensor(lasso.coef_)
    assert set((found.abs() > 0.01).nonzero()[:, 0].tolist()) == set(expected.nonzero()[:, 0].tolist()) == {2, 7, 11}
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3, check_dtype=False)


def test_the_gradient_of_the_reported_penalty_equals_the_applied_gradient() -> None:
    model = network()
    optimizer = optimizer_of(model, partial(torch.optim.SGD, lr=1.0), l1=0.3, l2=0.2)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    expected = sum(0.3 * p.abs().sum() + 0.1 * p.square().sum() for p in matrices)
    torch.testing.assert_close(optimizer.regularizer.penalty(), expected.detach())  # type: ignore[union-attr]
    gradients = torch.autograd.grad(expected, matrices)  # type: ignore[arg-type]
    before = [p.detach().clone() for p in matrices]
    optimizer.backward(Loss(sum((p * 0).sum() for p in model.parameters()), 1))  # type: ignore[arg-type]
    optimizer.step(0)
    for old, new, gradient in zip(before, matrices, gradients, strict=True):
        torch.testing.assert_close(old - new.detach(), gradient)


@pytest.mark.parametrize(("clip", "value"), [(0.5, 0.0), (1e3, 0.0), (0.0, 0.01), (0.5, 0.05)])
def test_clipping_equals_torch_and_the_reported_norm_is_unclipped(clip: float, value: float) -> None:
    ours, theirs = network(), network()
    optimizer = optimizer_of(ours, clip_norm=clip, clip_value=value)
    optimizer.backward(Loss(loss_of(ours), 32))
    norm = optimizer.step(0, measure=True)
    loss_of(theirs).backward()
    expected = nn.utils.clip_grad_norm_(theirs.parameters(), clip or math.inf)
    if value:
        nn.utils.clip_grad_value_(theirs.parameters(), value)
    torch.optim.SGD(theirs.parameters(), lr=0.1).step()
    torch.testing.assert_close(norm, expected)
    assert_same_parameters(ours, theirs, rtol=1e-6, atol=1e-7)


def test_parameters_without_a_gradient_do_not_change() -> None:
    model = network()
    unused = nn.Parameter(torch.ones(2, 2))
    optimizer = Optimizer(
        partial(torch.optim.SGD, lr=0.1),
        [*model.parameters(), unused],
        Constant(),
        10,
        Regularization(l1=0.1, l2=0.1, clip_norm=1.0, clip_value=1.0),
    )
    optimizer.backward(Loss(loss_of(model), 32))
    optimizer.step(0)
    assert torch.equal(unused, torch.ones(2, 2))


def test_regularization_files_set_only_keys_of_their_default_file() -> None:
    files = {file.stem: file.read_text() for file in (CONF / "regularization").glob("*.yaml")}
    none = yaml.safe_load(files.pop("none"))
    assert not any(none.values())
    assert set(vars(Regularization())) < none.keys()
    for text in files.values():
        node = yaml.safe_load(text)
        assert text.startswith("# ")
        assert node.pop("defaults") == ["none", "_self_"]
        assert node.keys() <= none.keys()
        assert any(node.values())

"""Muon, compared with Muon and AdamW of torch."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from small_network import assert_same_parameters, loss_of, optimizer_of, train, train_in_torch
from torch import nn

from dltrain.errors import ConfigError
from dltrain.optim.muon import Muon
from dltrain.optim.schedules import Cosine
from dltrain.tasks.base import Loss


def test_muon_updates_matrices_with_torch_muon_and_the_rest_with_adamw() -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(8, 1))
    theirs = copy.deepcopy(ours)
    make = partial(Muon, lr=0.02, weight_decay=0.1, adamw={"lr": 1e-3, "betas": [0.9, 0.95]})
    optimizer = optimizer_of(ours, make)
    train(ours, optimizer, 5)
    matrices = torch.optim.Muon([theirs[3].weight], lr=0.02, weight_decay=0.1)
    biases = [theirs[1].bias, theirs[3].bias]
    groups = [{"params": [theirs[1].weight]}, {"params": biases, "weight_decay": 0.0}]
    others = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    for _ in range(5):
        matrices.zero_grad()
        train_in_torch(theirs, others, 1)
        matrices.step()
    assert_same_parameters(ours, theirs, rtol=1e-5, atol=1e-6)
    assert sorted({group["lr"] for group in optimizer.optimizer.param_groups}) == [1e-3, 0.02]


def test_muon_and_adamw_follow_the_schedule_and_decay_weights_at_their_own_learning_rates() -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 1, bias=False), nn.Linear(1, 1, bias=False))
    make = partial(Muon, lr=0.2, weight_decay=0.0, adamw={"lr": 0.1})
    optimizer = optimizer_of(model, make, Cosine(), weight_decay=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    optimizer.backward(Loss(sum((p * 0).sum() for p in model.parameters()), 1))  # type: ignore[arg-type]
    optimizer.step(50)
    assert [group["lr"] for group in optimizer.optimizer.param_groups] == pytest.approx([0.1, 0.05])
    assert model[0].weight.item() == pytest.approx(1 - 0.05 * 0.5)
    assert model[1].weight.item() == pytest.approx(1 - 0.1 * 0.5)


def test_the_weight_decay_of_adamw_in_muon_does_not_apply_to_biases() -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 1), nn.Linear(1, 1))
    optimizer = optimizer_of(model, partial(Muon, weight_decay=0.0, adamw={"weight_decay": 0.5}))
    decays = {id(p): group["weight_decay"] for group in optimizer.optimizer.param_groups for p in group["params"]}
    assert [decays[id(p)] for p in model.parameters()] == [0.5, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("adamw", "message"),
    [
        ({"betas": [0.9]}, r"\.betas: expected a list of 2 values, got \[0.9\]"),
        ({"foo": 1}, r"\.foo: unknown argument"),
    ],
)
def test_an_error_in_an_argument_of_adamw_names_its_key(adamw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^optimizer\.adamw{message}"):
        optimizer_of(nn.LayerNorm(6), partial(Muon, adamw=adamw))


@pytest.mark.parametrize("vectors_only", [False, True])
def test_muon_supports_models_with_only_vectors_or_only_matrices(vectors_only: bool) -> None:
    model = nn.LayerNorm(6) if vectors_only else nn.Linear(6, 1, bias=False)
    before = loss_of(model).item()
    train(model, optimizer_of(model, partial(Muon, adamw={"lr": 0.01})), 20)
    assert loss_of(model).item() < before

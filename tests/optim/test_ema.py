"""Moving average of weights, compared with its recursive formula and torch."""

import io
import math

import pytest
import torch
from small_network import assert_same_parameters, network, optimizer_of, train
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dltrain.optim.ema import EMA


def test_ema_with_warm_up_equals_its_recursive_formula() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average = EMA(model, decay=0.5)
    expected = 1.0
    for n in range(20):
        with torch.no_grad():
            model.weight.fill_(n + 2.0)
        average.update(model)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * (n + 2.0)
    assert average.module.weight.item() == pytest.approx(expected)


def test_ema_after_warm_up_equals_torch() -> None:
    model = network()
    ours = EMA(model, decay=0.9)
    ours.updates = 1000
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(model)  # the first update copies the weights
    optimizer = optimizer_of(model)
    for step in range(10):
        train(model, optimizer, 1, start=step)
        ours.update(model)
        theirs.update_parameters(model)
    assert_same_parameters(ours.module, theirs.module)


def test_ema_averages_running_statistics_and_copies_masks_and_counts() -> None:
    model = nn.BatchNorm1d(2)
    model.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    average = EMA(model, decay=0.9)
    average.updates = 1000
    model(torch.randn(16, 2, generator=torch.Generator().manual_seed(0)) + 5)
    average.update(model)
    torch.testing.assert_close(average.module.running_mean, 0.1 * model.running_mean)
    assert average.module.num_batches_tracked.item() == 1
    assert torch.equal(average.module.mask, model.mask)


def test_a_restored_ema_gives_the_same_averages() -> None:
    model = network()
    first = EMA(model, decay=0.9)
    train(model, optimizer_of(model), 1)
    first.update(model)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    second = EMA(network(1), decay=0.9)
    second.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    for average in (first, second):
        average.update(model)
    assert_same_parameters(first.module, second.module)

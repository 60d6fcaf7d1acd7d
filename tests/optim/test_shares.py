"""Different learning rates for parameters of one optimizer."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from small_network import assert_same_parameters, network, train, train_in_torch

from dltrain.optim.muon import Muon
from dltrain.optim.optimizer import Optimizer
from dltrain.optim.regularization import Regularization
from dltrain.optim.schedules import Constant, Cosine


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_different_learning_rates_equal_parameter_groups_of_torch(kind: Any, decay: float) -> None:
    ours, theirs = network(), network()
    rates = dict.fromkeys(ours[0].parameters(), 0.1) | {ours[1].weight: 0.5}
    make = partial(kind, lr=0.02, weight_decay=decay)
    options = Regularization(decay_biases=True)
    optimizer = Optimizer(make, list(ours.parameters()), Cosine(), 20, options, rates=rates)
    last = [theirs[1].bias, *theirs[3].parameters()]
    shares = [(theirs[0].parameters(), 0.1), ([theirs[1].weight], 0.5), (last, 1.0)]
    reference = make([{"params": list(owned), "lr": 0.02 * rate} for owned, rate in shares])
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(reference, 20)
    for step in range(10):
        train(ours, optimizer, 1, start=step)
        train_in_torch(theirs, reference, 1)
        scheduler.step()
    assert_same_parameters(ours, theirs, rtol=1e-5, atol=1e-6)
    assert optimizer.lr == pytest.approx(0.02 * Cosine().factor(9, 20)), "the logged rate is the highest"


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop, Muon])
def test_different_learning_rates_are_restored_on_resume(kind: Any) -> None:
    model = network()
    optimizers = [optimizer_with_slow_body(model, kind)]
    train(model, optimizers[0], 3)
    resumed = copy.deepcopy(model)
    optimizers.append(optimizer_with_slow_body(resumed, kind))
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    before = copy.deepcopy(model)
    for network_, optimizer in zip((model, resumed), optimizers, strict=True):
        train(network_, optimizer, 3, start=3)
    assert_same_parameters(model, resumed)
    assert_same_parameters(model[0], before[0], rtol=0, atol=1e-20)
    assert not torch.equal(model[3].weight, before[3].weight)


def optimizer_with_slow_body(model: torch.nn.Module, kind: Any) -> Optimizer:
    rates = dict.fromkeys(model[0].parameters(), 1e-30)  # type: ignore[index]
    make = partial(kind, lr=0.02)
    return Optimizer(make, list(model.parameters()), Constant(), 20, Regularization(), rates=rates)

"""Losses with weight 0 change no parameter and cause no division by 0."""

import math
from functools import partial

import pytest
import torch
from small_network import INPUTS, TARGETS, assert_same_parameters, loss_of, network, optimizer_of, train
from torch import nn

from dltrain.optim.muon import Muon
from dltrain.tasks.base import Loss


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("empty", [(0,), (1,), (0, 1, 3), (2, 3)], ids=str)
def test_micro_batches_of_weight_zero_do_not_change_the_step(empty: tuple[int, ...], as_tensor: bool) -> None:
    ours, theirs = network(), network()
    accumulating, whole = (
        optimizer_of(m, partial(torch.optim.Adam, lr=0.01), weight_decay=0.1) for m in (ours, theirs)
    )
    for step in range(4):
        rows = iter((slice(0, 5), slice(5, 32)))
        for number in range(2 + len(empty)):
            if number in empty:
                accumulating.backward(nothing(ours, as_tensor))
            else:
                part = next(rows)
                size = part.stop - part.start
                accumulating.backward(Loss(loss_of(ours, part), torch.tensor(size) if as_tensor else size))
        accumulating.step(step)
    train(theirs, whole, 4)
    assert_same_parameters(ours, theirs, rtol=1e-5, atol=1e-6)


def nothing(model: nn.Module, as_tensor: bool) -> Loss:
    """Return the loss of a batch without targets: NaN with weight 0, or 0 with weight ``tensor(0)``."""
    errors = (model(INPUTS) - TARGETS).square()
    return Loss((errors * 0).sum(), torch.tensor(0)) if as_tensor else Loss(errors[:0].mean(), 0)


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        partial(torch.optim.Adam, lr=0.1),
        partial(torch.optim.AdamW, lr=0.1),
        partial(torch.optim.Adagrad, lr=0.1),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        partial(torch.optim.RMSprop, lr=0.01, momentum=0.9),  # no fused kernels
        partial(torch.optim.NAdam, lr=0.1),  # no fused kernels
        partial(Muon, lr=0.1),
    ],
)
@pytest.mark.parametrize("scaled", [False, True])
def test_steps_of_weight_zero_change_neither_weights_nor_momentum(make: partial, as_tensor: bool, scaled: bool) -> None:
    ours, theirs = network(), network()
    skipping, plain = (
        optimizer_of(
            model,
            make,
            scaler=torch.amp.GradScaler("cpu") if scaled else None,
            weight_decay=0.1,
            l2=0.1,
            clip_norm=0.5,
        )
        for model in (ours, theirs)
    )
    for step in range(3):
        skipping.backward(nothing(ours, as_tensor))
        skipping.step(step)
        train(ours, skipping, 1, start=step)
        train(theirs, plain, 1, start=step)
    assert_same_parameters(ours, theirs)
    assert skipping.skipped == 0, "a step without losses is not an overflow"


def test_a_first_step_that_overflows_does_not_change_the_momentum_of_later_steps() -> None:
    ours, theirs = network(), network()
    make = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    scaled = optimizer_of(ours, make, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    scaled.backward(Loss(loss_of(ours) * math.inf, 32))
    scaled.step(0)
    assert_same_parameters(ours, theirs)
    train(ours, scaled, 3)
    train(theirs, optimizer_of(theirs, make), 3)
    assert_same_parameters(ours, theirs, rtol=1e-6, atol=1e-7)

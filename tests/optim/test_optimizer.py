"""The optimizer, compared with torch: accumulation, schedules, loss scaling, resuming."""

import copy
import importlib
import io
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_network import (
    CONF,
    assert_same_parameters,
    loss_of,
    network,
    optimizer_of,
    train,
    train_in_torch,
)
from torch import nn

from dltrain.optim.optimizer import Optimizer
from dltrain.optim.regularization import Regularization
from dltrain.optim.schedules import Constant, Cosine, OneCycle, Plateau
from dltrain.tasks.base import Loss

FILES = sorted((CONF / "optimizer").glob("*.yaml"))


@pytest.mark.parametrize("sizes", [(8, 8, 8, 8), (3, 17, 1, 11), (32,)])
@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_accumulation_equals_one_large_batch_even_with_uneven_weights(
    sizes: tuple[int, ...], as_tensor: bool, clip: float
) -> None:
    ours, theirs = network(), network()
    accumulating, whole = (optimizer_of(m, partial(torch.optim.Adam, lr=0.01), clip_norm=clip) for m in (ours, theirs))
    for step in range(5):
        start = 0
        for size in sizes:
            weight = torch.tensor(size) if as_tensor else size
            accumulating.backward(Loss(loss_of(ours, slice(start, start + size)), weight))
            start += size
        accumulating.step(step)
    train(theirs, whole, 5)
    assert_same_parameters(ours, theirs, rtol=1e-5, atol=1e-6)


def test_accumulation_starts_over_at_each_step() -> None:
    ours, theirs = network(), network()
    accumulating, whole = optimizer_of(ours), optimizer_of(theirs)
    for rows in (slice(0, 4), slice(4, 32)):
        accumulating.backward(Loss(loss_of(ours, rows), rows.stop - rows.start))
    accumulating.step(0)
    train(ours, accumulating, 1, start=1)
    train(theirs, whole, 2)
    assert_same_parameters(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_step_returns_no_gradient_norm_by_default_and_clears_gradients() -> None:
    model = network()
    optimizer = optimizer_of(model, clip_norm=1.0)
    optimizer.backward(Loss(loss_of(model), 32))
    assert optimizer.step(0) is None
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradients_of_other_parameters_are_not_computed_if_only_own_is_set() -> None:
    model = network()
    own = list(model[0].parameters())
    optimizer = Optimizer(partial(torch.optim.SGD, lr=0.1), own, Constant(), 10, Regularization(), only_own=True)
    optimizer.backward(Loss(loss_of(model), 32))
    assert all(parameter.grad is not None for parameter in own)
    assert all(parameter.grad is None for parameter in model[3].parameters())


def test_the_learning_rate_is_the_optimizers_learning_rate_times_the_schedule_factor() -> None:
    model = network()
    optimizer = optimizer_of(model, partial(torch.optim.SGD, lr=0.2), Cosine(warmup=10))
    assert optimizer.lr == pytest.approx(0.02)
    train(model, optimizer, 10)
    assert optimizer.lr == pytest.approx(0.2)
    train(model, optimizer, 1, start=55)
    assert optimizer.lr == pytest.approx(0.1)


@pytest.mark.parametrize(
    "make",
    [partial(torch.optim.SGD, lr=0.1, momentum=0.9), partial(torch.optim.Adam, lr=0.1), partial(torch.optim.SGD, lr=1)],
)
def test_one_cycle_equals_torch_with_and_without_momentum(make: partial) -> None:
    ours, theirs = network(), network()
    optimizer = optimizer_of(ours, make, OneCycle())
    reference = make(theirs.parameters())
    cycled = "betas" in reference.defaults or reference.defaults["momentum"] > 0
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        reference, max_lr=make.keywords["lr"], total_steps=100, cycle_momentum=cycled
    )
    train(ours, optimizer, 30)
    for _ in range(30):
        train_in_torch(theirs, reference, 1)
        scheduler.step()
    assert_same_parameters(ours, theirs, rtol=1e-3, atol=1e-4)


def test_loss_scaling_does_not_change_steps_with_clipping_accumulation_and_a_penalty() -> None:
    ours, theirs = network(), network()
    options = {"l2": 0.05, "clip_norm": 0.5}
    scaled = optimizer_of(ours, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0), **options)
    plain = optimizer_of(theirs, **options)
    for model, optimizer in ((ours, scaled), (theirs, plain)):
        for step in range(3):
            optimizer.backward(Loss(loss_of(model, slice(0, 10)), 10))
            optimizer.backward(Loss(loss_of(model, slice(10, 32)), 22))
            optimizer.step(step)
    assert_same_parameters(ours, theirs, rtol=1e-6, atol=1e-7)
    assert scaled.skipped.item() == 0


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop])
def test_a_step_that_overflows_is_skipped_and_counted(kind: Any) -> None:
    model = network()
    optimizer = optimizer_of(model, partial(kind, lr=0.1), scaler=torch.amp.GradScaler("cpu"))
    before = copy.deepcopy(model)
    optimizer.backward(Loss(loss_of(model) * math.inf, 32))
    optimizer.step(0)
    assert_same_parameters(model, before)
    assert optimizer.skipped.item() == 1
    train(model, optimizer, 1)
    assert optimizer.skipped.item() == 1
    assert not torch.equal(model[0].weight, before[0].weight)


def build_optimizer(file: Path) -> partial:
    node = yaml.safe_load(file.read_text())
    schedule = {"adam_one_cycle": "one_cycle", "adam_noam": "noam"}.get(file.stem, "constant")
    assert node.pop("defaults") == [{"schedule": schedule}, "_self_"]
    module, _, name = node.pop("_target_").rpartition(".")
    return partial(getattr(importlib.import_module(module), name), **node)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_optimizer_in_conf_learns_a_regression(file: Path) -> None:
    assert file.read_text().startswith("# ")
    model = network()
    before = loss_of(model).item()
    train(model, optimizer_of(model, build_optimizer(file)), 60)
    assert loss_of(model).item() < 0.97 * before


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_optimizer_in_conf_continues_bit_for_bit_from_its_saved_state(file: Path) -> None:
    options: dict[str, Any] = {"weight_decay": 0.01, "clip_norm": 1.0}
    model = network()
    first = optimizer_of(model, build_optimizer(file), OneCycle(), torch.amp.GradScaler("cpu"), **options)
    train(model, first, 5)
    buffer = io.BytesIO()
    torch.save((first.state_dict(), first.schedule.state_dict()), buffer)
    resumed = copy.deepcopy(model)
    second = optimizer_of(resumed, build_optimizer(file), OneCycle(), torch.amp.GradScaler("cpu"), **options)
    saved, schedule = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    second.load_state_dict(saved)
    second.schedule.load_state_dict(schedule)
    assert second.lr == first.lr
    train(model, first, 5, start=5)
    train(resumed, second, 5, start=5)
    assert_same_parameters(model, resumed)
    assert second.lr == first.lr


def test_optimizer_state_has_the_memory_layout_of_its_weights() -> None:
    """Load a state with another layout: fused kernels pair elements of state and weights by position in memory."""
    plain = nn.Conv2d(3, 4, 3)
    other = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    first, second = (optimizer_of(model, partial(torch.optim.Adam, lr=0.1)) for model in (plain, other))
    inputs = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for model, optimizer in ((plain, first), (other, second)):
        optimizer.backward(Loss(model(inputs).square().mean(), 2))
        optimizer.step(0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    other.load_state_dict(plain.state_dict())
    for model, optimizer in ((plain, first), (other, second)):
        optimizer.backward(Loss(model(inputs).square().mean(), 2))
        optimizer.step(1)
    torch.testing.assert_close(other.weight, plain.weight)


def test_plateau_reductions_are_restored_on_resume() -> None:
    model = network()
    first, second = (optimizer_of(model, schedule=Plateau(patience=0)) for _ in range(2))
    for metric in (1.0, 1.0):
        first.schedule.observe(metric, "min")
    second.load_state_dict(first.state_dict())
    second.schedule.load_state_dict(first.schedule.state_dict())
    train(model, second, 1)
    assert second.lr == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("kind", "flag"),
    [
        (torch.optim.Adam, "fused"),
        (torch.optim.AdamW, "fused"),
        (torch.optim.SGD, "fused"),
        (torch.optim.Adagrad, "fused"),
        (torch.optim.RMSprop, "foreach"),
    ],
)
def test_the_fastest_kernel_is_chosen_unless_the_user_sets_one(kind: Any, flag: str) -> None:
    model = network()
    assert all(group[flag] for group in optimizer_of(model, partial(kind, lr=0.1)).optimizer.param_groups)
    chosen = optimizer_of(model, partial(kind, lr=0.1, foreach=False))
    assert not any(group.get("fused") or group["foreach"] for group in chosen.optimizer.param_groups)

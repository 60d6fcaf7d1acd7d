"""The optimizer against torch's own, scikit-learn and closed forms."""

import copy
import importlib
import io
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sklearn.linear_model import Lasso
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dltrain.optim.ema import EMA
from dltrain.optim.muon import Muon
from dltrain.optim.optimizer import Optimizer
from dltrain.optim.regularization import Regularization
from dltrain.optim.schedules import Constant, Cosine, OneCycle, Plateau, Schedule
from dltrain.tasks.base import Loss

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted((CONF / "optimizer").glob("*.yaml"))
INPUTS = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
TARGETS = INPUTS @ torch.linspace(-1, 1, 6)[:, None] + 0.3


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1))


def loss_of(model: nn.Module, rows: slice = slice(None)) -> Tensor:
    return (model(INPUTS[rows]) - TARGETS[rows]).square().mean()


def optimizer_of(
    model: nn.Module, make: Any = None, schedule: Schedule | None = None, scaler: Any = None, **regularization: Any
) -> Optimizer:
    make = make or partial(torch.optim.SGD, lr=0.1)
    return Optimizer(
        make, list(model.parameters()), schedule or Constant(), 100, Regularization(**regularization), scaler=scaler
    )


def train(model: nn.Module, optimizer: Optimizer, steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        optimizer.backward(Loss(loss_of(model), 32))
        optimizer.step(step)


def train_in_torch(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()


def same(a: nn.Module, b: nn.Module, **tolerance: float) -> None:
    for one, other in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(one, other, **(tolerance or {"rtol": 0, "atol": 0}))


def groups_in_torch(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("biases", [False, True])
def test_l2_equals_torchs_weight_decay_under_sgd(momentum: float, biases: bool) -> None:
    ours, theirs = network(), network()
    make = partial(torch.optim.SGD, lr=0.1, momentum=momentum)
    train(ours, optimizer_of(ours, make, l2=0.05, decay_biases=biases), 10)
    groups = [{"params": list(theirs.parameters()), "weight_decay": 0.05}] if biases else groups_in_torch(theirs, 0.05)
    train_in_torch(theirs, torch.optim.SGD(groups, lr=0.1, momentum=momentum), 10)
    same(ours, theirs, rtol=1e-6, atol=1e-7)


def test_an_optimizers_own_weight_decay_leaves_out_biases_and_norm_scales() -> None:
    ours, theirs = network(), network()
    train(ours, optimizer_of(ours, partial(torch.optim.AdamW, lr=0.01, weight_decay=0.5)), 10)
    train_in_torch(theirs, torch.optim.AdamW(groups_in_torch(theirs, 0.5), lr=0.01, fused=True), 10)
    same(ours, theirs)


def test_decoupled_decay_of_adam_equals_torchs_adamw_under_a_moving_rate() -> None:
    ours, theirs = network(), network()
    optimizer = optimizer_of(ours, partial(torch.optim.Adam, lr=0.01), Cosine(), weight_decay=0.5)
    train(ours, optimizer, 20)
    reference = torch.optim.AdamW(groups_in_torch(theirs, 0.5), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(reference, 100)
    for _ in range(20):
        train_in_torch(theirs, reference, 1)
        scheduler.step()
    same(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["l1", "l2", "weight_decay"])
@pytest.mark.parametrize("biases", [False, True])
def test_biases_and_norm_scales_carry_no_penalty_unless_asked(kind: str, biases: bool) -> None:
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


def test_l1_finds_the_support_that_scikit_learns_lasso_finds() -> None:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(200, 20, generator=generator)
    truth = torch.zeros(20)
    truth[[2, 7, 11]] = torch.tensor([1.5, -2.0, 0.8])
    targets = inputs @ truth + 0.1 * torch.randn(200, generator=generator)
    lasso = Lasso(alpha=0.1, fit_intercept=False).fit(inputs.numpy(), targets.numpy())
    model = nn.Linear(20, 1, bias=False)
    # Lasso halves the squared error.
    optimizer = Optimizer(
        partial(torch.optim.SGD, lr=0.1), list(model.parameters()), Cosine(), 400, Regularization(l1=0.1)
    )
    for step in range(400):
        optimizer.backward(Loss((model(inputs)[:, 0] - targets).square().mean() / 2, 200))
        optimizer.step(step)
    found = model.weight.detach()[0]
    expected = torch.tensor(lasso.coef_)
    assert set((found.abs() > 0.01).nonzero()[:, 0].tolist()) == set(expected.nonzero()[:, 0].tolist()) == {2, 7, 11}
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3, check_dtype=False)


def test_the_penalty_is_what_the_gradient_belongs_to() -> None:
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


@pytest.mark.parametrize("sizes", [(8, 8, 8, 8), (3, 17, 1, 11), (32,)])
@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_accumulation_equals_one_batch_of_all_also_with_uneven_counts(
    sizes: tuple[int, ...], as_tensor: bool, clip: float
) -> None:
    ours, theirs = network(), network()
    accumulating, whole = (optimizer_of(m, partial(torch.optim.Adam, lr=0.01), clip_norm=clip) for m in (ours, theirs))
    for step in range(5):
        start = 0
        for number, size in enumerate(sizes):
            weight = torch.tensor(size) if as_tensor else size
            accumulating.backward(Loss(loss_of(ours, slice(start, start + size)), weight), first=number == 0)
            start += size
        accumulating.step(step)
    train(theirs, whole, 5)
    same(ours, theirs, rtol=1e-5, atol=1e-6)


def test_accumulation_forgets_the_weights_of_the_step_before() -> None:
    ours, theirs = network(), network()
    accumulating, whole = optimizer_of(ours), optimizer_of(theirs)
    for number, rows in enumerate((slice(0, 4), slice(4, 32))):
        accumulating.backward(Loss(loss_of(ours, rows), rows.stop - rows.start), first=number == 0)
    accumulating.step(0)
    train(ours, accumulating, 1, start=1)
    train(theirs, whole, 2)
    same(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("clip", "value"), [(0.5, 0.0), (1e3, 0.0), (0.0, 0.01), (0.5, 0.05)])
def test_clipping_equals_torchs_and_the_norm_is_that_before_it(clip: float, value: float) -> None:
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
    same(ours, theirs, rtol=1e-6, atol=1e-7)


def test_a_step_measures_only_when_asked_and_leaves_no_gradients() -> None:
    model = network()
    optimizer = optimizer_of(model, clip_norm=1.0)
    optimizer.backward(Loss(loss_of(model), 32))
    assert optimizer.step(0) is None
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_partial_turn_keeps_its_gradient_to_its_own_parameters() -> None:
    model = network()
    own = list(model[0].parameters())
    optimizer = Optimizer(partial(torch.optim.SGD, lr=0.1), own, Constant(), 10, Regularization(), partial=True)
    optimizer.backward(Loss(loss_of(model), 32))
    assert all(parameter.grad is not None for parameter in own)
    assert all(parameter.grad is None for parameter in model[3].parameters())


def test_parameters_without_a_gradient_are_left_alone() -> None:
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


def test_the_rate_follows_the_schedule_from_the_optimizers_own() -> None:
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
def test_one_cycle_trains_as_torchs_does_with_momentum_cycled(make: partial) -> None:
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
    same(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_scaled_step_equals_an_unscaled_one_also_with_penalty_clipping_and_accumulation() -> None:
    ours, theirs = network(), network()
    options = {"l2": 0.05, "clip_norm": 0.5}
    scaled = optimizer_of(ours, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0), **options)
    plain = optimizer_of(theirs, **options)
    for model, optimizer in ((ours, scaled), (theirs, plain)):
        for step in range(3):
            optimizer.backward(Loss(loss_of(model, slice(0, 10)), 10))
            optimizer.backward(Loss(loss_of(model, slice(10, 32)), 22), first=False)
            optimizer.step(step)
    same(ours, theirs, rtol=1e-6, atol=1e-7)
    assert scaled.skipped.item() == 0


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop])
def test_a_step_that_overflows_is_skipped_and_counted(kind: Any) -> None:
    model = network()
    optimizer = optimizer_of(model, partial(kind, lr=0.1), scaler=torch.amp.GradScaler("cpu"))
    before = copy.deepcopy(model)
    optimizer.backward(Loss(loss_of(model) * math.inf, 32))
    optimizer.step(0)
    same(model, before)
    assert optimizer.skipped.item() == 1
    train(model, optimizer, 1)
    assert optimizer.skipped.item() == 1
    assert not torch.equal(model[0].weight, before[0].weight)


def built(file: Path) -> partial:
    node = yaml.safe_load(file.read_text())
    assert node.pop("defaults") == [{"schedule": "constant"}, "_self_"]
    module, _, name = node.pop("_target_").rpartition(".")
    return partial(getattr(importlib.import_module(module), name), **node)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_optimizer_in_conf_learns_a_regression(file: Path) -> None:
    assert file.read_text().startswith("# ")
    model = network()
    before = loss_of(model).item()
    train(model, optimizer_of(model, built(file)), 60)
    assert loss_of(model).item() < 0.97 * before


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
@pytest.mark.parametrize("make", [Constant, OneCycle, Plateau], ids=["constant", "one_cycle", "plateau"])
def test_every_optimizer_in_conf_resumes_bit_equal_through_a_safe_file(
    file: Path, make: Callable[[], Schedule]
) -> None:
    options: dict[str, Any] = {"weight_decay": 0.01, "clip_norm": 1.0}
    model = network()
    first = optimizer_of(model, built(file), make(), torch.amp.GradScaler("cpu"), **options)
    train(model, first, 5)
    buffer = io.BytesIO()
    torch.save((first.state_dict(), first.schedule.state_dict()), buffer)
    resumed = copy.deepcopy(model)
    second = optimizer_of(resumed, built(file), make(), torch.amp.GradScaler("cpu"), **options)
    saved, schedule = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    second.load_state_dict(saved)
    second.schedule.load_state_dict(schedule)
    assert second.lr == first.lr
    train(model, first, 5, start=5)
    train(resumed, second, 5, start=5)
    same(model, resumed)
    assert second.lr == first.lr


def test_a_state_takes_the_layout_of_its_weights() -> None:
    """A fused kernel goes by addresses: a state in another layout would be that of other weights."""
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


def test_a_plateaus_cuts_survive_a_resume() -> None:
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
def test_the_fastest_kernels_are_taken_unless_the_user_says(kind: Any, flag: str) -> None:
    model = network()
    assert all(group[flag] for group in optimizer_of(model, partial(kind, lr=0.1)).optimizer.param_groups)
    said = optimizer_of(model, partial(kind, lr=0.1, foreach=False))
    assert not any(group.get("fused") or group["foreach"] for group in said.optimizer.param_groups)


def test_muon_gives_matrices_to_torchs_muon_and_all_else_to_adamw() -> None:
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
    same(ours, theirs, rtol=1e-5, atol=1e-6)
    assert sorted({group["lr"] for group in optimizer.optimizer.param_groups}) == [1e-3, 0.02]


def test_muon_scales_all_its_rates_and_decays_each_weight_at_its_own() -> None:
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


@pytest.mark.parametrize("vectors_only", [False, True])
def test_muon_handles_models_of_vectors_or_of_matrices_alone(vectors_only: bool) -> None:
    model = nn.LayerNorm(6) if vectors_only else nn.Linear(6, 1, bias=False)
    before = loss_of(model).item()
    train(model, optimizer_of(model, partial(Muon, adamw={"lr": 0.01})), 20)
    assert loss_of(model).item() < before


def test_an_average_is_the_closed_form_with_its_warm_up() -> None:
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


def test_an_average_past_its_warm_up_equals_torchs() -> None:
    model = network()
    ours = EMA(model, decay=0.9)
    ours.updates = 1000
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(model)  # the first call copies
    optimizer = optimizer_of(model)
    for step in range(10):
        train(model, optimizer, 1, start=step)
        ours.update(model)
        theirs.update_parameters(model)
    same(ours.module, theirs.module)


def test_an_average_takes_running_statistics_in_and_copies_masks_and_counts() -> None:
    model = nn.BatchNorm1d(2)
    model.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    average = EMA(model, decay=0.9)
    average.updates = 1000
    model(torch.randn(16, 2, generator=torch.Generator().manual_seed(0)) + 5)
    average.update(model)
    torch.testing.assert_close(average.module.running_mean, 0.1 * model.running_mean)
    assert average.module.num_batches_tracked.item() == 1
    assert torch.equal(average.module.mask, model.mask)


def test_an_average_resumes_where_it_stopped() -> None:
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
    same(first.module, second.module)


def test_every_regularization_in_conf_says_only_what_none_says() -> None:
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

"""Schedules, compared at every step with torch and the formulas of the papers."""

import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.optim import lr_scheduler

from dltrain.optim import schedules
from dltrain.optim.schedules import Constant, Cosine, Noam, OneCycle, Plateau, Schedule, Step

FILES = sorted((Path(__file__).parents[2] / "conf/optimizer/schedule").glob("*.yaml"))
STEPS = 100


def sgd(momentum: float = 0.0) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=momentum)


def torch_rates(make: Any, steps: int = STEPS) -> list[float]:
    optimizer = sgd()
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def factors(schedule: Schedule, steps: int = STEPS) -> list[float]:
    return [schedule.factor(step, steps) for step in range(steps)]


@pytest.mark.parametrize("end", [0.0, 0.1])
def test_the_cosine_schedule_equals_torch_at_every_step(end: float) -> None:
    expected = torch_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=STEPS, eta_min=end))
    assert factors(Cosine(end_factor=end)) == pytest.approx(expected, abs=1e-12)


def test_cosine_after_warm_up_equals_linear_then_cosine_of_torch() -> None:
    def make(o: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        rise = lr_scheduler.LinearLR(o, start_factor=1 / 20, total_iters=19)
        fall = lr_scheduler.CosineAnnealingLR(o, T_max=STEPS - 20)
        return lr_scheduler.SequentialLR(o, [rise, fall], milestones=[20])

    assert factors(Cosine(warmup=20)) == pytest.approx(torch_rates(make), abs=1e-12)


def test_the_step_schedule_equals_torch_at_every_step() -> None:
    expected = torch_rates(lambda o: lr_scheduler.StepLR(o, step_size=30, gamma=0.2))
    assert factors(Step(step_size=30, gamma=0.2)) == pytest.approx(expected, rel=1e-12)


def test_a_number_of_steps_below_one_is_a_fraction_of_all_steps() -> None:
    assert factors(Step(step_size=0.3)) == factors(Step(step_size=30))
    assert factors(Cosine(warmup=0.2)) == factors(Cosine(warmup=20))
    assert factors(Noam(width=64, warmup=0.25)) == factors(Noam(width=64, warmup=25))


@pytest.mark.parametrize("steps", [10, 100, 301])
@pytest.mark.parametrize("kind", ["momentum", "beta1"])
def test_one_cycle_equals_torch_in_rate_and_momentum_at_every_step(steps: int, kind: str) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    optimizer: torch.optim.Optimizer = sgd(0.9) if kind == "momentum" else torch.optim.Adam(parameters)
    scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=steps)
    ours = OneCycle()
    for step in range(steps):
        group = optimizer.param_groups[0]
        expected = group["momentum"] if kind == "momentum" else group["betas"][0]
        assert ours.factor(step, steps) == pytest.approx(group["lr"], rel=1e-9)
        assert ours.momentum(step, steps) == pytest.approx(expected, rel=1e-9)
        optimizer.step()
        if step < steps - 1:
            scheduler.step()


def test_one_cycle_is_positive_in_runs_of_one_to_three_steps() -> None:
    for steps in (1, 2, 3):
        assert all(0 < factor <= 1 for factor in factors(OneCycle(), steps))


def test_noam_equals_the_formula_and_peaks_at_the_end_of_warm_up() -> None:
    rates = factors(Noam(width=512, warmup=40), 400)
    assert rates.index(max(rates)) == 39
    assert rates[39] == pytest.approx(512**-0.5 * 40**-0.5)
    for step, rate in enumerate(rates, 1):
        assert rate == pytest.approx(512**-0.5 * min(step**-0.5, step * 40**-1.5))


@pytest.mark.parametrize("better", ["min", "max"])
def test_plateau_equals_torch_on_a_noisy_metric(better: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(200, generator=generator).tolist()
    metrics = [math.exp(-i / 30) * 0.5 + 0.3 + 0.05 * n for i, n in enumerate(noise)]
    if better == "max":
        metrics = [1 - m for m in metrics]
    optimizer = sgd()
    reference = lr_scheduler.ReduceLROnPlateau(
        optimizer, mode=better, factor=0.5, patience=3, threshold=1e-3, eps=0.0, min_lr=0.0
    )
    ours = Plateau(factor=0.5, patience=3, threshold=1e-3)
    seen = set()
    for metric in metrics:
        reference.step(metric)
        ours.observe(metric, better)
        seen.add(ours.factor(0, STEPS))
        assert ours.factor(0, STEPS) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert len(seen) > 3


def test_plateau_ignores_improvements_below_the_threshold_for_a_negative_metric() -> None:
    plateau = Plateau(factor=0.5, patience=0, threshold=0.1)
    for metric in (-1.0, -1.05):
        plateau.observe(metric, "min")
    assert plateau.factor(0, STEPS) == 0.5


def test_plateau_does_not_count_nan_as_an_improvement() -> None:
    plateau = Plateau(factor=0.5, patience=1)
    for _ in range(2):
        plateau.observe(math.nan, "min")
    assert plateau.factor(0, STEPS) == 0.5


def test_plateau_continues_from_a_restored_state() -> None:
    metrics = [1.0, 0.9, 0.9, 0.9, 0.8, 0.8, 0.8, 0.8]
    whole, first, second = (Plateau(factor=0.5, patience=1) for _ in range(3))
    for metric in metrics:
        whole.observe(metric, "min")
    for metric in metrics[:3]:
        first.observe(metric, "min")
    second.load_state_dict(first.state_dict())
    for metric in metrics[3:]:
        second.observe(metric, "min")
    assert second.state_dict() == whole.state_dict()
    assert whole.scale < 1


@pytest.mark.parametrize("make", [Constant, Cosine, Plateau, lambda warmup: Step(step_size=1000, warmup=warmup)])
def test_warm_up_increases_the_rate_linearly_to_its_full_value(make: Any) -> None:
    assert factors(make(warmup=4))[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0], abs=1e-3)


def test_the_constant_schedule_without_warm_up_is_always_one() -> None:
    assert set(factors(Constant())) == {1.0}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_factors_of_every_schedule_in_conf_are_between_0_and_1(file: Path) -> None:
    node = yaml.safe_load(file.read_text())
    assert file.read_text().startswith("# ")
    module, _, name = node.pop("_target_").rpartition(".")
    schedule = getattr(importlib.import_module(module), name)(**node)
    for steps in (1, 7, 300):
        assert all(0 <= factor <= 1 for factor in factors(schedule, steps))
        assert schedule.factor(0, steps) > 0


def test_every_schedule_has_a_yaml_file() -> None:
    names = {schedule.__name__.lower() for schedule in vars(schedules)["Schedule"].__subclasses__()}
    assert {file.stem.replace("_", "") for file in FILES} == names

"""Train, load and evaluate combinations with each model, data set, task, optimizer, schedule and regularization.

The default tests train a covering subset; tests marked `slow` train all other combinations in `TRAINED`. Options of
`device` are only composed; `transfer` is tested in tests/runs.
"""

import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from combinations import (
    COVERING,
    DRAWN,
    FITS,
    MADE_FOR,
    OPTIONS,
    SETTINGS,
    SETTINGS_OF,
    TASKS,
    TRAINED,
    compose_small,
)

from dltrain.config import compose
from dltrain.loggers.console import Console
from dltrain.runs import assemble, dry_run, launch, model_summary, report
from dltrain.storage.checkpoints import Checkpoints

PADDED = ("inputs", "masked", "previous", "segments", "targets")  # fields whose width depends on the batch
# Tasks whose loss does not approach 0 even if all examples are memorized.
NEVER_ZERO = {"variational", "contrastive_divergence", "detection"}
COARSE = {"fcn", "deeplabv3"}  # outputs at an eighth of the resolution cannot match masks of a few pixels
RATES = {"bag_of_words": 0.1, "perceptron": 3e-2, "mlp": 1e-2, "gru": 1e-2, "lstm": 1e-2, "cnn": 1e-3}


def test_every_option_is_covered_by_these_tests() -> None:
    assert set(OPTIONS["model"]) == set(FITS)
    assert set(OPTIONS["data"]) == set(TASKS)
    assert set(OPTIONS["task"]) == set.union({"perceptron_rule"}, *TASKS.values(), *map(set, MADE_FOR.values()))


def test_every_setting_is_covered_by_these_tests() -> None:
    assert sorted(itertools.chain(*SETTINGS_OF.values())) == sorted(SETTINGS)


@pytest.mark.parametrize("option", OPTIONS["device"])
def test_every_device_option_can_be_composed(option: str) -> None:
    assert compose.compose([f"device={option}"]).choices["device"] == option


def others_are_slow(default: list[tuple[str, str, str]], triples: Iterable[tuple[str, str, str]]) -> list[Any]:
    """Mark combinations as slow unless the default tests train them."""
    return [t if t in default else pytest.param(*t, marks=pytest.mark.slow) for t in triples]


@pytest.mark.parametrize(("model", "data", "task"), others_are_slow(COVERING, TRAINED))
def test_a_compatible_combination_is_trained_and_evaluated_and_has_the_same_metrics_after_loading(
    model: str, data: str, task: str, here: Path, small_data: Callable[[str], list[str]], own_files: dict[str, Path]
) -> None:
    more = ["trainer.max_steps=2", f"hydra.run.dir={here}/run", "device=cpu"]
    more += ["trainer.log_media=false"] if (model, data, task) in COVERING and (model, data, task) not in DRAWN else []
    more += ["data.column=price"] if task == "regression" and data != "adding_problem" else []
    more += SETTINGS_OF.get((model, data, task), [])
    job = compose_small(model, data, task, small_data, *more)
    outcome = launch.train(job, Console(), 0.0)
    assert outcome.state == "finished"
    result = json.loads((here / "run" / "result.json").read_text())
    again = assemble.build_components(job)
    assert result["steps"] == 2 * len(again.task.stages(again.model))
    checkpoints = Checkpoints(here / "run")
    state = checkpoints.load("best.pt")
    again.model.load_state_dict((state.get("average") or state)["model"])
    batches = dry_run.build_batches(again, again.data.load())
    real = next(iter(batches["train"]))
    example = again.task.example(vars(again.data.spec), len(real["inputs"]))
    # The task's example has the maximum length.
    padded = {name for name in PADDED if name in example and example[name].dim() > 1} if "lengths" in real else set()
    boxes = {"boxes", "kinds"}  # an example has one box per image
    assert all(real[name].dtype == value.dtype for name, value in example.items())
    assert all(real[name].shape == value.shape for name, value in example.items() if name not in padded | boxes)
    assert all(real[name].shape[2:] == value.shape[2:] for name, value in example.items() if name in boxes)
    assert all(real[name].shape[1] <= example[name].shape[1] for name in padded)
    summary = model_summary.summarize_job(job, None, None)
    assert summary.parameters == sum(p.numel() for p in again.model.parameters())
    again.task.fit_baselines(batches["train"], batches.get("val"))
    again.model.eval()
    with torch.inference_mode():
        evaluation = again.task.evaluate(again.model, batches["test"])
    assert report.finite_or_none(evaluation.metrics) == result["test"]


@pytest.mark.parametrize(
    ("model", "data", "task"),
    others_are_slow(
        list({(m, t): (m, d, t) for m, d, t in reversed(COVERING) if m not in COARSE and t != "detection"}.values()),
        [t for t in TRAINED if t[2] not in NEVER_ZERO and t[0] not in COARSE],
    ),
)
def test_one_batch_can_be_overfitted(model: str, data: str, task: str, small_data: Callable[[str], list[str]]) -> None:
    column = ["data.column=price"] if task == "regression" and data != "adding_problem" else []
    components = assemble.build_components(compose_small(model, data, task, small_data, "device=cpu", *column))
    whole = next(dry_run.build_batches(components, components.data.load())["train"].epoch(0))
    batch = {name: value[:3] for name, value in whole.items()}
    optimizer = torch.optim.Adam(components.model.parameters(), lr=RATES.get(model, 3e-3))
    components.model.train()
    first = last = components.task.loss(components.model, batch, 0.0).total.item()
    for _ in range(200):
        loss = components.task.loss(components.model, batch, 0.0).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last = loss.item()
        if last < 0.1 * first:
            break
    assert last <= 0.1 * first  # the loss of a perceptron may be 0 from the start

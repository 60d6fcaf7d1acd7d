"""Whole runs: reproducibility, lower precision, memory layout, compilation, optimizers and schedules."""

import copy
import dataclasses
import multiprocessing
import shlex
from collections.abc import Callable

import pytest
import torch
from run_examples import IMAGES, INTERVALS, STEPS, TEXT, equal, hashes, lines, model_of
from torch.nn import functional as F

from dltrain.config import compose, groups, interpolation
from dltrain.data.loader import Batches
from dltrain.datasets.time_series import TimeSeries
from dltrain.models.recurrent import Recurrent
from dltrain.runs import assemble, dry_run
from dltrain.runs.launch import Outcome
from dltrain.tasks.base import Batch


def test_the_saved_command_reproduces_the_run_bit_for_bit(
    classification_run: Outcome, train: Callable[..., Outcome]
) -> None:
    program, *words = shlex.split((classification_run.folder / "command.txt").read_text())
    assert program == "dltrain" and not any("hydra.run.dir" in word for word in words)
    torch.rand(100)  # a run must not depend on earlier random numbers
    again = train(*words)
    assert hashes(again) == hashes(classification_run)
    assert lines(again) == lines(classification_run)
    assert again.result["test"] == classification_run.result["test"]
    texts = [(o.folder / "config.yaml").read_text() for o in (classification_run, again)]
    assert texts[0] == texts[1]


def test_training_does_not_depend_on_the_intervals_of_logs_evaluations_and_checkpoints(
    classification_run: Outcome,
    language_model_run: Outcome,
    train: Callable[..., Outcome],
    small_data: Callable[[str], list[str]],
) -> None:
    busy = ["trainer.log_every=1", "trainer.eval_every=1", "trainer.checkpoint_every=1", "trainer.max_steps=6"]
    assert equal(model_of(train(*IMAGES, *small_data("digits"), *busy)), model_of(classification_run))
    seldom = ["trainer.max_steps=6", "trainer.log_every=1000", "trainer.eval_every=1000"]
    assert equal(model_of(train(*TEXT, *small_data("text"), *seldom)), model_of(language_model_run))


def test_another_seed_gives_different_weights_and_losses(
    regression_run: Outcome, train: Callable[..., Outcome], small_data: Callable[[str], list[str]]
) -> None:
    other = train("model=mlp", "task=regression", *small_data("csv"), "data.column=price", *INTERVALS, "seed=1")
    assert not equal(model_of(other), model_of(regression_run))
    assert lines(other)[0]["loss"] != lines(regression_run)[0]["loss"]


def test_a_whole_run_equals_a_plain_pytorch_loop_bit_for_bit(forecasting_run: Outcome) -> None:
    data = TimeSeries(series="elnino", window=24, horizon=6)
    batches = Batches(data.load().train, 64, seed=7, training=True)
    torch.manual_seed(7)
    model = Recurrent("lstm", features=1, outputs=6, hidden_size=8, num_layers=2, dropout=0.2, linear_skip=24)
    torch.manual_seed(7)  # initialization and training start from the same seed
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    order = (batch for epoch in range(STEPS) for batch in batches.epoch(epoch))
    losses = []
    for _, batch in zip(range(STEPS), order, strict=False):
        loss = F.mse_loss(model(batch["inputs"]).view(-1, 6, 1), batch["targets"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert len(batches) < STEPS, "the steps must cover more than one epoch"
    assert equal(model.state_dict(), model_of(forecasting_run))
    assert lines(forecasting_run)[0]["loss"] == losses[0]


def test_the_number_of_data_workers_does_not_change_the_run(
    train: Callable[..., Outcome], small_data: Callable[[str], list[str]]
) -> None:
    common = ["model=mlp", *small_data("image_folder"), "data.augment=[flip,crop]", "trainer.epochs=2"]
    found = [train(*common, f"data.workers={workers}") for workers in (0, 2)]
    assert hashes(found[0]) == hashes(found[1])
    assert lines(found[0]) == lines(found[1])
    assert multiprocessing.active_children() == [], "the next job of a sweep must find no workers"


def test_the_dry_run_changes_neither_random_state_nor_running_statistics(
    small_data: Callable[[str], list[str]],
) -> None:
    job = compose.compose([*IMAGES, "model.norm=batch", *small_data("digits"), "data.augment=[crop]", "device=cpu"])
    components = assemble.build_components(job)
    before = {name: value.clone() for name, value in components.model.state_dict().items()}
    state = torch.get_rng_state()
    dry_run.dry_run(components, dry_run.build_batches(components, components.data.load()), job)
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(before, components.model.state_dict())
    assert any("running_mean" in name for name in before)
    assert components.model.training and all(p.grad is None for p in components.model.parameters())


# --- precision and layout -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "deterministic"), [("bf16", True), pytest.param("fp16", False, marks=pytest.mark.slow)]
)
def test_a_run_in_lower_precision_learns_the_digits_and_records_the_precision(
    precision: str, deterministic: bool, train: Callable[..., Outcome], small_data: Callable[[str], list[str]]
) -> None:
    outcome = train(
        "model=mlp",
        *small_data("digits"),
        "trainer.epochs=3",
        f"device.precision={precision}",
        f"device.deterministic={str(deterministic).lower()}",
    )
    assert outcome.result["precision"] == precision
    assert f"CPU in {precision}" in (outcome.folder / "train.log").read_text()
    losses = [line["loss"] for line in lines(outcome) if line["split"] == "train"]
    assert losses[-1] < 0.3 * losses[0]
    assert outcome.result["test"]["accuracy"] > 0.85
    assert all(value.dtype == torch.float32 for value in model_of(outcome).values())
    assert torch.are_deterministic_algorithms_enabled() == deterministic


def test_channels_last_gives_nearly_the_same_weights(
    classification_run: Outcome, train: Callable[..., Outcome], small_data: Callable[[str], list[str]]
) -> None:
    plain = train(*IMAGES, *small_data("digits"), *INTERVALS, "device.channels_last=false")
    assert "channels_last" in (classification_run.folder / "train.log").read_text()
    assert "channels_last" not in (plain.folder / "train.log").read_text()
    first, second = model_of(classification_run), model_of(plain)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_model_has_the_same_losses(
    train: Callable[..., Outcome], small_data: Callable[[str], list[str]]
) -> None:
    common = ["model=mlp", *small_data("digits"), "trainer.max_steps=30", "trainer.log_every=5"]
    found = [train(*common, f"device.compile={on}") for on in ("false", "true")]
    assert "compiled" in (found[1].folder / "train.log").read_text()
    losses = [[line["loss"] for line in lines(outcome)] for outcome in found]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert set(model_of(found[0])) == set(model_of(found[1])), (
        "checkpoints with and without compilation have the same keys"
    )


OPTIMIZER = groups.conf_dir() / "optimizer"
OPTIMIZERS = sorted(file.stem for file in OPTIMIZER.glob("*.yaml"))
SCHEDULES = sorted(file.stem for file in (OPTIMIZER / "schedule").glob("*.yaml"))


@pytest.fixture(scope="module")
def untrained(small_data: Callable[[str], list[str]]) -> tuple[assemble.Components, Batch]:
    """Return the components of a small classifier and its first training batch."""
    job = compose.compose(["model=mlp", "model.hidden_size=8", *small_data("digits"), "device=cpu"])
    components = assemble.build_components(job)
    return components, next(dry_run.build_batches(components, components.data.load())["train"].epoch(0))


@pytest.mark.parametrize(
    ("name", "schedule"), [*((name, None) for name in OPTIMIZERS), *(("adam", schedule) for schedule in SCHEDULES)]
)
def test_every_optimizer_and_schedule_updates_every_parameter(
    name: str, schedule: str | None, untrained: tuple[assemble.Components, Batch]
) -> None:
    components, batch = untrained
    node = interpolation.from_yaml((OPTIMIZER / f"{name}.yaml").read_text())
    schedule = schedule or node["defaults"][0]["schedule"]
    node["schedule"] = interpolation.from_yaml((OPTIMIZER / "schedule" / f"{schedule}.yaml").read_text())
    del node["defaults"]
    # The factor of noam is the learning rate itself, so `lr` must be 1.
    config = {**components.config, "optimizer": {**node, **({"lr": 1.0} if schedule == "noam" else {})}}
    components = dataclasses.replace(components, config=config, model=copy.deepcopy(components.model))
    (turn,) = components.task.stages(components.model)[0].turns
    optimizer = components.build_optimizer(turn, 10)
    before = [p.detach().clone() for p in turn.parameters]
    for number in range(3):
        optimizer.backward(turn.loss(batch, 0.0))
        optimizer.step(number)
    for old, new in zip(before, turn.parameters, strict=True):
        assert new.isfinite().all() and not torch.equal(old, new)
    assert optimizer.lr > 0

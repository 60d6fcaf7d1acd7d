"""The training loop: comparison with plain PyTorch loops; intervals of logging, evaluation and checkpoints."""

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import (
    CLASSES,
    EPOCH,
    NEVER,
    ROWS,
    SIZE,
    Scripted,
    Tokens,
    lines,
    make_loop,
    network,
    order,
    source,
    weights,
)
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.storage.checkpoints import Checkpoints
from dltrain.tasks.base import Batch, Loss
from dltrain.tasks.classification import Classification


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_loop_equals_a_plain_pytorch_loop_bit_for_bit(dropout: float, tmp_path: Path) -> None:
    model = network(dropout=dropout)
    make_loop(tmp_path, model=model, val=False, epochs=3).run()
    plain = network(dropout=dropout)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-2, fused=True)
    plain.train()
    for batch in order(3):
        optimizer.zero_grad()
        F.cross_entropy(plain(batch["inputs"]), batch["targets"]).backward()
        optimizer.step()
    assert torch.equal(weights(model), weights(plain))
    assert not torch.equal(weights(model), weights(network()))


def test_accumulation_equals_a_plain_pytorch_loop_bit_for_bit(tmp_path: Path) -> None:
    model = network(dropout=0.3)
    make_loop(tmp_path, model=model, val=False, epochs=None, max_steps=1, accumulate=4).run()
    plain = network(dropout=0.3)
    plain.train()
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-2, fused=True)
    for batch in order(1)[:4]:
        (F.cross_entropy(plain(batch["inputs"]), batch["targets"]) / 4).backward()
    optimizer.step()
    assert torch.equal(weights(model), weights(plain))


@pytest.mark.parametrize("kind", [Classification, Tokens])
def test_four_accumulated_batches_of_eight_equal_one_batch_of_thirty_two(kind: type, tmp_path: Path) -> None:
    make = functools.partial(torch.optim.SGD, lr=0.1)
    accumulated, large = network(), network()
    loops = [
        make_loop(tmp_path / "small", kind(CLASSES), accumulated, make, val=False, epochs=3, accumulate=4),
        make_loop(tmp_path / "large", kind(CLASSES), large, make, val=False, epochs=3, batch_size=32),
    ]
    for loop in loops:
        loop.run()
    assert [loop.state.step for loop in loops] == [6, 6]
    torch.testing.assert_close(weights(accumulated), weights(large), rtol=1e-5, atol=1e-6)
    logged = [[line["loss"] for line in lines(tmp_path / name, "train")] for name in ("small", "large")]
    assert logged[0] == pytest.approx(logged[1], rel=1e-5)


@pytest.mark.parametrize("kind", [Classification, Tokens])
def test_the_logged_loss_is_the_exact_mean_over_examples_or_tokens(kind: type, tmp_path: Path) -> None:
    model = network()
    frozen = functools.partial(torch.optim.SGD, lr=1e-30)
    make_loop(tmp_path, kind(CLASSES), model, frozen, val=False, epochs=2, log_every=(1.0, "epoch")).run()
    first, *_, second = lines(tmp_path, "train")
    assert (first["step"], second["step"]) == (1, 2 * EPOCH)
    rows = source().rows
    assert isinstance(rows, dict)
    expected = kind(CLASSES).loss(model, rows, 0.0).total.item()
    assert second["loss"] == pytest.approx(expected, rel=1e-6)


def test_progress_is_the_fraction_of_steps_completed(tmp_path: Path) -> None:
    seen: list[float] = []

    class Watched(Classification):
        def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
            seen.append(progress)
            return super().loss(model, batch, progress)

    make_loop(tmp_path, Watched(CLASSES), max_steps=5).run()
    assert seen == [0.0, 0.2, 0.4, 0.6, 0.8]


@pytest.mark.parametrize(
    ("config", "logged", "evaluated", "steps"),
    [
        ({}, [1, 8, 16], [8, 16], 16),
        ({"log_every": (5.0, "step")}, [1, 5, 8, 10, 15, 16], [8, 16], 16),
        ({"eval_every": (6.0, "step")}, [1, 6, 12, 16], [6, 12, 16], 16),
        ({"epochs": 4, "eval_every": (3.0, "epoch")}, [1, 24, 32], [24, 32], 32),
        ({"max_steps": 11}, [1, 8, 11], [8, 11], 11),
        ({"epochs": None, "max_steps": 19}, [1, 8, 16, 19], [8, 16, 19], 19),
        ({"accumulate": 3}, [1, 3, 6], [3, 6], 6),
        ({"max_steps": 100}, [1, 8, 16], [8, 16], 16),
        ({"eval_every": (1e-9, "minute"), "max_steps": 3}, [1, 2, 3], [1, 2, 3], 3),
        ({"log_every": (1e-9, "minute"), "max_steps": 3}, [1, 2, 3], [3], 3),
        ({"log_every": (60.0, "minute"), "eval_every": (60.0, "minute")}, [1, 16], [16], 16),
    ],
)
def test_intervals_may_be_steps_epochs_or_minutes(
    config: dict[str, Any], logged: list[int], evaluated: list[int], steps: int, tmp_path: Path
) -> None:
    loop = make_loop(tmp_path, **{"log_every": NEVER, **config})
    loop.run()
    assert [line["step"] for line in lines(tmp_path, "train")] == logged
    assert [line["step"] for line in lines(tmp_path, "val")] == evaluated
    assert loop.state.step == loop.stages.steps == steps
    epochs = [line["epoch"] for line in lines(tmp_path, "train")]
    accumulate, epoch_steps = config.get("accumulate", 1), loop.current.epoch_steps
    assert epochs == pytest.approx([step // epoch_steps + step % epoch_steps * accumulate / EPOCH for step in logged])


class RecordedCheckpoints(Checkpoints):
    """Checkpoints that record the step of each save."""

    def __init__(self, run: Path) -> None:
        super().__init__(run)
        self.steps: list[int] = []

    def save(self, state: dict[str, Any], step: int, *others: Any, **more: Any) -> None:
        self.steps.append(step)
        super().save(state, step, *others, **more)


@pytest.mark.parametrize(
    ("interval", "expected"), [((5.0, "step"), [5, 10, 15, 16]), ((1.0, "epoch"), [8, 16]), (NEVER, [16])]
)
def test_checkpoints_are_written_at_the_interval_and_at_the_end(
    interval: tuple[float, str], expected: list[int], tmp_path: Path
) -> None:
    loop = make_loop(tmp_path, Scripted([1.0, 2.0]), checkpoint_every=interval, eval_every=(16.0, "step"))
    loop.checkpointer.checkpoints = checkpoints = RecordedCheckpoints(tmp_path)
    loop.run()
    assert checkpoints.steps == expected


def test_every_epoch_has_each_example_once_in_a_different_order(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Watched(Classification):
        def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
            seen.append(batch["inputs"][:, 0])
            return super().loss(model, batch, progress)

    make_loop(tmp_path, Watched(CLASSES), epochs=2).run()
    first, second = torch.cat(seen[:EPOCH]), torch.cat(seen[EPOCH:])
    assert torch.equal(first.sort().values, second.sort().values)
    assert len(first.unique()) == ROWS
    assert not torch.equal(first, second)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_evaluation_logging_and_checkpoints_do_not_change_training(average: float, tmp_path: Path) -> None:
    every = (1.0, "step")
    last, random_states = [], []
    for name, interval in (("quiet", NEVER), ("busy", every)):
        torch.manual_seed(5)
        model = nn.Sequential(nn.Linear(SIZE, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, CLASSES))
        intervals = dict.fromkeys(("eval_every", "log_every", "checkpoint_every"), interval)
        make_loop(
            tmp_path / name, model=model, average=average, max_steps=4, log_media=interval == every, **intervals
        ).run()
        last.append(Checkpoints(tmp_path / name).load("last.pt")["model"])
        random_states.append(torch.get_rng_state())
    assert torch.equal(*random_states)
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])
    assert last[0]["1.num_batches_tracked"] == 4


class Masked(Classification):
    """Classification whose loss ignores examples with a second feature of at most 1.6."""

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        counted = batch["inputs"][:, 1] > 1.6
        rows = {name: value[counted] for name, value in batch.items()}
        return super().loss(model, rows, progress)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_batches_in_which_the_loss_ignores_all_examples_are_skipped(accumulate: int, tmp_path: Path) -> None:
    sizes = [int((batch["inputs"][:, 1] > 1.6).sum()) for batch in order(2)]
    assert sizes[0] == 0 < sizes.count(0) < len(sizes), (
        "the loss must ignore all examples of the first batch, but not of every batch"
    )
    masked, plain = network(), network()
    make_loop(tmp_path, Masked(CLASSES), masked, val=False, accumulate=accumulate).run()
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-2)
    for epoch in range(2):
        batches = order(1, first=epoch)
        for start in range(0, len(batches), accumulate):
            whole = {k: torch.cat([batch[k] for batch in batches[start : start + accumulate]]) for k in batches[0]}
            if (whole["inputs"][:, 1] > 1.6).any():
                optimizer.zero_grad()
                Masked(CLASSES).loss(plain, whole, 0.0).total.backward()
                optimizer.step()
    torch.testing.assert_close(weights(masked), weights(plain), rtol=1e-5, atol=1e-6)
    assert all(math.isfinite(line.get("loss", 0.0)) for line in lines(tmp_path, "train"))

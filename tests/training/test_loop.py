"""The loop against plain PyTorch loops written out by hand, and what it decides on the way."""

import functools
import gc
import io
import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils._python_dispatch import TorchDispatchMode

from dltrain.data.loader import Batches
from dltrain.data.spec import Source
from dltrain.datasets.table import Ready
from dltrain.loggers.console import Console
from dltrain.loggers.tracker import Tracker
from dltrain.optim.ema import EMA
from dltrain.optim.optimizer import Optimizer
from dltrain.optim.regularization import Regularization
from dltrain.optim.schedules import Constant, Cosine, Plateau, Schedule
from dltrain.storage.checkpoints import Checkpoints
from dltrain.tasks.base import Batch, Evaluation, Goal, Loss, Shown, Stage, Task, Turn
from dltrain.tasks.classification import Classification
from dltrain.training.device import Device
from dltrain.training.divergence import Diverged
from dltrain.training.loop import Loop, grouped
from dltrain.training.meters import Timer
from dltrain.training.run_logger import RunLogger
from dltrain.training.signals import Stop
from dltrain.training.state import TrainerConfig, improves

ROWS, SIZE, CLASSES, BATCH = 61, 5, 3, 8  # the last batch has 5 examples
EPOCH = -(-ROWS // BATCH)
NEVER = (1_000_000.0, "step")


def source(seed: int = 0, rows: int = ROWS) -> Source:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, SIZE, generator=generator)
    return Source({"inputs": inputs, "targets": inputs[:, :CLASSES].argmax(1)}, Ready())


def network(seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(SIZE, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, CLASSES))


def looped(
    folder: Path,
    task: Task | None = None,
    model: nn.Module | None = None,
    make: functools.partial[Any] = functools.partial(torch.optim.Adam, lr=1e-2),  # noqa: B008
    schedule: Callable[[], Schedule] = Constant,
    regularization: Regularization = Regularization(),  # noqa: B008
    average: float = 0.0,
    precision: str = "fp32",
    batch_size: int = BATCH,
    val: bool = True,
    train: Source | None = None,
    unlabelled: Source | None = None,
    **plan: Any,
) -> Loop:
    """A loop over a small classification problem, ready to run; the folder gets what a run writes."""
    folder.mkdir(exist_ok=True)
    model = model or network()
    checkpoints = Checkpoints(folder)
    checkpoints.open()
    device = Device(torch.device("cpu"), precision, False, False, False)

    def optimizer(turn: Turn, steps: int) -> Optimizer:
        owned = {id(p) for p in turn.parameters}
        others = any(p.requires_grad and id(p) not in owned for p in model.parameters())
        return Optimizer(make, turn.parameters, schedule(), steps, regularization, device.make_scaler(), partial=others)

    splits = {"train": Batches(train or source(), batch_size, seed=3, training=True)}
    if val:
        splits["val"] = Batches(source(1, 20), 16)
    if unlabelled is not None:
        splits["unlabelled"] = Batches(unlabelled, batch_size, seed=3, training=True)
    given: dict[str, Any] = {"epochs": 2, "max_steps": None, "accumulate": 1, "log_every": (1.0, "step")}
    given |= {"eval_every": (1.0, "epoch"), "checkpoint_every": NEVER, **plan}
    return Loop(
        task or Classification(CLASSES),
        model,
        splits,
        optimizer,
        EMA(model, average) if average else None,
        TrainerConfig(**given),
        device,
        RunLogger(Tracker(folder), Console(io.StringIO()), Timer(time.perf_counter()), device.device),
        checkpoints,
        Stop(),
    )


def lines(folder: Path, split: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["split"] == split]


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


def order(epochs: int, batch_size: int = BATCH, first: int = 0) -> list[Batch]:
    batches = Batches(source(), batch_size, seed=3, training=True)
    return [batch for epoch in range(first, first + epochs) for batch in batches.epoch(epoch)]


# --- the same numbers as a plain loop -------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_loop_equals_a_plain_pytorch_loop_bit_for_bit(dropout: float, tmp_path: Path) -> None:
    model = network(dropout=dropout)
    looped(tmp_path, model=model, val=False, epochs=3).run()
    plain = network(dropout=dropout)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-2, fused=True)
    plain.train()
    for batch in order(3):
        optimizer.zero_grad()
        F.cross_entropy(plain(batch["inputs"]), batch["targets"]).backward()
        optimizer.step()
    assert torch.equal(weights(model), weights(plain))
    assert not torch.equal(weights(model), weights(network()))


def test_accumulation_equals_the_plain_way_of_writing_it_bit_for_bit(tmp_path: Path) -> None:
    model = network(dropout=0.3)
    looped(tmp_path, model=model, val=False, epochs=None, max_steps=1, accumulate=4).run()
    looped(tmp_path / "more", model=model, val=False, epochs=None, max_steps=1, accumulate=4).run()
    plain = network(dropout=0.3)
    plain.train()
    for _ in range(2):
        optimizer = torch.optim.Adam(plain.parameters(), lr=1e-2, fused=True)
        for batch in order(1)[:4]:
            (F.cross_entropy(plain(batch["inputs"]), batch["targets"]) / 4).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(weights(model), weights(plain))


def test_four_batches_of_eight_equal_one_of_thirty_two_also_when_the_last_are_fewer(tmp_path: Path) -> None:
    make = functools.partial(torch.optim.SGD, lr=0.1)
    small, large = network(), network()
    loops = [
        looped(tmp_path / "small", model=small, make=make, val=False, epochs=3, accumulate=4),
        looped(tmp_path / "large", model=large, make=make, val=False, epochs=3, batch_size=32),
    ]
    for loop in loops:
        loop.run()
    assert [loop.state.step for loop in loops] == [6, 6]
    torch.testing.assert_close(weights(small), weights(large), rtol=1e-5, atol=1e-6)
    logged = [[line["loss"] for line in lines(tmp_path / name, "train")] for name in ("small", "large")]
    assert logged[0] == pytest.approx(logged[1], rel=1e-5)


class Tokens(Classification):
    """Counts only examples whose first number is positive, as a language model leaves out padding."""

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        each = F.cross_entropy(model(batch["inputs"]), batch["targets"], reduction="none")
        real = (batch["inputs"][:, 0] > 0).float()
        return Loss((each * real).sum() / real.sum(), real.sum())


def test_accumulation_is_exact_also_with_uneven_token_counts(tmp_path: Path) -> None:
    make = functools.partial(torch.optim.SGD, lr=0.1)
    small, large = network(), network()
    looped(tmp_path / "s", Tokens(CLASSES), small, make, val=False, epochs=3, accumulate=4).run()
    looped(tmp_path / "l", Tokens(CLASSES), large, make, val=False, epochs=3, batch_size=32).run()
    counts = {int((batch["inputs"][:, 0] > 0).sum()) for batch in order(1)}
    assert len(counts) > 2, "the counts are uneven"
    torch.testing.assert_close(weights(small), weights(large), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [Classification, Tokens])
def test_the_loss_that_is_logged_is_the_exact_mean_over_examples_or_tokens(kind: type, tmp_path: Path) -> None:
    model = network()
    still = functools.partial(torch.optim.SGD, lr=1e-30)
    looped(tmp_path, kind(CLASSES), model, still, val=False, epochs=2, log_every=(1.0, "epoch")).run()
    first, *_, second = lines(tmp_path, "train")
    assert (first["step"], second["step"]) == (1, 2 * EPOCH)
    rows = source().rows
    assert isinstance(rows, dict)
    wanted = kind(CLASSES).loss(model, rows, 0.0).total.item()
    assert second["loss"] == pytest.approx(wanted, rel=1e-6)


def test_progress_rises_from_zero_to_one_over_all_steps(tmp_path: Path) -> None:
    seen: list[float] = []

    class Watched(Classification):
        def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
            seen.append(progress)
            return super().loss(model, batch, progress)

    looped(tmp_path, Watched(CLASSES), max_steps=5).run()
    assert seen == [0.0, 0.2, 0.4, 0.6, 0.8]


# --- when things happen ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "logged", "evaluated", "steps"),
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
def test_steps_epochs_and_minutes_say_when_to_log_and_evaluate(
    plan: dict[str, Any], logged: list[int], evaluated: list[int], steps: int, tmp_path: Path
) -> None:
    loop = looped(tmp_path, **{"log_every": NEVER, **plan})
    loop.run()
    assert [line["step"] for line in lines(tmp_path, "train")] == logged
    assert [line["step"] for line in lines(tmp_path, "val")] == evaluated
    assert loop.state.step == loop.stages.steps == steps
    epochs = [line["epoch"] for line in lines(tmp_path, "train")]
    size, whole = plan.get("accumulate", 1), loop.current.epoch_steps
    assert epochs == pytest.approx([step // whole + step % whole * size / EPOCH for step in logged])


class Saves(Checkpoints):
    """Remembers what was saved when."""

    def __init__(self, run: Path) -> None:
        super().__init__(run)
        self.steps: list[int] = []

    def save(self, state: dict[str, Any], step: int, *others: Any, **more: Any) -> None:
        self.steps.append(step)
        super().save(state, step, *others, **more)


@pytest.mark.parametrize(
    ("span", "wanted"), [((5.0, "step"), [5, 10, 15, 16]), ((1.0, "epoch"), [8, 16]), (NEVER, [16])]
)
def test_the_last_checkpoint_is_written_when_due_and_at_the_end(
    span: tuple[float, str], wanted: list[int], tmp_path: Path
) -> None:
    loop = looped(tmp_path, Scripted([1.0, 2.0]), checkpoint_every=span, eval_every=(16.0, "step"))
    loop.checkpointer.checkpoints = saves = Saves(tmp_path)
    loop.run()
    assert saves.steps == wanted


def test_an_epoch_sees_every_example_once_and_each_epoch_in_another_order(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Watched(Classification):
        def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
            seen.append(batch["inputs"][:, 0])
            return super().loss(model, batch, progress)

    looped(tmp_path, Watched(CLASSES), epochs=2).run()
    first, second = torch.cat(seen[:EPOCH]), torch.cat(seen[EPOCH:])
    assert torch.equal(first.sort().values, second.sort().values)
    assert len(first.unique()) == ROWS
    assert not torch.equal(first, second)


# --- looking does not change training -------------------------------------------------------------------------------


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_evaluation_logging_and_checkpoints_change_nothing(average: float, tmp_path: Path) -> None:
    quiet, busy = network(dropout=0.3), network(dropout=0.3)
    common: dict[str, Any] = {"average": average, "epochs": 2}
    torch.manual_seed(5)
    looped(tmp_path / "quiet", model=quiet, eval_every=NEVER, log_every=NEVER, **common).run()
    after = torch.get_rng_state()
    torch.manual_seed(5)
    every = (1.0, "step")
    loop = looped(tmp_path / "busy", model=busy, eval_every=every, log_every=every, checkpoint_every=every, **common)
    loop.run()
    assert torch.equal(torch.get_rng_state(), after)
    last = [Checkpoints(tmp_path / name).load("last.pt")["model"] for name in ("quiet", "busy")]
    for name, value in last[0].items():
        assert torch.equal(value, last[1][name]), name


def test_running_statistics_are_untouched_by_evaluation(tmp_path: Path) -> None:
    def normed() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(SIZE, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))

    loops = [
        looped(tmp_path / name, model=normed(), eval_every=span, max_steps=10)
        for name, span in (("quiet", NEVER), ("busy", (1.0, "step")))
    ]
    for loop in loops:
        loop.run()
    last = [Checkpoints(tmp_path / name).load("last.pt")["model"] for name in ("quiet", "busy")]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])
    assert last[0]["1.num_batches_tracked"] == 10


# --- stages and turns -----------------------------------------------------------------------------------------------


class Players(nn.Module):
    """A generator and a critic as one model."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.generator = nn.Linear(SIZE, SIZE)
        self.critic = nn.Linear(SIZE, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.critic(self.generator(x))


class Duel(Task):
    """First the generator learns to copy, then both play; no loss is detached, so gradients reach both players."""

    metric: ClassVar[str] = "loss"
    better: ClassVar[Literal["min", "max"]] = "min"

    def __init__(self) -> None:
        self.seen: list[tuple[str, Tensor, Tensor]] = []

    def facts(self) -> dict[str, Any]:
        return {}

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        raise NotImplementedError

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Players)
        generator, critic = list(model.generator.parameters()), list(model.critic.parameters())

        def watched(name: str, formula: Callable[[Tensor], Tensor]) -> Callable[[Batch, float], Loss]:
            def loss(batch: Batch, progress: float) -> Loss:
                self.seen.append((name, weights(model.generator), weights(model.critic)))
                return Loss(formula(batch["inputs"]), len(batch["inputs"]))

            return loss

        def copy(x: Tensor) -> Tensor:
            return F.mse_loss(model.generator(x), x)

        def fool(x: Tensor) -> Tensor:
            return F.softplus(-model(x)).mean()

        def judge(x: Tensor) -> Tensor:
            return (F.softplus(model(x)) + F.softplus(-model.critic(x))).mean()

        return [
            Stage("copy", [Turn("train", generator, watched("copy", copy))], epochs=1),
            Stage(
                "duel",
                [
                    Turn("generator", generator, watched("generator", fool)),
                    Turn("critic", critic, watched("critic", judge), every=2),
                ],
            ),
        ]

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        return Evaluation({"loss": 0.0})


def duel(folder: Path, **given: Any) -> tuple[Duel, Players, Loop]:
    task, model = Duel(), Players()
    loop = looped(folder, task, model, functools.partial(torch.optim.SGD, lr=0.1), val=False, **given)
    return task, model, loop


def test_each_turn_moves_its_own_parameters_and_nothing_else(tmp_path: Path) -> None:
    task, model, loop = duel(tmp_path)
    loop.run()
    after = [*task.seen[1:], ("end", weights(model.generator), weights(model.critic))]
    for (name, *before), (_, *now) in zip(task.seen, after, strict=True):
        moved = [not torch.equal(b, n) for b, n in zip(before, now, strict=True)]
        assert moved == ([False, True] if name == "critic" else [True, False]), name
    assert all(p.grad is None for p in model.parameters())


def test_turns_come_in_their_order_and_every_second_step_where_asked(tmp_path: Path) -> None:
    task, _, loop = duel(tmp_path)
    loop.run()
    assert loop.state.step == loop.stages.steps == 3 * EPOCH
    names = [name for name, *_ in task.seen]
    assert names[:EPOCH] == ["copy"] * EPOCH
    assert names[EPOCH:] == ["generator", "generator", "critic"] * EPOCH


def test_a_duel_equals_one_written_out_by_hand(tmp_path: Path) -> None:
    _, model, loop = duel(tmp_path)
    loop.run()
    plain = Players()
    generator, critic = (torch.optim.SGD(part.parameters(), lr=0.1, fused=True) for part in plain.children())

    def move(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        plain.zero_grad()
        loss.backward()
        optimizer.step()

    for batch in order(1):
        move(generator, F.mse_loss(plain.generator(batch["inputs"]), batch["inputs"]))
    for number, batch in enumerate(order(2, first=1), EPOCH + 1):
        x = batch["inputs"]
        move(generator, F.softplus(-plain(x)).mean())
        if number % 2 == 0:
            move(critic, (F.softplus(plain(x)) + F.softplus(-plain.critic(x))).mean())
    torch.testing.assert_close(weights(model), weights(plain), rtol=1e-6, atol=1e-7)


def test_schedules_begin_anew_with_every_stage(tmp_path: Path) -> None:
    duel(tmp_path, schedule=Cosine)[2].run()
    logged = [line.get("lr", line.get("lr_generator")) for line in lines(tmp_path, "train")]
    wanted = []
    for steps in (EPOCH, 2 * EPOCH):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        schedule = CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            wanted.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
    assert logged == pytest.approx(wanted, rel=1e-5, abs=1e-9)


def test_each_turn_logs_a_loss_of_its_own(tmp_path: Path) -> None:
    duel(tmp_path)[2].run()
    logged = lines(tmp_path, "train")
    assert all("loss" in line for line in logged[:EPOCH])
    for number, line in enumerate(logged[EPOCH:], EPOCH + 1):
        assert "loss_generator" in line
        assert ("loss_critic" in line) == (number % 2 == 0)


class Lessons(Classification):
    """Two stages: the first reads examples without answers and watches a metric of its own."""

    def __init__(self, tells: Sequence[float] = (1.0,)) -> None:
        super().__init__(CLASSES)
        self.said = itertools.chain(tells, itertools.repeat(tells[-1]))
        self.read: list[tuple[str, int]] = []

    def stages(self, model: nn.Module) -> list[Stage]:
        owned = list(model.parameters())

        def alone(batch: Batch, progress: float) -> Loss:
            assert "targets" not in batch
            self.read.append(("alone", len(batch["inputs"])))
            return Loss(model(batch["inputs"]).square().mean(), len(batch["inputs"]))

        def told(batch: Batch, progress: float) -> Loss:
            self.read.append(("told", len(batch["inputs"])))
            return self.loss(model, batch, progress)

        def far(model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
            return Evaluation({"distance": next(self.said)}, notes=["the distance was measured"])

        first = Stage("alone", [Turn("alone", owned, alone)], 2, "unlabelled", Goal("distance", "min", far))
        return [first, Stage("told", [Turn("train", owned, told)], 1)]


def without_answers(examples: int) -> Source:
    return Source({"inputs": torch.randn(examples, SIZE)}, nn.Identity())


def test_a_stage_reads_examples_without_answers_where_it_asks_for_them(tmp_path: Path) -> None:
    task = Lessons()
    loop = looped(tmp_path, task, unlabelled=without_answers(2 * ROWS))
    loop.run()
    alone = sum(size for name, size in task.read if name == "alone")
    told = sum(size for name, size in task.read if name == "told")
    assert (alone, told) == (2 * 2 * ROWS, ROWS)
    assert loop.state.step == loop.stages.steps
    assert lines(tmp_path, "train")[-1]["epoch"] == 3


def test_every_stage_watches_its_own_metric_and_keeps_its_own_best(tmp_path: Path) -> None:
    loop = looped(tmp_path, Lessons([3.0, math.nan]), unlabelled=without_answers(ROWS))
    loop.run()
    watched = [sorted({"distance", "accuracy"} & line.keys()) for line in lines(tmp_path, "val")]
    assert watched == [["distance"], ["distance"], ["accuracy"]]
    assert loop.state.best == lines(tmp_path, "val")[-1]["accuracy"]
    assert "the distance was measured" in loop.console._stream.getvalue()  # type: ignore[attr-defined]


def test_a_stage_stops_early_by_its_own_metric_and_the_next_one_still_comes(tmp_path: Path) -> None:
    task = Lessons([1.0, 2.0, 3.0])
    looped(tmp_path, task, unlabelled=without_answers(ROWS), early_stopping_patience=1, eval_every=(1.0, "step")).run()
    names = [name for name, _ in task.read]
    assert names[:2] == ["alone"] * 2 and names[2] == "told"


def test_examples_come_in_another_order_in_each_stage(tmp_path: Path) -> None:
    _, _, loop = duel(tmp_path)
    loop.run()
    assert [line["epoch"] for line in lines(tmp_path, "train")] == pytest.approx(
        [step / EPOCH for step in range(1, 3 * EPOCH + 1)]
    )
    assert loop.state.epoch == 2  # the last one, counted from 0


# --- which weights are kept -----------------------------------------------------------------------------------------


class Scripted(Classification):
    """Trains as a classification and says what it was told to say; remembers the weights that were judged."""

    def __init__(self, said: Sequence[float], better: Literal["min", "max"] = "min") -> None:
        super().__init__(CLASSES)
        self.said = itertools.chain(said, itertools.repeat(said[-1]))
        self.better = better  # type: ignore[misc]
        self.judged: list[Tensor] = []
        self.modes: list[bool] = []

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        self.judged.append(weights(model))
        self.modes.append(model.training)
        return Evaluation({"accuracy": next(self.said)})

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Shown]:
        return []


NAN = math.nan


@pytest.mark.parametrize(
    ("said", "better", "wanted"),
    [
        ([3.0, 1.0, 2.0], "min", 2),
        ([3.0, 1.0, 2.0], "max", 1),
        ([NAN, 3.0, 1.0, 2.0], "min", 3),
        ([NAN, 3.0, 1.0, NAN], "max", 2),
        ([-math.inf, 2.0, 3.0], "min", 2),
        ([2.0, 2.0, 2.0], "min", 1),
    ],
)
def test_the_weights_that_the_validation_metric_likes_best_are_kept(
    said: list[float], better: Literal["min", "max"], wanted: int, tmp_path: Path
) -> None:
    task, model = Scripted(said, better), network()
    loop = looped(tmp_path, task, model, eval_every=(2.0, "step"), epochs=None, max_steps=2 * len(said))
    loop.run()
    assert loop.state.best == said[wanted - 1]
    assert loop.state.best_step == 2 * wanted
    assert torch.equal(weights(model), task.judged[wanted - 1])
    assert Checkpoints(tmp_path).read_entry("best.pt")["step"] == 2 * wanted
    assert not any(task.modes), "weights are judged in evaluation mode"
    assert model.training


def test_a_metric_that_is_never_a_number_leaves_the_last_weights(tmp_path: Path) -> None:
    task, model = Scripted([NAN]), network()
    loop = looped(tmp_path, task, model, eval_every=(2.0, "step"))
    loop.run()
    assert loop.state.best is None
    assert not (tmp_path / "checkpoints" / "best.pt").exists()
    assert torch.equal(weights(model), task.judged[-1])


def test_without_validation_the_last_weights_stay_and_nothing_is_judged(tmp_path: Path) -> None:
    task, model = Scripted([1.0]), network()
    looped(tmp_path, task, model, val=False).run()
    assert task.judged == []
    assert lines(tmp_path, "val") == []
    saved = Checkpoints(tmp_path).load("last.pt")["model"]
    assert torch.equal(torch.cat([v.flatten() for v in saved.values()]), weights(model))


@pytest.mark.parametrize(
    ("value", "best", "better", "wanted"),
    [
        (1.0, None, "min", True),
        (1.0, 1.0, "min", False),
        (0.9, 1.0, "min", True),
        (0.9, 1.0, "max", False),
        (1.1, 1.0, "max", True),
        (NAN, None, "max", False),
        (NAN, 1.0, "min", False),
        (math.inf, None, "max", False),
        (-math.inf, 0.0, "min", False),
    ],
)
def test_a_metric_improves_only_when_it_is_a_better_number(
    value: float, best: float | None, better: str, wanted: bool
) -> None:
    assert improves(value, best, better) == wanted


def test_early_stopping_counts_evaluations_not_steps_or_epochs(tmp_path: Path) -> None:
    said = [3.0, 2.0, 2.5, 1.0, 1.5, 1.2, 1.1, 0.1]
    loop = looped(tmp_path, Scripted(said), eval_every=(3.0, "step"), epochs=20, early_stopping_patience=3)
    loop.run()
    assert [line["step"] for line in lines(tmp_path, "val")] == [3 * n for n in range(1, 8)]
    assert loop.state.stopped_early and loop.state.step == 21
    assert (loop.state.best, loop.state.best_step) == (1.0, 12)
    assert Checkpoints(tmp_path).read_entry("last.pt")["step"] == 21


def test_a_metric_that_is_no_number_counts_as_no_improvement(tmp_path: Path) -> None:
    loop = looped(
        tmp_path, Scripted([1.0, NAN, NAN, 0.5]), eval_every=(2.0, "step"), epochs=9, early_stopping_patience=2
    )
    loop.run()
    assert loop.state.step == 6


def test_without_early_stopping_all_steps_are_taken(tmp_path: Path) -> None:
    loop = looped(tmp_path, Scripted([1.0, 2.0]), eval_every=(1.0, "step"))
    loop.run()
    assert loop.state.step == 2 * EPOCH and not loop.state.stopped_early


def test_a_plateau_of_the_metric_lowers_the_rate(tmp_path: Path) -> None:
    schedule = functools.partial(Plateau, factor=0.5, patience=1)
    looped(tmp_path, Scripted([1.0]), eval_every=(2.0, "step"), epochs=None, max_steps=9, schedule=schedule).run()
    # The first evaluation is the best; the next two are no better, which is one more than the patience.
    assert [line["lr"] for line in lines(tmp_path, "train")] == pytest.approx([0.01] * 6 + [0.005] * 3)


def test_averaged_weights_are_those_that_are_judged_and_kept(tmp_path: Path) -> None:
    decay = 0.6
    task, model = Scripted([3.0, 2.0, 1.0, 2.0, 2.0]), network()
    loop = looped(tmp_path, task, model, average=decay, eval_every=(1.0, "step"), epochs=None, max_steps=5)
    loop.run()
    plain = network()
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-2, fused=True)
    averaged, wanted = weights(plain), []
    for number, batch in enumerate(order(1)[:5]):
        optimizer.zero_grad()
        F.cross_entropy(plain(batch["inputs"]), batch["targets"]).backward()
        optimizer.step()
        keep = min(decay, (1 + number) / (10 + number))
        averaged = keep * averaged + (1 - keep) * weights(plain)
        wanted.append(averaged)
    for judged, expected in zip(task.judged, wanted, strict=True):
        torch.testing.assert_close(judged, expected)
    assert torch.equal(weights(loop.evaluator.model), task.judged[2])
    assert loop.evaluator.model is not model


class Poisoned(Classification):
    """Its loss is no number from one step on."""

    def __init__(self, step: int) -> None:
        super().__init__(CLASSES)
        self.step, self.taken = step, 0

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        self.taken += 1
        loss = super().loss(model, batch, progress)
        return loss._replace(total=loss.total * NAN) if self.taken >= self.step else loss


def test_a_loss_that_is_no_number_ends_the_run_and_the_best_weights_stay(tmp_path: Path) -> None:
    loop = looped(tmp_path, Poisoned(6), eval_every=(2.0, "step"), log_every=NEVER)
    with pytest.raises(Diverged, match="nan by step 6"):
        loop.run()
    assert lines(tmp_path, "train")[-1]["non_finite"]["loss"] == "nan"
    loop.checkpointer.checkpoints.wait()  # a thread puts the best in its place
    best = Checkpoints(tmp_path).load("best.pt")["model"]
    assert all(value.isfinite().all() for value in best.values())
    assert gc.get_freeze_count() == 0


# --- precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_trains_and_stays_near_fp32(precision: str, tmp_path: Path) -> None:
    found = {}
    for kind in ("fp32", precision):
        model = network()
        looped(tmp_path / kind, model=model, precision=kind, epochs=6).run()
        found[kind] = lines(tmp_path / kind, "val")
        assert all(p.dtype == torch.float32 for p in model.parameters())
    assert found[precision][-1]["loss"] < 0.8 * found[precision][0]["loss"]
    assert found[precision][-1]["loss"] == pytest.approx(found["fp32"][-1]["loss"], rel=0.05)
    assert found[precision] != found["fp32"], "the precision made a difference"


def test_fp16_lets_a_step_that_overflows_go_and_says_how_many(tmp_path: Path) -> None:
    loop = looped(tmp_path, precision="fp16", train=huge(), epochs=2)
    loop.run()
    skipped = [line["skipped_steps"] for line in lines(tmp_path, "train")]
    assert skipped[0] == 1 and skipped[-1] >= 1
    assert weights(loop.model).isfinite().all()


def huge() -> Source:
    """Inputs so large that scaled gradients overflow float16 at first."""
    rows = source().rows
    assert isinstance(rows, dict)
    return Source({**rows, "inputs": 100 * rows["inputs"]}, Ready())


# --- speed ----------------------------------------------------------------------------------------------------------

WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique", "bincount")


class Watch(TorchDispatchMode):
    """Counts the operations that would make the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name.startswith("index") and any(isinstance(i, Tensor) and i.dtype == torch.bool for i in flat(args)):
            name = "nonzero of a mask"
        self.calls[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def waits(self) -> dict[str, int]:
        return {name: count for name, count in self.calls.items() if any(wait in name for wait in WAITS)}


def flat(args: Iterable[Any]) -> list[Any]:
    return [item for arg in args for item in (arg if isinstance(arg, list | tuple) else [arg])]


def test_the_watch_sees_what_waits() -> None:
    with Watch() as watch:
        value = torch.ones(3)
        value.sum().item()
        bool(value[0] > 0)
        value[value > 0]
        value[value > 0] = torch.full((3,), 2.0)
        value[torch.tensor([0, 1])]
    assert watch.waits == {"_local_scalar_dense": 2, "nonzero of a mask": 2}


EVERYTHING = Regularization(l1=1e-4, l2=1e-4, weight_decay=0.01, clip_norm=1.0, clip_value=0.5)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"accumulate": 2, "task": Tokens(CLASSES)},
        {"average": 0.9, "regularization": EVERYTHING, "schedule": functools.partial(Cosine, warmup=3)},
        {"precision": "bf16"},
        {"precision": "fp16", "accumulate": 2},
        {"make": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True)},
    ],
)
def test_a_step_never_waits_for_the_device(given: dict[str, Any], tmp_path: Path) -> None:
    loop = looped(tmp_path, **{"model": network(dropout=0.1), **given})
    loop.begin_stage()
    groups = grouped(loop.current.batches.epoch(0), loop.config.accumulate)
    loop.take_step(next(groups), measure_norm=True)  # the optimizer makes its state, the epoch its order
    with Watch() as watch:
        for group in itertools.islice(groups, 3):
            loop.take_step(group, measure_norm=False)
            loop.logger.progress(loop.state, loop.stages, loop.goal.metric)
    assert watch.calls["mm"] + watch.calls["addmm"] > 0, "the steps were watched"
    assert watch.waits == {}


def test_what_was_recorded_is_read_back_in_one_copy(tmp_path: Path) -> None:
    loop = looped(tmp_path, regularization=EVERYTHING, log_every=NEVER, max_steps=1, val=False)
    loop.run()
    loop.runner.loss_buffer.add("train", Loss(torch.tensor(1.0), 3, {"part": torch.tensor(2.0)}))
    loop.runner.loss_buffer.add("train", Loss(torch.tensor(1.0), torch.tensor(2), {"part": torch.tensor(2.0)}))
    with Watch() as watch:
        loop.runner.loss_buffer.read({})
    # tolist copies a tensor as one; only a number taken out by itself would count.
    assert watch.waits == {}


class Counting(Scripted):
    """Counts what is alive at each evaluation."""

    def __init__(self) -> None:
        super().__init__([1.0])
        self.alive: list[tuple[int, int]] = []
        self.wait: Callable[[], None] = lambda: None

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        self.wait()  # a checkpoint that is being written is alive
        if gc.isenabled():
            gc.collect()
        objects = gc.get_objects()
        self.alive.append((sum(isinstance(o, Tensor) for o in objects), len(objects)))
        return Evaluation({"accuracy": next(self.said)})


@pytest.mark.parametrize(
    ("collector", "given"),
    [
        (False, {}),
        (False, {"precision": "fp16", "average": 0.9, "accumulate": 2}),
        (True, {"checkpoint_every": (25.0, "step")}),  # torch.save leaves cycles, so here the collector may help
    ],
)
def test_nothing_piles_up_over_the_steps(collector: bool, given: dict[str, Any], tmp_path: Path) -> None:
    task = Counting()
    every: dict[str, Any] = {"eval_every": (50.0, "step"), "log_every": (10.0, "step")}
    (gc.enable if collector else gc.disable)()
    try:
        loop = looped(tmp_path, task, epochs=None, max_steps=500, **every, **given)
        task.wait = loop.checkpointer.checkpoints.wait
        loop.run()
    finally:
        gc.enable()
    tensors, objects = zip(*task.alive, strict=True)
    assert len(tensors) == 10
    assert tensors[-1] <= tensors[1]
    # Each evaluation leaves its entry in the list above; the 400 steps between the second and the last leave nothing.
    assert objects[-1] - objects[1] <= len(objects)

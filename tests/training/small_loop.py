"""A small classification problem and a loop that trains on it."""

import functools
import io
import itertools
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.data.loader import Batches
from dltrain.data.spec import Source
from dltrain.loggers.console import Console
from dltrain.loggers.tracker import Tracker
from dltrain.optim.ema import EMA
from dltrain.optim.optimizer import Optimizer
from dltrain.optim.regularization import Regularization
from dltrain.optim.schedules import Constant, Schedule
from dltrain.storage.checkpoints import Checkpoints
from dltrain.tasks.base import Batch, Evaluation, Loss, Media, Task, Turn
from dltrain.tasks.classification import Classification
from dltrain.training.device import Device
from dltrain.training.loop import Loop
from dltrain.training.meters import Timer
from dltrain.training.run_logger import RunLogger
from dltrain.training.signals import Stop
from dltrain.training.state import TrainerConfig

ROWS, SIZE, CLASSES, BATCH = 61, 5, 3, 8  # the last batch has 5 examples
EPOCH = -(-ROWS // BATCH)
NEVER = (1_000_000.0, "step")


def source(seed: int = 0, rows: int = ROWS) -> Source:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, SIZE, generator=generator)
    return Source({"inputs": inputs, "targets": inputs[:, :CLASSES].argmax(1)}, nn.Identity())


def network(seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(SIZE, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, CLASSES))


def make_loop(
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
    unlabeled: Source | None = None,
    console: Console | None = None,
    **plan: Any,
) -> Loop:
    """Return a loop that trains on a small classification problem and writes to `folder`."""
    folder.mkdir(exist_ok=True)
    model = model or network()
    checkpoints = Checkpoints(folder)
    checkpoints.open()
    device = Device(torch.device("cpu"), precision, False, False, False)

    def optimizer(turn: Turn, steps: int) -> Optimizer:
        owned = {id(p) for p in turn.parameters}
        only_own = any(p.requires_grad and id(p) not in owned for p in model.parameters())
        return Optimizer(
            make,
            turn.parameters,
            schedule(),
            steps,
            regularization,
            device.make_scaler(),
            only_own=only_own,
            rates=turn.rates,
        )

    splits = {"train": Batches(train or source(), batch_size, seed=3, training=True)}
    if val:
        splits["val"] = Batches(source(1, 20), 16)
    if unlabeled is not None:
        splits["unlabeled"] = Batches(unlabeled, batch_size, seed=3, training=True)
    given: dict[str, Any] = {"epochs": 2, "max_steps": None, "accumulate": 1, "log_every": (1.0, "step")}
    given |= {"eval_every": (1.0, "epoch"), "checkpoint_every": NEVER, "log_media": False, **plan}
    task = task or Classification(CLASSES)
    return Loop(
        task,
        model,
        task.stages(model),
        splits,
        optimizer,
        EMA(model, average) if average else None,
        TrainerConfig(**given),
        device,
        RunLogger(Tracker(folder), console or Console(io.StringIO()), Timer(time.perf_counter()), device.device),
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


class Tokens(Classification):
    """A task whose loss ignores some examples, like a language model that ignores padding."""

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        each = F.cross_entropy(model(batch["inputs"]), batch["targets"], reduction="none")
        real = (batch["inputs"][:, 0] > 0).float()
        return Loss((each * real).sum() / real.sum(), real.sum())


class Scripted(Classification):
    """A task whose evaluations return given values; it records the evaluated weights and the mode of the model."""

    def __init__(self, values: Sequence[float], better: Literal["min", "max"] = "min") -> None:
        super().__init__(CLASSES)
        self.values = itertools.chain(values, itertools.repeat(values[-1]))
        self.better = better  # type: ignore[misc]
        self.evaluated: list[Tensor] = []
        self.modes: list[bool] = []

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        self.evaluated.append(weights(model))
        self.modes.append(model.training)
        return Evaluation({"accuracy": next(self.values)})

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        return []

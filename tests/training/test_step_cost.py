"""A training step does not wait for the device, leaks no memory, and supports lower precision."""

import functools
import gc
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import CLASSES, NEVER, Scripted, Tokens, lines, make_loop, network, source, weights
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dltrain.data.spec import Source
from dltrain.optim.regularization import Regularization
from dltrain.optim.schedules import Cosine
from dltrain.tasks.base import Batch, Evaluation, Loss
from dltrain.training.loop import grouped


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_training_in_lower_precision_gives_losses_close_to_fp32(precision: str, tmp_path: Path) -> None:
    found = {}
    for kind in ("fp32", precision):
        model = network()
        make_loop(tmp_path / kind, model=model, precision=kind, epochs=6).run()
        found[kind] = lines(tmp_path / kind, "val")
        assert all(p.dtype == torch.float32 for p in model.parameters())
    assert found[precision][-1]["loss"] < 0.8 * found[precision][0]["loss"]
    assert found[precision][-1]["loss"] == pytest.approx(found["fp32"][-1]["loss"], rel=0.05)
    assert found[precision] != found["fp32"], "lower precision must change the metrics"


def test_fp16_skips_steps_that_overflow_and_logs_their_number(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, precision="fp16", train=huge(), epochs=2)
    loop.run()
    skipped = [line["skipped_steps"] for line in lines(tmp_path, "train")]
    assert skipped[0] == 1 and skipped[-1] >= 1
    assert weights(loop.model).isfinite().all()


def huge() -> Source:
    """Return examples with large inputs: the scaled gradients of the first steps overflow float16."""
    rows = source().rows
    assert isinstance(rows, dict)
    return Source({**rows, "inputs": 100 * rows["inputs"]}, nn.Identity())


WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique", "bincount")


class Watch(TorchDispatchMode):
    """Counter of tensor operations; `waits` counts the operations that make the host wait for a GPU."""

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


def test_the_counter_detects_operations_that_wait_for_the_device() -> None:
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
    loop = make_loop(tmp_path, **{"model": network(dropout=0.1), **given})
    loop.begin_stage()
    groups = grouped(loop.current.batches.epoch(0), loop.config.accumulate)
    loop.take_step(next(groups), measure_norm=True)  # creates the optimizer state and the data order
    with Watch() as watch:
        for group in itertools.islice(groups, 3):
            loop.take_step(group, measure_norm=False)
            loop.logger.progress(loop.state, loop.stages, loop.goal.metric)
    assert watch.calls["mm"] + watch.calls["addmm"] > 0, "the operations of the steps must be counted"
    assert watch.waits == {}


def test_buffered_losses_are_not_read_one_by_one(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, regularization=EVERYTHING, log_every=NEVER, max_steps=1, val=False)
    loop.run()
    loop.runner.loss_buffer.add("train", Loss(torch.tensor(1.0), 3, {"part": torch.tensor(2.0)}))
    loop.runner.loss_buffer.add("train", Loss(torch.tensor(1.0), torch.tensor(2), {"part": torch.tensor(2.0)}))
    with Watch() as watch:
        loop.runner.loss_buffer.read({})
    # tolist copies a whole tensor once; only reading single numbers is counted.
    assert watch.waits == {}


class Counting(Scripted):
    """Task that counts the tensors and the objects in memory at each evaluation."""

    def __init__(self) -> None:
        super().__init__([1.0])
        self.alive: list[tuple[int, int]] = []
        self.wait: Callable[[], None] = lambda: None

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        self.wait()  # a checkpoint keeps its tensors alive until it is written
        if gc.isenabled():
            gc.collect()
        objects = gc.get_objects()
        self.alive.append((sum(isinstance(o, Tensor) for o in objects), len(objects)))
        return Evaluation({"accuracy": next(self.values)})


@pytest.mark.parametrize(
    ("collector", "given"),
    [
        pytest.param(False, {}, marks=pytest.mark.slow),
        (False, {"precision": "fp16", "average": 0.9, "accumulate": 2}),
        (True, {"checkpoint_every": (12.0, "step")}),  # torch.save creates reference cycles
    ],
)
def test_steps_leak_no_tensors_or_objects(collector: bool, given: dict[str, Any], tmp_path: Path) -> None:
    task = Counting()
    every: dict[str, Any] = {"eval_every": (25.0, "step"), "log_every": (5.0, "step")}
    (gc.enable if collector else gc.disable)()
    try:
        loop = make_loop(tmp_path, task, epochs=None, max_steps=250, **every, **given)
        task.wait = loop.checkpointer.checkpoints.wait
        loop.run()
    finally:
        gc.enable()
    tensors, objects = zip(*task.alive, strict=True)
    assert len(tensors) == 10
    assert tensors[-1] <= tensors[1]
    # Between the second and the last evaluation, only the entries of `alive` may be added.
    assert objects[-1] - objects[1] <= len(objects)

"""Train one workload in this process, with dltrain or with a bare loop."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, TensorDataset
from workloads import WORKLOADS, Workload, data_path, tensors

LOG_EVERY = 50


@dataclass
class Task:
    """The work of one child process, and its measurements.

    Args:
        name: Name of the workload.
        folder: Folder of the data.
        scratch: Temporary folder for files that the trainer writes.
        steps: Number of training steps.
        watch: Called after each step with the number of steps done.
    """

    name: str
    folder: Path
    scratch: Path
    steps: int
    watch: Callable[[int], None] | None = None
    stamps: list[float] = field(default_factory=list)
    seen: dict[str, Any] = field(default_factory=dict)

    @property
    def workload(self) -> Workload:
        return WORKLOADS[self.name]

    def stamp(self, *_: Any) -> None:
        """Record that an optimizer step is done."""
        self.stamps.append(time.perf_counter())
        if self.watch is not None:
            self.watch(len(self.stamps))

    def stamp_torch(self) -> None:
        """Record every step of every torch optimizer through a hook."""
        register_optimizer_step_post_hook(self.stamp)

    def model(self) -> nn.Module:
        """Return the workload's model, initialized with seed 0, which is the default seed of dltrain."""
        torch.manual_seed(0)
        model = self.workload.model()
        self.seen["parameters"] = sum(p.numel() for p in model.parameters())
        return model

    def dataset(self) -> TensorDataset:
        return TensorDataset(*tensors(self.folder, self.name))

    def loader(self) -> DataLoader[Any]:
        return DataLoader(self.dataset(), batch_size=self.workload.batch_size, shuffle=True)


def dltrain(task: Task, precision: str = "fp32") -> None:
    """Train with the `dltrain` command in this process, with logs, progress, TensorBoard, metrics and result.json.

    Evaluation and checkpoints follow the last measured step.
    """
    import json

    from dltrain.cli import main
    from dltrain.training.step import StepRunner

    run_step = StepRunner.run

    def stamped(*args: Any, **kwargs: Any) -> None:
        run_step(*args, **kwargs)
        task.stamp()

    StepRunner.run = stamped  # type: ignore[method-assign]
    run = task.scratch / "run"
    code = main.main([*overrides(task, precision), f"hydra.run.dir={run}"])
    if code:
        raise SystemExit(code)
    result = json.loads((run / "result.json").read_text())
    task.seen = {"parameters": result["parameters"], "reported_samples_per_s": result["samples_per_second"]}


def overrides(task: Task, precision: str) -> list[str]:
    """Return the overrides of the command line."""
    return [
        *task.workload.overrides,
        f"data.path={data_path(task.folder, task.name)}",
        f"data.batch_size={task.workload.batch_size}",
        *(() if task.workload.example else ("optimizer=adam",)),
        f"optimizer.lr={task.workload.lr}",
        "device=cpu",
        f"device.precision={precision}",
        "trainer.epochs=100000",
        f"trainer.max_steps={task.steps}",
        "trainer.eval_every=100000 epochs",
        "trainer.checkpoint_every=100000 epochs",
    ]


def bare(task: Task, precision: str = "fp32") -> None:
    """Train with the workload's example loop if it has one, otherwise with the loop of PyTorch's tutorials."""
    if task.workload.example is not None:
        return task.workload.example(task)
    model, loss_of = task.model(), task.workload.loss
    optimizer = torch.optim.Adam(model.parameters(), lr=task.workload.lr)
    loader = task.loader()
    context = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()
    model.train()
    step = 0
    while step < task.steps:
        for inputs, targets in loader:
            optimizer.zero_grad()
            with context:
                loss = loss_of(model(inputs), targets)
            loss.backward()
            optimizer.step()
            step += 1
            task.stamp()
            if step % LOG_EVERY == 0:
                print(f"step {step} loss {loss.item():.4f}")
            if step == task.steps:
                break

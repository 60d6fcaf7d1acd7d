"""Overrides for small runs, and functions that read, copy and compare runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from dltrain.runs.launch import Outcome
from dltrain.storage.checkpoints import Checkpoints

STEPS = 20
IMAGES = [
    "model=cnn",
    "model.hidden_size=[16]",
    "model.blocks=[{channels: 4, pool: max}]",
    "regularization.dropout=0.2",
]
INTERVALS = [
    "trainer.max_steps=6",
    "trainer.log_every=2",
    "trainer.eval_every=3 steps",
    "trainer.checkpoint_every=1 epoch",
]
TEXT = ["model=gpt", "model.hidden_size=16", "model.num_heads=2", "model.num_layers=1", "regularization.dropout=0.1"]


def read(path: Path) -> Any:
    """Read JSON, and reject NaN and infinities, which are not valid JSON."""

    def reject_constant(token: str) -> None:
        raise AssertionError(f"{path}: {token} is not JSON")

    return json.loads(path.read_text(), parse_constant=reject_constant)


def lines(outcome: Outcome) -> list[dict[str, Any]]:
    """Return the records of ``metrics.jsonl`` without throughput and memory."""
    found = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(("throughput", "memory"))} for line in found]


def model_of(outcome: Outcome, name: str = "last.pt") -> dict[str, Tensor]:
    return Checkpoints(outcome.folder).load(name)["model"]


def interrupted(outcome: Outcome, step: int, folder: Path) -> Path:
    """Copy a run folder with only the checkpoints up to `step` and without a result; return the path of the copy."""
    shutil.copytree(outcome.folder, folder, symlinks=True)
    for file in (folder / "checkpoints").iterdir():
        if not file.name.startswith("step-") or int(file.stem.removeprefix("step-")) > step:
            file.unlink()
    (folder / "result.json").unlink()
    return folder


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def hashes(outcome: Outcome) -> dict[str, str]:
    return {name: Checkpoints(outcome.folder).read_entry(name)["sha256"] for name in ("last.pt", "best.pt")}


def events(outcome: Outcome) -> EventAccumulator:
    accumulator = EventAccumulator(str(outcome.folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator

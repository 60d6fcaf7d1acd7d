"""Small sweeps, and user models that fail in different ways."""

import csv
from pathlib import Path

SMALL = ["data.series=sunspots", "data.window=12", "data.horizon=3", "trainer.max_steps=4", "device=cpu"]
SMALL += ["trainer.log_media=false"]
USER_MODELS = ["--config-dir", "my_conf", "allow_targets=[failing_models]"]
DONE = ["-m", "model=perceptron,mlp", "seed=0", *SMALL]
MODELS = """
import os
import pathlib
import signal
import weakref

import torch

from dltrain.models.feedforward import MLP

ALIVE = weakref.WeakSet()

class Faulty(MLP):
    def __init__(self, size: int, outputs: int, hidden_size: int, fault: str = "none") -> None:
        super().__init__(size, outputs, hidden_size)
        ALIVE.add(self)
        with open("alive", "a") as file:
            print(fault, len(ALIVE), file=file)
        self.fault, self.steps = fault, 0

    def forward(self, inputs):
        found = super().forward(inputs)
        if torch.is_grad_enabled():
            self.steps += 1
        elif self.fault == "metric":
            return found * float("nan")
        return found * self.apply_fault() if self.steps == 3 else found

    def apply_fault(self) -> float:
        if self.fault == "raise":
            raise RuntimeError("the third step is broken")
        if self.fault == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 PiB")
        if self.fault in ("SIGTERM", "SIGINT") and not pathlib.Path("signalled").exists():
            pathlib.Path("signalled").touch()
            os.kill(os.getpid(), getattr(signal, self.fault))
        return float("nan") if self.fault == "loss" else 1.0

class Broken(torch.nn.Module):
    def __init__(self, outputs: int, hidden_size: int) -> None:
        raise OSError("the model is broken")

class Stopped(torch.nn.Module):
    def __init__(self, outputs: int, hidden_size: int) -> None:
        raise KeyboardInterrupt
"""


def write_models(folder: Path) -> None:
    """Write the user models and their YAML files."""
    (folder / "failing_models.py").write_text(MODELS)
    (folder / "my_conf" / "model").mkdir(parents=True)
    for name, more in (("Broken", ""), ("Stopped", ""), ("Faulty", "size: ${spec.size}\nfault: none\n")):
        text = f"_target_: failing_models.{name}\noutputs: ${{spec.outputs}}\nhidden_size: 8\n{more}"
        (folder / "my_conf" / "model" / f"{name.lower()}.yaml").write_text(text)


def summary_rows(home: Path, without: tuple[str, ...] = ("seconds",)) -> list[dict[str, str]]:
    """Return the rows of ``summary.csv`` without the columns `without`, with folder names instead of paths."""
    rows = list(csv.DictReader((home / "summary.csv").open()))
    return [{k: Path(v).name if k == "folder" else v for k, v in row.items() if k not in without} for row in rows]


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return the modification time and content of every file in a folder."""
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in folder.rglob("*")
        if file.is_file()
    }


def checkpoints(home: Path) -> dict[str, bytes]:
    """Return the last and the best checkpoint of each job."""
    names = [file for name in ("last.pt", "best.pt") for file in home.glob(f"*/checkpoints/{name}")]
    return {str(file.relative_to(home)): file.read_bytes() for file in names}

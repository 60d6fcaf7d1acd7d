"""What checkpoints cost the training loop, seen in one run of dltrain's whole command.

    python saving.py [--rounds N]

A checkpoint is due every 2 n steps: the n steps after it, during which a thread writes it, are compared with the n
steps that follow these. From what it costs the tiny MLP of `workloads.py` follows what the default, one per epoch,
costs; a network whose checkpoint has 100 MB tells what such a one costs beside a plain `torch.save` of the same content
to the same disk.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from systems import Task, words
from workloads import WORKLOADS, prepare

SMALL: dict[str, Any] = {"steps": 8_050, "half": 100, "overrides": []}
LARGE: dict[str, Any] = {"steps": 610, "half": 30, "overrides": ["model.hidden=2860", "model.depth=2"]}
SAVES = 7  # plain ones


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, "mlp")
        epoch = 51_200 // WORKLOADS["mlp"].batch
        for label, kind in (("tiny MLP", SMALL), ("100 MB", LARGE)):
            report(label, [child(folder, kind) for _ in range(options.rounds)], epoch)
    return 0


def report(label: str, rounds: list[dict[str, Any]], epoch: int) -> None:
    """One paragraph per network: medians over all checkpoints, with the quartiles."""
    costs = sorted(cost for found in rounds for cost in found["costs"])
    low, cost, high = (1000 * costs[len(costs) * part // 4] for part in (1, 2, 3))
    step = 1000 * statistics.median(found["step"] for found in rounds)
    plain = 1000 * statistics.median(found["plain"] for found in rounds)
    print(f"{label}: a step takes {step:.3f} ms, a checkpoint has {rounds[0]['bytes'] / 1e6:.1f} MB")
    print(f"  a checkpoint costs the loop {cost:.2f} ms (quartiles {low:.2f} and {high:.2f}, {len(costs)} checkpoints)")
    share = cost / (epoch * step)
    print(f"  plain torch.save {plain:.2f} ms: {cost / plain:.2f} times; one per epoch of {epoch} steps: {share:.2%}")


def child(folder: Path, kind: dict[str, Any]) -> dict[str, Any]:
    """One run in a fresh process."""
    call = [sys.executable, __file__, "--child", str(folder), json.dumps(kind)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def run(folder: Path, kind: dict[str, Any]) -> dict[str, Any]:
    """Train, and save the last checkpoint's content plainly."""
    from dltrain import cli
    from dltrain.optim import Optimizer

    stamps: list[float] = []
    step = Optimizer.step

    def stamped(*args: Any, **kwargs: Any) -> Any:
        norm = step(*args, **kwargs)
        stamps.append(time.perf_counter())
        return norm

    Optimizer.step = stamped  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        task = Task("mlp", folder, Path(scratch), kind["steps"])
        last = [f"trainer.checkpoint_every={2 * kind['half']}", f"hydra.run.dir={scratch}/run"]
        if code := cli.main([*words(task, "fp32"), *kind["overrides"], *last]):
            raise SystemExit(code)
        file = Path(scratch) / "run" / "checkpoints" / "last.pt"
        content = torch.load(file, weights_only=True)
        times = [plain(content, Path(scratch) / "plain.pt") for _ in range(SAVES)]
        size = file.stat().st_size
    return {
        "costs": costs_of(stamps[: kind["steps"]], kind["half"]),
        "step": statistics.median(later - sooner for sooner, later in itertools.pairwise(stamps)),
        "plain": statistics.median(times),
        "bytes": size,
    }


def costs_of(stamps: list[float], half: int) -> list[float]:
    """Seconds that each checkpoint took from training; the first stamps are left out.

    A step's stamp comes before its checkpoint, so the time from the stamp of a step with one is the time of the next.
    """
    cost = []
    for due in range(2 * half, len(stamps) - 2 * half, 2 * half):
        begun, middle, end = (stamps[due - 1 + steps] for steps in (0, half, 2 * half - 1))
        cost.append((middle - begun) - (end - middle) * half / (half - 1))
    return cost


def plain(content: Any, path: Path) -> float:
    begun = time.perf_counter()
    torch.save(content, path)
    return time.perf_counter() - begun


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(run(Path(sys.argv[2]), json.loads(sys.argv[3]))))
    else:
        sys.exit(main())

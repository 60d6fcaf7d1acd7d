"""What checkpoints cost the training loop: dltrain's whole command with and without them, interleaved.

    python saving.py [--rounds N]

The tiny MLP of `workloads.py` is asked for a checkpoint every 100 steps and for none; from the difference follows what
the default, one per epoch, costs. A network whose checkpoint has 100 MB tells what such a one costs beside a plain
`torch.save` of the same content to the same disk.
"""

import argparse
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

NEVER = "100000 epochs"
WARM = 100  # steps that are not measured
SMALL = {"steps": 6_400, "every": 100, "overrides": []}
LARGE = {"steps": 400, "every": 50, "overrides": ["model.hidden=2860", "model.depth=2"]}
SAVES = 7  # plain ones


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, "mlp")
        epoch = 51_200 // WORKLOADS["mlp"].batch
        for label, kind in (("tiny MLP", SMALL), ("100 MB", LARGE)):
            pairs = [
                (child(folder, kind, NEVER), child(folder, kind, f"{kind['every']} steps"))
                for _ in range(options.rounds)
            ]
            report(label, kind, pairs, epoch)
    return 0


def report(
    label: str, kind: dict[str, Any], pairs: list[tuple[dict[str, float], dict[str, float]]], epoch: int
) -> None:
    """One line per network: medians over the rounds, with their range."""
    count = (kind["steps"] - WARM) // kind["every"]
    costs = [1000 * (saving["seconds"] - quiet["seconds"]) / count for quiet, saving in pairs]
    step = statistics.median(1000 * quiet["seconds"] / (kind["steps"] - WARM) for quiet, _ in pairs)
    plain = statistics.median(1000 * saving["plain"] for _, saving in pairs)
    size = pairs[0][1]["bytes"] / 1e6
    cost = statistics.median(costs)
    print(f"{label}: a step takes {step:.3f} ms, a checkpoint has {size:.1f} MB")
    print(f"  a checkpoint costs the loop {cost:.2f} ms ({min(costs):.2f} to {max(costs):.2f})")
    share = cost / (epoch * step)
    print(f"  plain torch.save {plain:.2f} ms: {cost / plain:.2f} times; one per epoch of {epoch} steps: {share:.2%}")


def child(folder: Path, kind: dict[str, Any], every: str) -> dict[str, float]:
    """One run in a fresh process."""
    call = [sys.executable, __file__, "--child", str(folder), json.dumps(kind), every]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def run(folder: Path, kind: dict[str, Any], every: str) -> dict[str, float]:
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
        last = [f"trainer.checkpoint_every={every}", f"hydra.run.dir={scratch}/run"]
        if code := cli.main([*words(task, "fp32"), *kind["overrides"], *last]):
            raise SystemExit(code)
        file = Path(scratch) / "run" / "checkpoints" / "last.pt"
        content = torch.load(file, weights_only=True)
        times = [plain(content, Path(scratch) / "plain.pt") for _ in range(SAVES)]
        size = file.stat().st_size
    return {"seconds": stamps[kind["steps"] - 1] - stamps[WARM - 1], "plain": statistics.median(times), "bytes": size}


def plain(content: Any, path: Path) -> float:
    begun = time.perf_counter()
    torch.save(content, path)
    return time.perf_counter() - begun


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(run(Path(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4])))
    else:
        sys.exit(main())

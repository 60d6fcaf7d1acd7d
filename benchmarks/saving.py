"""Measure the training time lost to checkpoints, in runs of the complete dltrain command.

    python saving.py [--rounds N] [--only tiny|large]

Every second checkpoint is replaced by a plain `torch.save` of the state into a new file. Two times are measured for
each checkpoint and each plain save: the time for which the training loop is blocked, and the total training time lost.
There is a save every 9 n steps (n is ``part`` in `SMALL` and `LARGE`). The total is the time from the start of the save
to the end of the next n steps, minus the time of the n steps after them. It includes the work of other threads and of
the operating system: hashing, waiting for the disk, removing an older file. The file of a plain `torch.save` is removed
after these 2 n steps. Saves in the last 2 n steps of the run have no total, and the checkpoint after the last step is
not measured.
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
from systems import Task, overrides
from workloads import WORKLOADS, prepare

SMALL: dict[str, Any] = {"steps": 54_050, "part": 500, "overrides": []}
LARGE: dict[str, Any] = {"steps": 2_950, "part": 30, "overrides": ["model.hidden_size=2860", "model.num_layers=2"]}
KINDS = {"tiny": ("tiny MLP", SMALL), "large": ("100 MB", LARGE)}

CYCLE = 9  # steps from one save to the next, as a multiple of `part`
NAMES = ("checkpoint", "plain")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=KINDS, help="measure only this network")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent.parent / "outputs") as scratch:
        folder = Path(scratch)
        prepare(folder, "mlp")
        epoch = 51_200 // WORKLOADS["mlp"].batch_size
        for name in [options.only] if options.only else KINDS:
            label, kind = KINDS[name]
            report(label, [child(folder, kind) for _ in range(options.rounds)], epoch)
    return 0


def report(label: str, rounds: list[dict[str, Any]], epoch: int) -> None:
    """Print the measurements of a network: medians over all checkpoints, with quartiles."""
    step = 1000 * statistics.median(found["step"] for found in rounds)
    print(f"{label}: a step takes {step:.3f} ms, a checkpoint has {rounds[0]['bytes'] / 1e6:.1f} MB")
    for what in ("blocked", "in total"):
        ours, plain = (sorted(1000 * t for found in rounds for t in found[what][name]) for name in NAMES)
        for name, times in zip(NAMES, (ours, plain), strict=True):
            low, middle, high = statistics.quantiles(times, n=4)
            print(f"  {what:<12} {name:<10} {middle:8.2f} ms (quartiles {low:.2f} and {high:.2f}, n = {len(times)})")
        ratio, share = statistics.median(ours) / statistics.median(plain), statistics.median(ours) / (epoch * step)
        loss = f"{share:.2%} of the training time"
        print(f"  {'':<12} checkpoint / plain: {ratio:.2f}; one checkpoint per epoch of {epoch} steps: {loss}")


def child(folder: Path, kind: dict[str, Any]) -> dict[str, Any]:
    """Run one measurement in a new process."""
    call = [sys.executable, __file__, "--child", str(folder), json.dumps(kind)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def run(folder: Path, kind: dict[str, Any]) -> dict[str, Any]:
    """Train, with a plain `torch.save` as every second checkpoint, and return the measurements."""
    from dltrain.cli import main as cli
    from dltrain.optim.optimizer import Optimizer
    from dltrain.training.loop import Loop

    stamps: list[float] = []
    stopped: dict[str, list[float]] = {name: [] for name in NAMES}
    step, save = Optimizer.step, Loop.save
    part, every = kind["part"], CYCLE * kind["part"]

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        written = Path(scratch) / "plain.pt"

        def stamped(*args: Any, **kwargs: Any) -> Any:
            norm = step(*args, **kwargs)
            stamps.append(time.perf_counter())
            if len(stamps) % every == 2 * part:
                written.unlink(missing_ok=True)
            return norm

        def alternating(loop: Loop, best: bool = False) -> None:
            if loop.state.step == kind["steps"]:
                return save(loop, best)
            begun, ours = time.perf_counter(), loop.state.step // every % 2 == 1
            if ours:
                save(loop, best)
            else:
                torch.save(loop.checkpointer.state_dict(loop.state), written)
            stopped[NAMES[not ours]].append(time.perf_counter() - begun)

        Optimizer.step, Loop.save = stamped, alternating  # type: ignore[method-assign, assignment]
        task = Task("mlp", folder, Path(scratch), kind["steps"])
        last = [f"trainer.checkpoint_every={every}", f"hydra.run.dir={scratch}/run"]
        if code := cli.main([*overrides(task, "fp32"), *kind["overrides"], *last]):
            raise SystemExit(code)
        size = (Path(scratch) / "run" / "checkpoints" / "last.pt").stat().st_size
    costs = costs_of(stamps[: kind["steps"]], part)
    steps = statistics.median(later - sooner for sooner, later in itertools.pairwise(stamps))
    lost = {"checkpoint": costs[::2], "plain": costs[1::2]}
    return {"blocked": stopped, "in total": lost, "step": steps, "bytes": size}


def costs_of(stamps: list[float], part: int) -> list[float]:
    """Return the training time lost to each checkpoint and plain save, in seconds.

    The end of a step is recorded before its save, so the time of the save is part of the next step.
    """
    cost = []
    for due in range(CYCLE * part, len(stamps) - 2 * part, CYCLE * part):
        begun, middle, end = (stamps[due - 1 + steps] for steps in (0, part, 2 * part))
        cost.append((middle - begun) - (end - middle))
    return cost


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(run(Path(sys.argv[2]), json.loads(sys.argv[3]))))
    else:
        sys.exit(main())

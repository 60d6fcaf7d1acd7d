"""Draw docs/curves.png and docs/terminal.svg from a run: python docs/pictures.py RUN."""

import json
import subprocess
import sys
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console

HERE = Path(__file__).parent


def curves(run: Path) -> None:
    """Draw training loss and validation error over the steps, with the best baseline on the validation split."""
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    command = [sys.executable, "-m", "dltrain", "evaluate", str(run), "--split", "val", "--json"]
    figures = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    figure = Figure(figsize=(9, 3), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    train = [(e["step"], e["loss"]) for e in events if e["split"] == "train"]
    val = [(e["step"], e["mae"]) for e in events if e["split"] == "val"]
    left.semilogy(*zip(*train, strict=True), color="tab:blue")
    left.set(title="loss/train", xlabel="step")
    right.plot(*zip(*val, strict=True), color="tab:orange", label="LSTM")
    name, best = min(figures["baselines"].items(), key=lambda item: item[1]["mae"])
    right.axhline(best["mae"], color="gray", linestyle="--", label=name)
    right.set(title="mae/val, ppm", xlabel="step", ylim=(0.9 * best["mae"], 2 * best["mae"]))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.savefig(HERE / "curves.png")


def terminal(run: Path) -> None:
    """Draw docs/terminal.svg: the run's log without times, with only its first three epochs and its last one."""
    lines = [line[20:] for line in (run / "train.log").read_text().splitlines()]
    lines = [line.replace(str(run.parents[2]) + "/", "") for line in lines]
    epochs = [number for number, line in enumerate(lines) if line.startswith("epoch ")]
    shown = [line for number, line in enumerate(lines) if number not in epochs[3:-1]]
    console = Console(record=True, width=110, file=(HERE / "terminal.svg").open("w"))
    console.print("$ dltrain", style="bold")
    console.print("\n".join(shown), highlight=False)
    console.file.close()
    console.save_svg(str(HERE / "terminal.svg"), title="dltrain")


if __name__ == "__main__":
    curves(Path(sys.argv[1]).resolve())
    terminal(Path(sys.argv[1]).resolve())

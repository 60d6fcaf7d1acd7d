"""Random tables and short training runs."""

import csv
from pathlib import Path

import numpy as np
from prediction_examples import SHORT

from dltrain.cli.main import main
from dltrain.datasets.table import CsvTable

LINEAR = ["model=perceptron", "optimizer.lr=0.01", "regularization=none"]
COLORS = ["password", "red", "token"]  # values of cells, not names of keys, so they are not masked


def train(folder: Path, *overrides: str) -> Path:
    assert main([*SHORT, *overrides, f"hydra.run.dir={folder / 'run'}"]) == 0
    return folder / "run"


def write_table(path: Path, rows: int, seed: int, shift: float = 0.0) -> list[dict[str, str]]:
    """Write a table with two numeric columns, a column of words and two target columns; return its rows."""
    random = np.random.default_rng(seed)
    lines = []
    for number in random.normal(shift, 3, size=rows):
        color, weight = COLORS[random.integers(3)], 50 + 10 * random.normal()
        kind = "even" if number + random.normal() > shift else "odd"
        price = f"{3 * number + weight + 7 * (color == 'red'):.4f}"
        lines.append({"api_key": f"{number:.4f}", "color": color, "weight": f"{weight:.3f}", "kind": kind})
        lines[-1]["price"] = price
    with path.open("w") as file:
        writer = csv.DictWriter(file, lines[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return lines


def table_run(folder: Path, column: str) -> tuple[Path, list[dict[str, str]]]:
    """Train on a table and delete it. Return the run folder and the training rows."""
    path = folder / "train.csv"
    lines = write_table(path, 60, seed=0)
    other = "price" if column == "kind" else "kind"
    task = "classification" if column == "kind" else "regression"
    data = ["data=csv", f"data.path={path}", f"data.column={column}", f"data.ignore=[{other}]", f"task={task}"]
    run = train(folder, *LINEAR, *data)
    rows = CsvTable(str(path), column, ignore=[other]).parts[0].tolist()
    path.unlink()
    return run, [lines[row] for row in rows]

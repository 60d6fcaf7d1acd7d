"""Whole runs with weights for unbalanced classes, and the scores of each class."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_examples import read

from dltrain.cli.main import main
from dltrain.config import compose
from dltrain.runs import dry_run
from dltrain.runs.assemble import build_components
from dltrain.runs.launch import Outcome

FEW = ["model.hidden_size=8", "trainer.max_steps=2"]


@pytest.fixture
def unbalanced(tmp_path: Path) -> list[str]:
    """Return overrides for a table with 60 rows of one class and 20 of another."""
    rows = [f"{number % 7},{number % 5},{'many' if number % 4 else 'few'}" for number in range(80)]
    (tmp_path / "table.csv").write_text("\n".join(["a,b,kind", *rows]) + "\n")
    return ["model=mlp", "data=csv", f"data.path={tmp_path / 'table.csv'}", "data.batch_size=16"]


def test_a_run_weights_its_classes_and_stores_the_scores_of_each_class(
    train: Callable[..., Outcome], unbalanced: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(*unbalanced, *FEW, "task.class_weights=balanced")
    assert "class weights: few 2, many 0.667" in (run.folder / "train.log").read_text()
    scores = read(run.folder / "result.json")["per_class"]
    assert list(scores) == ["few", "many"] and set(scores["few"]) == {"precision", "recall", "f1", "examples"}
    capsys.readouterr()
    assert main(["evaluate", str(run.folder), "--json", "device=cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["per_class"] == scores


def test_the_targets_of_image_files_are_known_without_decoding_images(tmp_path: Path) -> None:
    for number in range(40):
        folder = tmp_path / "pictures" / ("red" if number % 4 else "blue")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(folder / f"{number}.png")
    path = f"data.path={tmp_path / 'pictures'}"
    job = compose.compose(["model=cnn", "data=image_folder", path, "task.class_weights=balanced", "device=cpu"])
    components = build_components(job)
    splits = components.data.load()
    for file in (tmp_path / "pictures").rglob("*.png"):
        file.write_bytes(b"")
    (targets,) = dry_run.training_targets(components, splits)
    expected = [label for _, label in splits.train.rows.listing]
    assert targets.tolist() == expected and set(expected) == {0, 1}


@pytest.mark.parametrize("weights", ["none", "[1.0]"])
def test_invalid_class_weights_are_rejected_before_a_run_folder_is_created(
    weights: str,
    unbalanced: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*unbalanced, f"task.class_weights={weights}", "device=cpu"]) == 2
    assert "task.class_weights: expected balanced, or 2 finite numbers" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "outputs").exists()

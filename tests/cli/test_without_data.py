"""Predict and generate without the training data, with the stored normalization, vocabulary and classes.

Only autoencoders without a prior need the training data, because they sample from the codes of training examples.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from own_data import table_run, train, write_table
from prediction_examples import Predict

from dltrain.cli.main import main


@pytest.mark.parametrize(
    "kind",
    [
        *("csv", "npz", "image_folder", "image_masks", "detection_folder", "mnist"),
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("digits", "ring")),  # no files to delete
    ],
)
def test_predictions_are_the_same_without_the_training_data(
    kind: str, small_data: Callable[[str], list[str]], predict: Predict, tmp_path: Path
) -> None:
    overrides = small_data(kind)
    data_override = next((word for word in overrides if word.startswith(("data.path=", "data.root="))), None)
    new = tmp_path / "new.npy"
    if data_override is not None:
        key, _, path = data_override.partition("=")
        moved = tmp_path / Path(path).name
        (shutil.copytree if Path(path).is_dir() else shutil.copy)(path, moved)
        overrides = [f"{key}={moved}" if word == data_override else word for word in overrides]
    sizes = dict.fromkeys(("image_folder", "image_masks"), (5, 16, 16, 3)) | {"npz": (5, 12, 12)}
    sizes["detection_folder"] = (5, 32, 32, 3)
    sizes |= {"mnist": (5, 28, 28), "digits": (5, 8, 8)}
    random = np.random.default_rng(0)
    if kind == "csv":
        new = tmp_path / "new.csv"
        new.write_text("".join(moved.read_text().splitlines(keepends=True)[:6]))
    elif kind == "ring":
        np.save(new, random.normal(size=(5, 2)).astype(np.float32))
    else:
        np.save(new, random.integers(0, 17 if kind == "digits" else 256, sizes[kind], dtype=np.uint8))
    models = {"image_masks": ["model=unet", "model.hidden_size=[4,8]"]}
    models["detection_folder"] = ["model=fcos", "model.backbone=narrow", "model.fpn_width=32", "task.min_score=0"]
    model = models.get(kind, ["model=perceptron"])
    run = train(tmp_path, *model, *overrides)
    before = predict(run, new)
    assert before.code == 0, before.err
    if data_override is not None:
        (shutil.rmtree if moved.is_dir() else Path.unlink)(moved)
    after = predict(run, new)
    assert (after.code, after.out) == (0, before.out) and len(after.lines) == 5


def test_examples_are_generated_without_the_training_data(
    small_data: Callable[[str], list[str]], own_files: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copy(own_files["npz"], tmp_path / "a.npz")
    data = ["data=npz", f"data.path={tmp_path / 'a.npz'}", "data.batch_size=16"]
    run = train(tmp_path, "model=vae", "model.hidden_size=8", *data)
    np.save(tmp_path / "new.npy", np.zeros((3, 12, 12), dtype=np.uint8))
    (tmp_path / "a.npz").unlink()
    assert main(["generate", str(run), "--count", "4", "--out", str(tmp_path / "a.png")]) == 0
    given = ["--given", str(tmp_path / "new.npy")]
    assert main(["generate", str(run), *given, "--out", str(tmp_path / "b.png")]) == 0


def test_generating_from_the_codes_of_training_examples_needs_the_training_data(
    own_files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(own_files["npz"], tmp_path / "a.npz")
    data = ["data=npz", f"data.path={tmp_path / 'a.npz'}", "data.batch_size=16"]
    run = train(tmp_path, "model=autoencoder", "model.hidden_size=8", *data)
    assert main(["generate", str(run), "--count", "4", "--out", str(tmp_path / "a.png")]) == 0
    (tmp_path / "a.npz").unlink()
    assert main(["generate", str(run), "--count", "4", "--out", str(tmp_path / "b.png")]) == 2
    assert "The run's own data are needed" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run_on_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run on a table. Do not modify it."""
    return table_run(tmp_path_factory.mktemp("table"), "kind")[0]


@pytest.mark.parametrize("damage", ["missing", "truncated", "changed", "replaced"])
def test_missing_or_damaged_fitted_values_are_rejected(
    damage: str, run_on_table: Path, predict: Predict, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(run_on_table, tmp_path / "run", symlinks=True))
    write_table(tmp_path / "new.csv", 3, seed=2)
    assert predict(run, tmp_path / "new.csv").code == 0
    file = run / "fitted.pt"
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(content[:-50])
    elif damage == "changed":
        file.write_bytes(content.replace(b"weight", b"height"))
    else:
        torch.save({"format": 1, "data": {"columns": 3}}, file)
        manifest = run / "checkpoints" / "manifest.json"
        entries = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({name: {**e, "fitted": None} for name, e in entries.items()}))
    result = predict(run, tmp_path / "new.csv")
    expected = "fitted.pt: missing" if damage == "missing" else "fitted.pt: rejected"
    assert result.code == 5 and expected in result.err and "Traceback" not in result.err

"""User-provided images and arrays: training, errors and predictions."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dltrain.cli.main import main

SHORT = ["device=cpu", "trainer.log_media=false", "trainer.epochs=1", "data.batch_size=8"]


def paint(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    random = np.random.default_rng(count)
    for number in range(count):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    return folder


def train(folder: Path, *overrides: str) -> int:
    return main([*overrides, *SHORT, f"hydra.run.dir={folder / 'run'}"])


@pytest.mark.parametrize("layout", ["cat", "train/cat", "Training/cat"])
def test_images_of_a_single_class_are_rejected_for_classification(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paint(tmp_path / "pictures" / layout, 20)
    own = ["data=image_folder", f"data.path={tmp_path / 'pictures'}", "data.image_size=8", "data.workers=0"]
    assert train(tmp_path, "model=mlp", *own) == 2
    assert "data: expected at least two classes, got one: cat" in capsys.readouterr().err


def test_images_of_a_single_class_are_accepted_for_generation(tmp_path: Path) -> None:
    paint(tmp_path / "pictures" / "train" / "cat", 20)
    own = ["data=image_folder", f"data.path={tmp_path / 'pictures'}", "data.image_size=8", "data.workers=0"]
    assert train(tmp_path, "model=vae", "model.hidden_size=8", *own) == 0


@pytest.mark.parametrize("scale", [1, 255])
def test_predictions_use_the_labels_and_scale_of_the_training_data(
    scale: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    y = np.arange(40) % 2
    x = (np.random.default_rng(0).random((40, 1, 4, 4)) / 4 + 0.6 * y[:, None, None, None]).clip(0, 1) * scale
    y = np.array([3, 7])[y]
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    own = ["model=mlp", "data=npz", f"data.path={tmp_path / 'a.npz'}"]
    assert train(tmp_path, *own, "trainer.epochs=20", "optimizer.lr=1e-2") == 0
    np.save(tmp_path / "new.npy", x[:6])
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "new.npy")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["class_name"] for line in lines] == list(map(str, y[:6])) and set(lines[0]["probabilities"]) == {
        "3",
        "7",
    }
    np.save(tmp_path / "new.npy", x[:6] * (255 if scale == 1 else 1 / 255))
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "new.npy")]) == 2
    assert f"INPUT 1: expected floats from 0 to {scale}" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["accuracy"] == 1


def test_integral_float_labels_are_classes_except_with_task_regression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).normal(size=(40, 3))
    y = np.arange(40) % 4 + 1.0
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    own = ["model=mlp", "data=npz", f"data.path={tmp_path / 'a.npz'}"]
    assert train(tmp_path / "classes", *own) == 0 and "accuracy" in capsys.readouterr().out
    assert train(tmp_path / "numbers", *own, "task=regression") == 0 and "mae" in capsys.readouterr().out


def test_predict_ignores_hidden_folders_and_follows_links(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cat", "dog"):
        paint(tmp_path / "pictures" / name, 10)
    own = ["data=image_folder", f"data.path={tmp_path / 'pictures'}", "data.image_size=8", "data.workers=0"]
    assert train(tmp_path, "model=mlp", *own) == 0
    new = paint(tmp_path / "new", 2)
    for hidden in (".ipynb_checkpoints", "__MACOSX", "deep/.cache"):
        paint(new / hidden, 1)
    paint(tmp_path / "elsewhere", 3)
    (new / "more").symlink_to(tmp_path / "elsewhere")
    (new / "circle").symlink_to(".")
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), str(new)]) == 0
    names = [json.loads(line)["input"] for line in capsys.readouterr().out.splitlines()]
    assert names == [str(new / name) for name in ("00.png", "01.png", "more/00.png", "more/01.png", "more/02.png")]

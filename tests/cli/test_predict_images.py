"""``dltrain predict`` on images: predictions equal those of the model for the same tensors."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from prediction_examples import Predict, Small, Train, outputs_of, rebuilt

from dltrain.storage.checkpoints import Checkpoints

# Data option -> factor from stored values to bytes.
PNG = {"digits": 255 / 16, "mnist": 1, "fashion_mnist": 1, "cifar10": 1, "npz": 1}


@pytest.mark.parametrize("option", PNG)
def test_image_files_of_test_examples_are_classified_as_in_the_test_split(
    option: str, train: Train, predict: Predict, small: Small, tmp_path: Path
) -> None:
    folder = train("model=mlp", *small(option))
    known = rebuilt(folder)
    rows = known.made.data.load().test.rows
    for number, pixels in enumerate(rows["pixels"][:12]):
        bytes_ = (pixels.double() * PNG[option]).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(bytes_.squeeze()).save(tmp_path / f"{number:02}.png")
    said = predict(folder, tmp_path).lines
    assert [Path(line["input"]).name for line in said] == [f"{number:02}.png" for number in range(12)]
    shares = outputs_of(known)[:12].softmax(1)
    names = known.made.data.spec.class_names
    for line, wanted in zip(said, shares, strict=True):
        assert list(line["probabilities"]) == list(names)
        assert list(line["probabilities"].values()) == pytest.approx(wanted.tolist(), rel=1e-5)
        assert line["class"] == int(wanted.argmax()) and line["class_name"] == names[line["class"]]
        assert line["probability"] == max(line["probabilities"].values())


def test_files_in_folders_by_class_are_classified_as_in_the_test_split(
    train: Train, predict: Predict, tmp_path: Path
) -> None:
    random = np.random.default_rng(2)
    for number in range(24):
        folder = tmp_path / ("test" if number % 3 else "train") / ("red" if number % 2 else "blue")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    typed = [f"data.path={tmp_path}", "data.image_size=16", "data.workers=0", "data.batch_size=4"]
    run_folder = train("model=mlp", "data=image_folder", *typed)
    said = predict(run_folder, tmp_path / "test").lines
    assert len(said) == 16
    assert [line["input"] for line in said] == sorted(map(str, (tmp_path / "test").rglob("*.png")))
    found = torch.tensor([list(line["probabilities"].values()) for line in said])
    assert torch.allclose(found, outputs_of(rebuilt(run_folder)).softmax(1), rtol=1e-5)
    assert {line["class_name"] for line in said} <= {"blue", "red"}


def test_arrays_are_classified_as_image_files(train: Train, predict: Predict, small: Small, tmp_path: Path) -> None:
    folder = train("model=mlp", *small("mnist"))
    known = rebuilt(folder)
    pixels = known.made.data.load().test.rows["pixels"].numpy()
    np.save(tmp_path / "four_axes.npy", pixels)
    np.savez(tmp_path / "three_axes.npz", x_test=pixels[:, 0], y_test=np.zeros(len(pixels)))
    np.save(tmp_path / "one.npy", pixels[3, 0])
    wanted = outputs_of(known).softmax(1).max(1).values.tolist()
    for name in ("four_axes.npy", "three_axes.npz"):
        lines = predict(folder, tmp_path / name, "--batch", 7).lines
        assert [line["probability"] for line in lines] == pytest.approx(wanted, rel=1e-5)
        assert lines[2]["input"] == f"{tmp_path / name}[2]"
    (line,) = predict(folder, "-", stdin=(tmp_path / "one.npy").read_bytes()).lines
    assert line["probability"] == pytest.approx(wanted[3], rel=1e-5) and line["input"] == "-[0]"


def test_top_limits_the_classes_in_json_and_csv(train: Train, predict: Predict, small: Small, tmp_path: Path) -> None:
    folder = train("model=mlp", *small("cifar10"))
    random = np.random.default_rng(0)
    for number in range(3):
        pixels = random.integers(0, 256, (50, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    whole = predict(folder, tmp_path).lines
    top = predict(folder, tmp_path, "--top", 3).lines
    table = list(csv.DictReader(io.StringIO(predict(folder, tmp_path, "--top", 3, "--format", "csv").out)))
    for line, short, row in zip(whole, top, table, strict=True):
        wanted = sorted(line["probabilities"].items(), key=lambda item: -item[1])[:3]
        assert list(short["probabilities"].items()) == wanted
        cells = {name: row[f"probabilities.{name}"] for name in line["probabilities"]}
        assert {name: float(cell) for name, cell in cells.items() if cell} == dict(wanted)
        assert row["class_name"] == line["class_name"] == wanted[0][0]


def test_predictions_use_averaged_weights(train: Train, predict: Predict, small: Small, tmp_path: Path) -> None:
    folder = train("model=mlp", *small("digits"), "regularization.ema_decay=0.5", "optimizer.lr=0.05")
    averaged, live = (rebuilt(folder, weights=name) for name in ("average", "model"))
    np.save(tmp_path / "x.npy", averaged.made.data.load().test.rows["pixels"].numpy())
    said = [line["probability"] for line in predict(folder, tmp_path / "x.npy").lines]
    assert said == pytest.approx(outputs_of(averaged).softmax(1).max(1).values.tolist(), rel=1e-5)
    assert said != pytest.approx(outputs_of(live).softmax(1).max(1).values.tolist(), rel=1e-2)


def test_checkpoint_selects_best_or_last(train: Train, predict: Predict, small: Small, tmp_path: Path) -> None:
    # At this learning rate the loss diverges after the first step, so that best and last differ.
    spans = ["trainer.max_steps=3", "trainer.eval_every=1 steps", "trainer.checkpoint_every=1 steps"]
    folder = train("model=mlp", *small("timeseries"), *spans, "optimizer=sgd", "optimizer.lr=10")
    steps = {name: Checkpoints(folder).load(f"{name}.pt")["loop"]["step"] for name in ("best", "last")}
    assert steps["best"] < steps["last"]
    said = {name: predict(folder, "--checkpoint", name) for name in steps}
    assert said["best"].out != said["last"].out
    assert all(f"of step {step}" in said[name].err for name, step in steps.items())

"""``dltrain predict`` on images: predictions equal the model's outputs; ``--top`` and ``--checkpoint``."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from prediction_examples import Predict, SmallData, Train, outputs_of, rebuilt

from dltrain.storage.checkpoints import Checkpoints

# Factors that convert the stored pixels of each data option to bytes.
PNG = {"digits": 255 / 16, "mnist": 1, "fashion_mnist": 1, "cifar10": 1, "npz": 1}


@pytest.mark.parametrize("option", PNG)
def test_image_files_of_test_examples_are_classified_as_in_the_test_split(
    option: str, train: Train, predict: Predict, small_data: SmallData, tmp_path: Path
) -> None:
    folder = train("model=mlp", *small_data(option))
    known = rebuilt(folder)
    rows = known.components.data.load().test.rows
    for number, pixels in enumerate(rows["pixels"][:12]):
        bytes_ = (pixels.double() * PNG[option]).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(bytes_.squeeze()).save(tmp_path / f"{number:02}.png")
    predictions = predict(folder, tmp_path).lines
    assert [Path(line["input"]).name for line in predictions] == [f"{number:02}.png" for number in range(12)]
    shares = outputs_of(known)[:12].softmax(1)
    names = known.components.data.spec.class_names
    for line, expected in zip(predictions, shares, strict=True):
        assert list(line["probabilities"]) == list(names)
        assert list(line["probabilities"].values()) == pytest.approx(expected.tolist(), rel=1e-5)
        assert line["class"] == int(expected.argmax()) and line["class_name"] == names[line["class"]]
        assert line["probability"] == max(line["probabilities"].values())


def test_image_files_in_class_folders_are_classified_as_in_the_test_split(
    train: Train, predict: Predict, tmp_path: Path
) -> None:
    random = np.random.default_rng(2)
    for number in range(24):
        folder = tmp_path / ("test" if number % 3 else "train") / ("red" if number % 2 else "blue")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    overrides = [f"data.path={tmp_path}", "data.image_size=16", "data.workers=0", "data.batch_size=4"]
    run_folder = train("model=mlp", "data=image_folder", *overrides)
    predictions = predict(run_folder, tmp_path / "test").lines
    assert len(predictions) == 16
    assert [line["input"] for line in predictions] == sorted(map(str, (tmp_path / "test").rglob("*.png")))
    found = torch.tensor([list(line["probabilities"].values()) for line in predictions])
    assert torch.allclose(found, outputs_of(rebuilt(run_folder)).softmax(1), rtol=1e-5)
    assert {line["class_name"] for line in predictions} <= {"blue", "red"}


def test_arrays_of_images_are_classified_like_the_test_split(
    train: Train, predict: Predict, small_data: SmallData, tmp_path: Path
) -> None:
    folder = train("model=mlp", *small_data("mnist"))
    known = rebuilt(folder)
    pixels = known.components.data.load().test.rows["pixels"].numpy()
    np.save(tmp_path / "four_axes.npy", pixels)
    np.savez(tmp_path / "three_axes.npz", x_test=pixels[:, 0], y_test=np.zeros(len(pixels)))
    np.save(tmp_path / "one.npy", pixels[3, 0])
    expected = outputs_of(known).softmax(1).max(1).values.tolist()
    for name in ("four_axes.npy", "three_axes.npz"):
        lines = predict(folder, tmp_path / name, "--batch", 7).lines
        assert [line["probability"] for line in lines] == pytest.approx(expected, rel=1e-5)
        assert lines[2]["input"] == f"{tmp_path / name}[2]"
    (line,) = predict(folder, "-", stdin=(tmp_path / "one.npy").read_bytes()).lines
    assert line["probability"] == pytest.approx(expected[3], rel=1e-5) and line["input"] == "-[0]"


def test_top_limits_the_classes_in_json_and_csv(
    train: Train, predict: Predict, small_data: SmallData, tmp_path: Path
) -> None:
    folder = train("model=mlp", *small_data("cifar10"))
    random = np.random.default_rng(0)
    for number in range(3):
        pixels = random.integers(0, 256, (50, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    whole = predict(folder, tmp_path).lines
    top = predict(folder, tmp_path, "--top", 3).lines
    table = list(csv.DictReader(io.StringIO(predict(folder, tmp_path, "--top", 3, "--format", "csv").out)))
    for line, short, row in zip(whole, top, table, strict=True):
        expected = sorted(line["probabilities"].items(), key=lambda item: -item[1])[:3]
        assert list(short["probabilities"].items()) == expected
        cells = {name: row[f"probabilities.{name}"] for name in line["probabilities"]}
        assert {name: float(cell) for name, cell in cells.items() if cell} == dict(expected)
        assert row["class_name"] == line["class_name"] == expected[0][0]


def test_predictions_use_averaged_weights(
    train: Train, predict: Predict, small_data: SmallData, tmp_path: Path
) -> None:
    folder = train("model=mlp", *small_data("digits"), "regularization.ema_decay=0.5", "optimizer.lr=0.05")
    averaged, live = (rebuilt(folder, weights=name) for name in ("average", "model"))
    np.save(tmp_path / "x.npy", averaged.components.data.load().test.rows["pixels"].numpy())
    reported = [line["probability"] for line in predict(folder, tmp_path / "x.npy").lines]
    assert reported == pytest.approx(outputs_of(averaged).softmax(1).max(1).values.tolist(), rel=1e-5)
    assert reported != pytest.approx(outputs_of(live).softmax(1).max(1).values.tolist(), rel=1e-2)


def test_checkpoint_selects_best_or_last(train: Train, predict: Predict, small_data: SmallData, tmp_path: Path) -> None:
    # At this learning rate the loss diverges after the first step, so the best and the last checkpoint differ.
    spans = ["trainer.max_steps=3", "trainer.eval_every=1 steps", "trainer.checkpoint_every=1 steps"]
    folder = train("model=mlp", *small_data("timeseries"), *spans, "optimizer=sgd", "optimizer.lr=10")
    steps = {name: Checkpoints(folder).load(f"{name}.pt")["loop"]["step"] for name in ("best", "last")}
    assert steps["best"] < steps["last"]
    results = {name: predict(folder, "--checkpoint", name) for name in steps}
    assert results["best"].out != results["last"].out
    assert all(f"step {step}" in results[name].err for name, step in steps.items())
